"""A plant in fast motion: real stream images, both models' real answers, a clock that jumps.

    candidate = judge_stream(parts, detector, "original", params, layout, progress)
    pairs = day_of_pairs(state, parts, candidate, legacy, morning, params.demo)

The stream split has not been seen by training, calibration or evaluation. Each image is judged once by each model,
under each light that is played; the days go through them in turns, so that none comes again before all have come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from shadowline.atomic import replace_file
from shadowline.detectors.protocol import Detector
from shadowline.images import open_within
from shadowline.manifest import Label, Split, read_manifest
from shadowline.params import DemoParams, Params
from shadowline.paths import Layout
from shadowline.progress import Progress
from shadowline.records.pairs import Judgement, Pair, Side
from shadowline.rollout.phases import CANDIDATE_JUDGES
from shadowline.rollout.state import ClassState
from shadowline.shadowing import judge_one
from shadowline.views import apply_view, view_seed

Light = str  # name of a view: "original", "brightness-50"


@dataclass(frozen=True)
class Part:
    """One stream image of one class, and what an inspector would say of it."""

    image_id: str
    path: str
    label: Label


@dataclass(frozen=True)
class JudgedStream:
    """What one detector says of the parts under one light: `said[image_id]`."""

    fingerprint: str
    light: Light
    said: dict[str, Judgement]


def sample_parts(class_name: str, params: Params, layout: Layout) -> tuple[Part, ...]:
    """The first stream images by id, normal and anomalous as `params.demo` says."""
    manifest = read_manifest([layout.manifest(class_name)])
    stream = manifest[manifest["split"] == Split.STREAM].sort_values("image_id")
    wanted = ((Label.NORMAL, params.demo.stream_normal), (Label.ANOMALOUS, params.demo.stream_anomalous))
    rows = [row for label, count in wanted for row in stream[stream["label"] == label].head(count).itertuples()]
    if not rows:
        raise ValueError(f"class {class_name!r}: no stream images; lower data.max_train or add images")
    return tuple(Part(str(row.image_id), str(row.path), Label(str(row.label))) for row in rows)


def judge_stream(
    parts: Sequence[Part], detector: Detector, light: Light, params: Params, layout: Layout, progress: Progress
) -> JudgedStream:
    """One detector on every part under one light; answers that are on file already are taken from there."""
    path = layout.scratch / f"stream/{detector.fingerprint[:16]}-{light}.parquet"
    known = _read_answers(path)
    missing = [part for part in parts if part.image_id not in known]
    with progress.task(f"stream {detector.class_name} {light}", total=len(missing)) as task:
        for part in missing:
            known[part.image_id] = judge_one(detector, _seen_under(part, light, params, layout))
            task.advance()
    _write_answers(path, known)
    return JudgedStream(detector.fingerprint, light, known)


def _seen_under(part: Part, light: Light, params: Params, layout: Layout) -> Image.Image:
    image = open_within(layout.root / part.path, params.data)
    return apply_view(image, light, view_seed(params.seed, part.image_id, light)).image


def day_of_pairs(
    one: ClassState,
    parts: Sequence[Part],
    candidate: JudgedStream,
    legacy: JudgedStream,
    morning: datetime,
    demo: DemoParams,
) -> list[Pair]:
    """What a day leaves to compare: nothing where only the legacy model judges."""
    if one.standing not in CANDIDATE_JUDGES:
        return []
    step = timedelta(hours=16) / demo.images_per_day
    return [
        Pair(
            class_name=one.class_name,
            image_id=part.image_id,
            captured_at=morning + index * step,
            candidate=one.candidate,
            legacy=one.legacy,
            answered_by=_answers(one, part, morning),
            candidate_said=candidate.said[part.image_id],
            legacy_said=legacy.said[part.image_id] if one.legacy_judges else None,
            image_path=part.path,
        )
        for index, part in enumerate(_parts_of_day(one.class_name, parts, morning, demo))
    ]


def _parts_of_day(class_name: str, parts: Sequence[Part], morning: datetime, demo: DemoParams) -> list[Part]:
    """The day's share of good and of bad parts, each kind in turns from day to day, in a seeded order."""
    good = [part for part in parts if part.label is Label.NORMAL]
    bad = [part for part in parts if part.label is Label.ANOMALOUS]
    num_bad = round(demo.images_per_day * demo.anomaly_share) if bad else 0
    wanted = ((bad, num_bad), (good, demo.images_per_day - num_bad))
    day = morning.toordinal()
    chosen = [group[(day * number + i) % len(group)] for group, number in wanted for i in range(number)]
    random = np.random.default_rng(int.from_bytes(_digest(class_name, morning.isoformat())[:8], "big"))
    return [chosen[i] for i in random.permutation(len(chosen))]


def _answers(one: ClassState, part: Part, morning: datetime) -> Side:
    """The candidate answers its share of the images, always the same ones of a day."""
    draw = int.from_bytes(_digest(part.image_id, morning.isoformat())[:4], "big") / 2**32
    return "candidate" if draw < one.share else "legacy"


def reviewed(pairs: Iterable[Pair], demo: DemoParams) -> list[Pair]:
    """What inspectors look at: every disagreement, and a share of everything else."""

    def is_looked_at(pair: Pair) -> bool:
        legacy = pair.legacy_said.alarm if pair.legacy_said else None
        drawn = int.from_bytes(_digest(pair.key, "review")[:4], "big") / 2**32 < demo.review_share
        candidate = pair.candidate_said.alarm if pair.candidate_said else None
        return drawn or (legacy is not None and legacy != candidate)

    return [pair for pair in pairs if is_looked_at(pair)]


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()


def _read_answers(path: Path) -> dict[str, Judgement]:
    if not path.is_file():
        return {}
    table = pd.read_parquet(path)
    columns = (table[name].tolist() for name in ("image_id", "score", "threshold", "latency_ms"))
    return {image_id: Judgement(*numbers) for image_id, *numbers in zip(*columns, strict=True)}


def _write_answers(path: Path, answers: dict[str, Judgement]) -> None:
    rows = [(name, one.score, one.threshold, one.latency_ms) for name, one in answers.items()]
    table = pd.DataFrame(rows, columns=["image_id", "score", "threshold", "latency_ms"])
    with replace_file(path) as temporary:
        table.to_parquet(temporary, index=False)
