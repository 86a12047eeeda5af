"""Validates a legacy model before it is registered: whether it loads, whether it scores, and how good it is.

validate_legacy_model("bolt", "models/legacy/bolt", params, Layout(), DeclaredMetrics()).baseline.auroc
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from shadowline.core.layout import Layout
from shadowline.core.params import DataParams, Params
from shadowline.data.images import ImageFiles
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.evaluation.metrics import auroc, bootstrap
from shadowline.models.detector import Detector
from shadowline.models.loader import DetectorKind, find_model, load_detector, place_of

Floats = npt.NDArray[np.float64]

NUM_TRIED = 4  # images that every model must score; as many must agree with scores on record before those are used
RECORDED_TOLERANCE = 1e-4  # relative; another machine rounds differently, another model does not come this close


@dataclass(frozen=True)
class DeclaredMetrics:
    """What the factory declares of a model; None: not declared."""

    auroc: float | None = None  # used where nothing can be measured
    storage_mb: float | None = None  # in place of the size of the files, 10^6 bytes
    hours_per_month: float | None = None
    yearly_cost: float | None = None  # $


@dataclass(frozen=True)
class LegacyBaseline:
    """How good a legacy model is, and what it costs."""

    auroc: float | None
    false_alarms: float | None  # share of normal test images
    misses: float | None  # share of anomalous test images
    num_images: int  # that these were measured on; 0: auroc is the declared one
    storage_mb: float  # 10^6 bytes
    hours_per_month: float | None
    yearly_cost: float | None  # $


@dataclass(frozen=True)
class LegacyModel:
    """Everything that is recorded of one legacy model."""

    class_name: str
    fingerprint: str
    kind: DetectorKind
    source: str  # where it was imported from
    directory: Path  # its own files
    data: DataParams  # limits of the images that it accepts
    baseline: LegacyBaseline


def validate_legacy_model(
    class_name: str, location: str, params: Params, layout: Layout, stated: DeclaredMetrics
) -> LegacyModel:
    """Load the model, score with it, and measure it on the test split of its class where the project has one.

    Raises FileNotFoundError, or ValueError for a model that does not load, does not score or has no threshold.
    """
    detector = load_detector(location, class_name)
    directory, kind = find_model(location)
    if kind is DetectorKind.INSPECTOR:
        raise ValueError(f"{location}: a multi-class model; name the single-class model of '{class_name}'")
    if not np.isfinite(detector.threshold):
        raise ValueError(f"{location}: threshold {detector.threshold}, need a finite number")
    baseline = _baseline(detector, class_name, params, layout, directory, stated)
    return LegacyModel(class_name, detector.fingerprint, kind, place_of(location), directory, params.data, baseline)


def known_images(
    detector: Detector, class_name: str, params: Params, layout: Layout, limit: int | None = None
) -> ImageFiles:
    """The first images of the class's test split, in the order of their ids, as the model takes them; empty without a
    split."""
    paths = tuple(layout.root / path for path in _test_rows(class_name, layout)["path"][:limit])
    return ImageFiles(paths, params.data, detector.bit_depth)


def _baseline(
    detector: Detector, class_name: str, params: Params, layout: Layout, directory: Path, stated: DeclaredMetrics
) -> LegacyBaseline:
    rows = _test_rows(class_name, layout)
    tried = known_images(detector, class_name, params, layout, NUM_TRIED) or [Image.new("RGB", (64, 64), "grey")]
    first = detector.score(tried)
    if not np.isfinite(first).all():
        raise ValueError(f"class '{class_name}': score {first.tolist()}, need finite numbers; check the model")
    anomalous = (rows["label"] == Label.ANOMALOUS).to_numpy()
    size_mb = _size_mb(directory) if stated.storage_mb is None else stated.storage_mb
    baseline = LegacyBaseline(stated.auroc, None, None, 0, size_mb, stated.hours_per_month, stated.yearly_cost)
    if not anomalous.any() or anomalous.all():
        return baseline
    recorded = _recorded(class_name, layout, directory, rows["image_id"].tolist(), first)
    scores = detector.score(known_images(detector, class_name, params, layout)) if recorded is None else recorded
    return _measured(baseline, scores, anomalous, detector.threshold, params)


def _measured(
    baseline: LegacyBaseline, scores: Floats, anomalous: npt.NDArray[np.bool_], threshold: float, params: Params
) -> LegacyBaseline:
    sample, flagged = params.evaluation, scores > threshold
    area = bootstrap(
        auroc, scores, anomalous, resamples=sample.bootstrap, confidence=sample.confidence, seed=params.seed
    )
    return replace(
        baseline,
        auroc=area.value,
        false_alarms=float(flagged[~anomalous].mean()),
        misses=float((~flagged[anomalous]).mean()),
        num_images=len(scores),
    )


def _test_rows(class_name: str, layout: Layout) -> pd.DataFrame:
    """Labelled test images by id; empty where the project does not have the class."""
    if not layout.manifest(class_name).is_file():
        return pd.DataFrame({"image_id": [], "path": [], "label": []})
    manifest = read_manifest([layout.manifest(class_name)])
    labelled = manifest["label"].isin([Label.NORMAL, Label.ANOMALOUS])
    return manifest[(manifest["split"] == Split.TEST) & labelled].sort_values("image_id").reset_index(drop=True)


def _recorded(
    class_name: str, layout: Layout, directory: Path, image_ids: Sequence[str], first: Floats
) -> Floats | None:
    """Scores of the project's own legacy model in the last evaluation; None if of other images or of another model."""
    path = layout.evaluation(class_name) / "scores.parquet"
    if directory.resolve() != layout.legacy(class_name).resolve() or not path.is_file():
        return None
    on_record = pd.read_parquet(path).set_index("image_id")["legacy_score"]
    scores = np.asarray(on_record.reindex(list(image_ids)), dtype=np.float64)
    same = np.isfinite(scores).all() and np.allclose(scores[: len(first)], first, rtol=RECORDED_TOLERANCE)
    return scores if same else None


def _size_mb(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
