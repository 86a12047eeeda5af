"""Draw a decision record: find the pair, its model and its image, and score the image again.

    drawn = draw_decision(DecisionQuery("line-7.0042"), Layout(), limits, now, Path("out"))
    drawn.record.confirmed, drawn.folder        # record.json, page.html, heatmap.png

Only the model with the fingerprint that the pair names is used (tasks/audit/decision_model.py), and only the image
with the pair's hash.
"""

from __future__ import annotations

import hashlib
import platform
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from shadowline.audit.decision import DecisionEvidence, build_record, compare, decision_of
from shadowline.audit.inspection import DecisionOutcome, HeatMap, InspectionRecord, ModelStatement, Rerun, digest
from shadowline.core.atomic_files import replace_file, write_json
from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import CLASS_NAME_PATTERN, DataParams
from shadowline.data.bit_depth import DecodedImage, viewable
from shadowline.data.images import decode_image, read_bounded
from shadowline.data.manifest import content_id
from shadowline.enrolment.inbox import Inbox
from shadowline.inference.overlay import heatmap_overlay
from shadowline.inference.routing import traffic_bucket
from shadowline.inference.scoring import Heatmap, InspectionResult, ScoringError, score_all, scorer_of
from shadowline.inference.scoring import InspectionRequest as Asked
from shadowline.models.detector import Detector
from shadowline.models.inspector_detector import CandidateDetector
from shadowline.records.audit_log.entry import Entry, EntryKind, Record
from shadowline.records.pair import Pair
from shadowline.records.stores import Records, open_records
from shadowline.records.traces import StoredPair, labels_of, pairs_of_trace
from shadowline.report.decision import Picture, build_page
from tasks.audit.decision_model import DecisionModel, load_deciding

DRAWER = "audit decision"  # the author of the entry in the audit log
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_COOL = 0.97  # share of a legacy model's map that stays without colour
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DecisionQuery:
    """Which decision is to be shown, and what the caller knows of it."""

    trace_id: str
    class_name: str = ""  # needed where pairs of several classes carry the trace id
    image: Path | None = None
    part: str = ""  # the part's number
    rerun: bool = True


@dataclass(frozen=True)
class DecisionReport:
    """The record, its entry in the audit log, and the folder of its files."""

    record: InspectionRecord
    entry: Entry
    folder: Path

    def to_dict(self) -> dict[str, object]:
        """What record.json holds."""
        record = self.record.to_dict()
        return {"record": record, "record_sha256": digest(record), "entry": self.entry.to_dict()}


@dataclass(frozen=True, eq=False)
class _Again:
    """The image scored again, and where the model saw it."""

    rerun: Rerun
    image: Image.Image | None = None
    overlay: Image.Image | None = None
    caption: str = ""  # of the overlay


def draw_decision(
    question: DecisionQuery, layout: Layout, limits: DataParams, now: datetime, out: Path
) -> DecisionReport:
    """Make the record, append its hash to the audit log, and write the files into a folder below `out`.

    Raises ValueError where no pair or more than one fits the trace id, and FileNotFoundError for a missing image,
    unless no re-run is asked for.
    """
    records = open_records()
    stored, several = _choose(question, pairs_of_trace(records.pairs.engine, question.trace_id))
    data = _find_image(stored.pair, question, layout, limits)
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_deciding(stored, records, Path(scratch) / "restored")
        again = _score_again(stored, loaded, data, limits, asked=question.rerun)
    record = build_record(_case(question, stored, loaded, records), again.rerun, now)
    entry = _put_on_chain(record, records, now)
    name = question.trace_id if _FOLDER_NAME.fullmatch(question.trace_id) else content_id(question.trace_id.encode())
    folder = out / (f"{name}-{record.part.class_name}" if several else name)
    return _write(DecisionReport(record, entry, folder), again, records.chain.keys.public()[entry.key])


# --- which pair, which image ----------------------------------------------------------------------------------------


def _choose(question: DecisionQuery, pairs: Sequence[StoredPair]) -> tuple[StoredPair, bool]:
    """The pair that is meant (of an image judged twice, the last), and whether other classes have one as well."""
    if not pairs:
        raise ValueError(f"trace '{question.trace_id}': nothing was inspected under it; check the id")
    fitting = [stored for stored in pairs if question.class_name in ("", stored.pair.class_name)]
    if question.image is not None and len({stored.pair.image_id for stored in fitting}) > 1:
        image_id = content_id(question.image.read_bytes())
        fitting = [stored for stored in fitting if stored.pair.image_id == image_id]
    if len({(stored.pair.class_name, stored.pair.image_id) for stored in fitting}) != 1:
        there_are = ", ".join(
            sorted({f"{stored.pair.class_name} (image {stored.pair.image_id[:12]}…)" for stored in pairs})
        )
        raise ValueError(f"trace '{question.trace_id}': {there_are} carry it; choose with --class and --image")
    return fitting[-1], len({stored.pair.class_name for stored in pairs}) > 1


def _find_image(pair: Pair, question: DecisionQuery, layout: Layout, limits: DataParams) -> bytes | None:
    """The bytes that were inspected; None where they are missing and no re-run is asked for."""
    others = []
    for path in _places(pair, question.image, layout):
        if path.is_file():
            data = read_bounded(path, limits.max_file_bytes + 1)
            if content_id(data) == pair.image_id:
                return data
            others.append(str(path))
    if not question.rerun:
        return None
    mismatch = f"; {', '.join(others)}: another image by now" if others else ""
    raise FileNotFoundError(
        f"trace '{question.trace_id}': image {pair.image_id[:12]}… is nowhere{mismatch}; name it with --image, "
        "or draw the record without it (--no-rerun)"
    )


def _places(pair: Pair, given: Path | None, layout: Layout) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    if pair.image_path:
        yield layout.root / pair.image_path
    if re.fullmatch(CLASS_NAME_PATTERN, pair.class_name) and _SHA256.fullmatch(pair.image_id):
        for folder in (layout.inspected / pair.class_name, layout.images(pair.class_name)):
            yield from sorted(folder.glob(f"{pair.image_id}.*"))
        for folder in (Inbox(layout.inbox, pair.class_name).folder, layout.retired(pair.class_name)):
            yield from sorted(folder.rglob(f"{pair.image_id}.*"))


# --- again ----------------------------------------------------------------------------------------------------------


def _score_again(
    stored: StoredPair, loaded: DecisionModel, data: bytes | None, limits: DataParams, *, asked: bool
) -> _Again:
    """Score the image alone, with the same call as the gateway."""
    pair, picture, image = stored.pair, None, None
    if data is not None:
        picture = decode_image(data, limits, name=f"image {pair.image_id[:12]}…")
        image = viewable(picture)
    if not asked:
        return _Again(Rerun(DecisionOutcome.NOT_ASKED, "not asked for"), image)
    if loaded.detector is None or picture is None or image is None:
        return _Again(Rerun(DecisionOutcome.IMPOSSIBLE, loaded.facts.problem), image)
    answer = _ask(loaded.detector, picture)
    if isinstance(answer, ScoringError):
        return _Again(Rerun(DecisionOutcome.DIFFERENT, f"the model gives no answer now: {answer}"), image)
    decided = decision_of(stored, pair.answered_by)
    if decided.score is None:
        return _Again(Rerun(DecisionOutcome.DIFFERENT, "the model gave no answer then, and gives one now"), image)
    rerun = _compared(decided, answer, loaded.detector)
    return _Again(rerun, image, *_draw(image, answer.heat, loaded.detector)) if answer.heat else _Again(rerun, image)


def _ask(detector: Detector, image: DecodedImage) -> InspectionResult | ScoringError:
    """The answer with a heat map; without one where the model has no maps."""
    scorer = scorer_of(detector)
    for wants_heat in (True, False):
        (answer,) = score_all(scorer, [Asked(image, detector.class_name, wants_heat)])
        if isinstance(answer, InspectionResult):
            return answer
    assert isinstance(answer, ScoringError)  # the question had a class
    return answer


def _compared(decided: ModelStatement, answer: InspectionResult, detector: Detector) -> Rerun:
    return compare(decided, answer.score, answer.threshold, _environment(), _heatmap(answer.heat))


def _heatmap(heat: Heatmap | None) -> HeatMap | None:
    if heat is None:
        return None
    height, width = heat.map_HW.shape
    return HeatMap(height, width, hashlib.sha256(np.ascontiguousarray(heat.map_HW, "<f8").tobytes()).hexdigest())


def _draw(image: Image.Image, heat: Heatmap, detector: Detector) -> tuple[Image.Image, str]:
    """The map over the image, and its caption: a legacy model's map has no known level of normal parts."""
    level, caption = heat.level, "What the model saw: coloured where it is beyond the level of normal parts"
    if not isinstance(detector, CandidateDetector):
        level, caption = float(np.quantile(heat.map_HW, _COOL)), "What the model saw: coloured where its map is hottest"
    return heatmap_overlay(image, heat.map_HW, level, coverage=heat.coverage), caption


def _environment() -> str:
    """Device and versions, on which a score depends by rounding."""
    where = f"{pick_device()}, {torch.get_num_threads()} threads, {platform.machine()}"
    return f"Python {platform.python_version()}, torch {torch.__version__}, {where}"


# --- the audit log --------------------------------------------------------------------------------------------------


def _case(question: DecisionQuery, stored: StoredPair, loaded: DecisionModel, records: Records) -> DecisionEvidence:
    pair, chain = stored.pair, records.chain
    phases = chain.entries(kinds=[EntryKind.PHASE], subject=pair.class_name)
    return DecisionEvidence(
        stored=stored,
        number=question.part,
        position=traffic_bucket(pair.image_id) if _SHA256.fullmatch(pair.image_id) else 0.0,
        words=labels_of(records.pairs.engine, pair.class_name, pair.image_id),
        model=loaded.facts,
        calibration=loaded.calibration,
        events=records.rollout.events(pair.class_name),
        entries=(*chain.entries(kinds=[EntryKind.REGISTRATION]), *phases),
    )


def _put_on_chain(record: InspectionRecord, records: Records, now: datetime) -> Entry:
    """Append the record's hash, and return its entry, whichever process sealed it. Raises ValueError without a key."""
    sha256 = digest(record.to_dict())
    body = {
        "record_sha256": sha256,
        "class_name": record.part.class_name,
        "image_id": record.part.image_id,
        "decision": str(record.decision.decision),
        "rerun": str(record.rerun.outcome),
        "confirmed": record.confirmed,
    }
    records.chain.append(Record(EntryKind.DECISION, record.part.trace_id, body, DRAWER, now))
    entries = records.chain.entries(since=now, kinds=[EntryKind.DECISION], subject=record.part.trace_id)
    return next(entry for entry in entries if entry.facts["record_sha256"] == sha256)


def _write(drawn: DecisionReport, again: _Again, public_key: str) -> DecisionReport:
    if again.overlay is None:
        (drawn.folder / "heatmap.png").unlink(missing_ok=True)  # of an earlier drawing
    else:
        with replace_file(drawn.folder / "heatmap.png") as temporary:
            again.overlay.save(temporary, format="PNG")
    page = build_page(drawn.record, drawn.entry, public_key, Picture(again.image, again.overlay, again.caption))
    with replace_file(drawn.folder / "page.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(drawn.folder / "record.json", {**drawn.to_dict(), "public_key": public_key})
    return drawn
