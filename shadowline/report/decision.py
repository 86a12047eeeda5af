"""The record of one decision as a page for people: two sides of A4, self-contained, to be printed and signed.

page = build_page(record, entry, public_key, Picture(image, overlay))
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from PIL import Image, ImageOps

from shadowline.audit.inspection import DecisionOutcome, InspectionRecord, digest
from shadowline.data.labels import Label
from shadowline.records.audit_log.entry import Entry
from shadowline.report.build import environment
from shadowline.report.gallery import data_uri

SIDE = 900  # pixels, longer side of a picture: 250 a inch over half a page
MAX_BYTES = 400_000  # of one JPEG

_VERDICTS = {
    DecisionOutcome.IDENTICAL: "Shown again, the model gives the same score, bit for bit.",
    DecisionOutcome.ROUNDING: "Shown again, the model decides the same; its score differs by rounding.",
    DecisionOutcome.DIFFERENT: "Shown again, the part does not come out the same.",
    DecisionOutcome.IMPOSSIBLE: "The decision cannot be shown again.",
    DecisionOutcome.NOT_ASKED: "The part was not scored again for this record.",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """The part as it was photographed, and under its heat map."""

    image: Image.Image | None
    overlay: Image.Image | None
    caption: str  # of the overlay


def build_page(record: InspectionRecord, entry: Entry, public_key: str, picture: Picture) -> str:
    """HTML without scripts and without anything from outside; all that comes from data is escaped."""
    return (
        environment()
        .get_template("decision.html.j2")
        .render(
            record=record,
            stopped=record.decision.decision is Label.ANOMALOUS,
            verdict=_VERDICTS[record.rerun.outcome],
            reasons=_reasons(record),
            entries=_entries(record, entry),
            record_sha256=digest(record.to_dict()),
            public_key=public_key,
            image=data_uri(_shown(picture.image), MAX_BYTES),
            overlay=data_uri(_shown(picture.overlay), MAX_BYTES),
            caption=picture.caption,
            time=_time,
        )
    )


def _reasons(record: InspectionRecord) -> tuple[str, ...]:
    """The problems of the record, each once."""
    against = record.rerun.outcome in {DecisionOutcome.DIFFERENT, DecisionOutcome.IMPOSSIBLE}
    return tuple(dict.fromkeys((*record.calibration.problems, *([record.rerun.reason] if against else []))))


def _entries(record: InspectionRecord, entry: Entry) -> list[tuple[str, object]]:
    return [
        ("Registration of the model", record.registration),
        ("Phase of the class", record.phase),
        ("This record", entry),
    ]


def _shown(image: Image.Image | None) -> Image.Image | None:
    return ImageOps.contain(image, (SIDE, SIDE), Image.Resampling.LANCZOS) if image else None


def _time(text: str) -> str:
    """An ISO 8601 time in readable form."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC" if text else ""
