"""The disagreements of one class as a page: what each model saw where they decided differently, the worst first.

Where there are more than the limit, half of those that are shown are such in which the new model was proven right.

    build_gallery(state.of("bolt"), open_records(), params, Path("data/report"), limit=40, progress=default_progress())

Heat maps are computed again by the models on record (`inference/rescoring.py`). Where an image or a map is missing, the
reason stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shadowline.core.atomic_files import replace_file
from shadowline.core.params import DataParams, Params
from shadowline.core.progress import Progress
from shadowline.core.robust import robust_sigma
from shadowline.data.labels import Label
from shadowline.evaluation.agreement import Agreement, PairCounts, agree
from shadowline.evaluation.evidence import UNLABELLED
from shadowline.inference.overlay import heatmap_overlay
from shadowline.inference.rescoring import (
    SIDES,
    Load,
    RescoredImage,
    RescoringModel,
    colour_range,
    find_models,
    load_place,
    look_at,
    maps_of,
)
from shadowline.records.pair import Side
from shadowline.records.stores import Records
from shadowline.report.build import environment, stylesheet
from shadowline.report.formatting import number, percent, plural
from shadowline.report.gallery import BYTE_BUDGET, data_uri
from shadowline.rollout.state import ClassState

MAX_BYTES = 24_000  # of one JPEG; fewer where many are shown
NUM_QUIET = 8  # images passed by both models, which decide where heat maps begin to colour
NUM_SEARCHED = 200  # newest pairs that are searched for these


class Adjudication(StrEnum):
    """Who was right, by an inspector's label."""

    CANDIDATE = "the new model was right"
    LEGACY = "the new model was wrong"
    OPEN = "not labelled yet"


@dataclass(frozen=True)
class RecordedLabel:
    """One model's decision on one image, as the page shows it."""

    stopped: bool
    score: float
    threshold: float
    overlay: str  # data URI, or empty
    problem: str


@dataclass(frozen=True)
class Disagreement:
    """One pair as the page shows it."""

    right: Adjudication
    image: str  # data URI, or empty
    problem: str
    said: dict[Side, RecordedLabel]
    label: str
    when: str
    image_id: str
    path: str


def build_gallery(
    cls: ClassState,
    records: Records,
    params: Params,
    out: Path,
    limit: int,
    progress: Progress,
    load: Load = load_place,
) -> Path:
    """Write `out/disagreements-<class>.html` and return its path.

    `load`: how the two models are loaded. Raises ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"gallery of {cls.class_name!r}: limit {limit}, need at least 1; raise --limit")
    pairs = (cls.class_name, cls.candidate, cls.legacy)
    disagreements = rank_disagreements(records.pairs.table(*pairs, disagreeing=True), records.pairs.scores(*pairs))
    quiet = _quiet(records.pairs.table(*pairs, limit=NUM_SEARCHED))
    models = find_models(cls, records, load)
    disputes = _disputes(choose_shown(disagreements, limit), quiet, models, params.data, progress)
    page = _render(cls, records.pairs.counts(*pairs), params.shadow.confidence, models, disputes, len(disagreements))
    target = out / f"disagreements-{cls.class_name}.html"
    with replace_file(target) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return target


def _render(
    cls: ClassState,
    counts: PairCounts,
    confidence: float,
    models: dict[Side, RescoringModel],
    disputes: Sequence[Disagreement],
    num_found: int,
) -> str:
    agreement = agree(counts, confidence)
    return (
        environment()
        .get_template("disagreements.html.j2")
        .render(
            stylesheet=stylesheet(),
            one=cls,
            models=models,
            sentences=describe_dispute(cls.class_name, counts, agreement, confidence),
            agreement=agreement,
            against=[dispute for dispute in disputes if dispute.right is not Adjudication.CANDIDATE],
            proven=[each for each in disputes if each.right is Adjudication.CANDIDATE],
            num_found=num_found,
        )
    )


# --- which, and in what order -----------------------------------------------------------------------------------


def rank_disagreements(disagreeing: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The worst first: those in which the candidate is not proven right, then by how far apart the two decisions are.

    The distance of a score from its threshold is in robust sigmas of the model's scores of all pairs (`scores`).
    """
    distance = sum(
        (disagreeing[f"{side}_score"] - disagreeing[f"{side}_threshold"]).abs() / _spread(scores[f"{side}_score"])
        for side in SIDES
    )
    proven = [adjudicate(row) is Adjudication.CANDIDATE for row in disagreeing.to_dict("records")]
    keyed = disagreeing.assign(distance=distance, proven=proven)
    return keyed.sort_values(["proven", "distance"], ascending=[True, False], kind="stable")


def choose_shown(ranked: pd.DataFrame, limit: int) -> pd.DataFrame:
    """At most `limit` rows of `rank_disagreements`, of both kinds: up to half of them prove the new model right."""
    proven = ranked["proven"].to_numpy(dtype=bool)
    num_against = min(int((~proven).sum()), limit - min(int(proven.sum()), limit // 2))
    return pd.concat([ranked[~proven].head(num_against), ranked[proven].head(limit - num_against)])


def _spread(scores: pd.Series[float]) -> float:
    """Robust sigma; where most scores are the same, the largest deviation, or 1."""
    present = scores.dropna().to_numpy(dtype=np.float64)
    if not present.size:
        return 1.0
    return robust_sigma(present) or float(np.abs(present - np.median(present)).max()) or 1.0


def adjudicate(row: dict[Any, Any]) -> Adjudication:
    """Which model was right in a pair with different decisions, by its label."""
    if row["label"] not in {Label.NORMAL.value, Label.ANOMALOUS.value}:
        return Adjudication.OPEN
    candidate_is_right = bool(row["candidate_alarm"]) == (row["label"] == Label.ANOMALOUS.value)
    return Adjudication.CANDIDATE if candidate_is_right else Adjudication.LEGACY


def _quiet(newest: pd.DataFrame) -> pd.DataFrame:
    """Pairs that both models passed and no inspector has called anomalous, and whose image was kept."""
    passed = (newest["candidate_alarm"] == False) & (newest["legacy_alarm"] == False)  # noqa: E712 - None is neither
    kept = newest["image_path"] != ""
    return newest[passed & kept & (newest["label"] != Label.ANOMALOUS.value)].head(NUM_QUIET)


def _disputes(
    disagreements: pd.DataFrame,
    quiet: pd.DataFrame,
    models: dict[Side, RescoringModel],
    limits: DataParams,
    progress: Progress,
) -> list[Disagreement]:
    with progress.task("disagreements", total=len(disagreements) + len(quiet)) as task:
        shown = look_at(disagreements, models, limits, task)
        reference = look_at(quiet, models, limits, task) if len(disagreements) else []
    ranges: dict[Side, tuple[float, float]] = {
        side: colour_range(maps_of(reference, side) or maps_of(shown, side), maps_of(shown, side)) for side in SIDES
    }
    max_bytes = min(MAX_BYTES, BYTE_BUDGET // (4 * max(len(shown), 1)))  # three images, a third more in base64
    return [
        _dispute(row, look, models, ranges, max_bytes)
        for row, look in zip(disagreements.to_dict("records"), shown, strict=True)
    ]


# --- showing ----------------------------------------------------------------------------------------------------


def _dispute(
    row: dict[Any, Any],
    look: RescoredImage,
    models: dict[Side, RescoringModel],
    ranges: dict[Side, tuple[float, float]],
    max_bytes: int,
) -> Disagreement:
    right = adjudicate(row)
    return Disagreement(
        right=right,
        image=data_uri(look.image, max_bytes),
        problem=look.problem,
        said={side: _said(row, side, look, models[side].coverage, ranges[side], max_bytes) for side in SIDES},
        label="" if right is Adjudication.OPEN else str(row["label"]),
        when=f"{pd.Timestamp(row['received_at']):%Y-%m-%d %H:%M:%S} UTC",
        image_id=row["image_id"],
        path=row["image_path"],
    )


def _said(
    row: dict[Any, Any], side: Side, look: RescoredImage, coverage: float, colours: tuple[float, float], max_bytes: int
) -> RecordedLabel:
    sight, overlay = look.sights[side], None
    if look.image is not None and sight.map_HW is not None:
        level, high = colours
        overlay = heatmap_overlay(look.image, sight.map_HW, level, high=high, coverage=coverage, line_width=1.2)
    score, threshold = float(row[f"{side}_score"]), float(row[f"{side}_threshold"])
    return RecordedLabel(bool(row[f"{side}_alarm"]), score, threshold, data_uri(overlay, max_bytes), sight.problem)


def describe_dispute(class_name: str, counts: PairCounts, agreement: Agreement, confidence: float) -> list[str]:
    """The statistics of the pairs as sentences, for someone who does not know what a κ is."""
    if not counts.num_pairs:
        return [f"Both models have judged no part of {class_name} together yet."]
    rate = agreement.agreement
    interval = f"{percent(confidence, 0)} interval {percent(rate.low)} to {percent(rate.high)}"
    alike = f"{percent(rate.value)} of them ({interval})"
    sentences = [f"Both models judged {plural(counts.num_pairs, 'part')} and decided alike on {alike}."]
    if differing := counts.num_pairs - counts.num_agreeing:
        sentences.append(_disagreements_in_words(counts, differing))
    difference, low, high = (_more_or_fewer(value) for value in agreement.drift)
    sentences.append(f"Of 100 parts, the new model stops {difference} than today’s (interval: {low} to {high}).")
    return sentences


def _more_or_fewer(difference: float) -> str:
    """A difference of two shares, in parts of a hundred."""
    return f"{number(abs(100 * difference), 1)} {'fewer' if difference < 0 else 'more'}"


def _disagreements_in_words(counts: PairCounts, differing: int) -> str:
    proven = counts.num_settled - counts.num_agreeing
    unlabelled = counts.cells_LCG[UNLABELLED]
    waiting = int(unlabelled.sum() - np.trace(unlabelled))
    wrong = differing - proven - waiting
    return (
        f"They differed on {differing}: inspectors proved the new model right on {proven} and wrong on {wrong}; "
        f"{waiting} {'waits' if waiting == 1 else 'wait'} for a label."
    )
