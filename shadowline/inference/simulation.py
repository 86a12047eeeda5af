"""A simulated plant: real stream images, both models' real answers, a simulated clock.

    calendar = Calendar(first_day, params.of_demo().holiday)
    parts = parts_of_day("bolt", stock, day_number, params.of_demo())
    pairs = day_of_pairs(state, parts, candidate, legacy, morning, params)

The stream split has not been seen by training, calibration or evaluation. Each of its images stands for several parts,
one for each way to lay it down; no part comes again before all of its kind have come. A part is judged once by each
model, under each light that is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import DemoParams, Params
from shadowline.core.progress import Progress
from shadowline.data.images import open_within
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.data.perturbations import apply_view, view_seed
from shadowline.inference.shadow_batch import judge_one
from shadowline.models.detector import Detector
from shadowline.records.pair import ModelDecision, Pair, PairSource, Side, is_drawn_for_review
from shadowline.rollout.phases import CANDIDATE_JUDGES
from shadowline.rollout.state import ClassState

Light = str  # name of a view: "original", "rot90"
_AFTERNOON = timedelta(hours=8)  # from the first lot to the second


@dataclass(frozen=True)
class SampledImage:
    """One stream image as it lies under the camera, with the label that an inspector would give."""

    image_id: str  # of the image as it lies
    path: str
    lies: str  # name of the view
    label: Label
    reference: bool = False  # put on the line on purpose, its label known


@dataclass(frozen=True)
class StreamScores:
    """One detector's decisions on the parts under one light: `said[image_id]`."""

    fingerprint: str
    light: Light
    said: dict[str, ModelDecision]


@dataclass(frozen=True)
class Calendar:
    """When the line runs: Monday to Friday, and not in the holiday."""

    first_day: datetime
    holiday: tuple[int, int]  # days since the first one, both included

    def runs(self, morning: datetime) -> bool:
        day = (morning - self.first_day).days
        return morning.weekday() < 5 and not self.holiday[0] <= day <= self.holiday[1]

    def num_days(self, since: datetime, morning: datetime) -> int:
        """Days on which the line ran from `since` until before `morning`."""
        total = max((morning - since).days, 0)
        return sum(self.runs(morning - timedelta(days=back)) for back in range(1, total + 1))


def stock_of(class_name: str, params: Params, layout: Layout) -> tuple[SampledImage, ...]:
    """All parts of a class, in the order in which they come. Raises ValueError where there are none."""
    manifest = read_manifest([layout.manifest(class_name)])
    stream = manifest[manifest["split"] == Split.STREAM]
    labelled = stream[stream["label"].isin([Label.NORMAL, Label.ANOMALOUS])]
    parts = [
        SampledImage(_digest(str(row.image_id), lies).hex(), str(row.path), lies, Label(str(row.label)))
        for row in labelled.itertuples()
        for lies in params.of_demo().lies
    ]
    if not parts:
        raise ValueError(f"class {class_name!r}: no stream images; lower data.max_train or add images")
    return tuple(sorted(parts, key=lambda part: part.image_id))


def judge_stream(
    parts: Sequence[SampledImage], detector: Detector, light: Light, params: Params, layout: Layout, progress: Progress
) -> StreamScores:
    """One detector on every part under one light; answers that are on file already are taken from there."""
    path = layout.scratch / f"stream/{detector.fingerprint[:16]}-{light}.parquet"
    answers = _read_answers(path)
    missing = [part for part in parts if part.image_id not in answers]
    with progress.task(f"stream {detector.class_name} {light}", total=len(missing)) as task:
        for part in missing:
            image = _seen_under(part, light, detector.bit_depth, params, layout)
            answers[part.image_id] = judge_one(detector, image)
            task.advance()
    if missing:
        _write_answers(path, answers)
    return StreamScores(detector.fingerprint, light, answers)


def _seen_under(part: SampledImage, light: Light, bit_depth: int, params: Params, layout: Layout) -> Image.Image:
    image = apply_view(open_within(layout.root / part.path, params.data, bit_depth), part.lies, 0).image
    return apply_view(image, light, view_seed(params.seed, part.image_id, light)).image


def parts_of_day(class_name: str, stock: Sequence[SampledImage], day: int, demo: DemoParams) -> list[SampledImage]:
    """The day's good and bad parts, each kind in turns from day to day, in a seeded order; last its reference parts.

    Reference parts are bad ones, taken from the other end of the stock.
    """
    good = [part for part in stock if part.label is Label.NORMAL]
    bad = [part for part in stock if part.label is Label.ANOMALOUS]
    num_bad = round(demo.images_per_day * demo.anomaly_share) if bad else 0
    wanted = ((bad, num_bad), (good, demo.images_per_day - num_bad))
    chosen = [group[(day * number + i) % len(group)] for group, number in wanted for i in range(number)]
    random = np.random.default_rng(int.from_bytes(_digest(class_name, str(day))[:8], "big"))
    references = [
        bad[-1 - (day * demo.references_per_day + i) % len(bad)] for i in range(demo.references_per_day) if bad
    ]
    return [
        *(chosen[i] for i in random.permutation(len(chosen))),
        *(replace(part, reference=True) for part in references),
    ]


def day_of_pairs(
    cls: ClassState,
    parts: Sequence[SampledImage],
    candidate: StreamScores,
    legacy: StreamScores,
    morning: datetime,
    params: Params,
) -> list[Pair]:
    """The pairs of a day, in two lots, a part a minute; empty where only the legacy model judges."""
    if cls.standing not in CANDIDATE_JUDGES:
        return []
    share = params.shadow.review_share
    return [
        Pair(
            class_name=cls.class_name,
            image_id=part.image_id,
            captured_at=at,
            received_at=at,
            candidate=cls.candidate,
            legacy=cls.legacy,
            answered_by=_answers(cls, part, morning),
            candidate_said=candidate.said[part.image_id],
            legacy_said=legacy.said[part.image_id] if cls.legacy_judges else None,
            image_path=part.path,
            source=PairSource.REFERENCE if part.reference else PairSource.LINE,
            known_label=part.label if part.reference else None,
            review_share=share,
            review_drawn=not part.reference and is_drawn_for_review(cls.class_name, part.image_id, share),
        )
        for part, at in zip(parts, _times(morning, len(parts)), strict=True)
    ]


def _times(morning: datetime, number: int) -> list[datetime]:
    first_lot = (number + 1) // 2
    return [
        morning + (_AFTERNOON if index >= first_lot else timedelta(0)) + timedelta(minutes=index % first_lot)
        for index in range(number)
    ]


def _answers(cls: ClassState, part: SampledImage, morning: datetime) -> Side:
    """The candidate answers its share of the images, always the same ones of a day."""
    draw = int.from_bytes(_digest(part.image_id, morning.isoformat())[:4], "big") / 2**32
    return "candidate" if draw < cls.share else "legacy"


def reviewed(pairs: Iterable[Pair], labelled_share: float) -> list[Pair]:
    """The pairs that inspectors label: all drawn parts, and `labelled_share` of the disagreements and alarms."""

    def is_labelled(pair: Pair) -> bool:
        if pair.known_label is not None:
            return False
        draw = int.from_bytes(_digest(pair.key, "review")[:4], "big") / 2**32
        return pair.review_drawn or (_is_flagged(pair) and draw < labelled_share)

    return [pair for pair in pairs if is_labelled(pair)]


def _is_flagged(pair: Pair) -> bool:
    """Whether one of the models at least raised an alarm."""
    return any(decision.alarm for decision in (pair.candidate_said, pair.legacy_said) if decision is not None)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()


def _read_answers(path: Path) -> dict[str, ModelDecision]:
    if not path.is_file():
        return {}
    table = pd.read_parquet(path)
    columns = (table[name].tolist() for name in ("image_id", "score", "threshold", "latency_ms"))
    return {image_id: ModelDecision(*numbers) for image_id, *numbers in zip(*columns, strict=True)}


def _write_answers(path: Path, answers: dict[str, ModelDecision]) -> None:
    rows = [(name, answer.score, answer.threshold, answer.latency_ms) for name, answer in answers.items()]
    table = pd.DataFrame(rows, columns=["image_id", "score", "threshold", "latency_ms"])
    with replace_file(path) as temporary:
        table.to_parquet(temporary, index=False)
