"""The data of the report: the files that other stages wrote, each read by the schema of its writer.

`data/summary.json` and each class's `metrics.json` and `scores.parquet` are required. Everything else may be
missing: the record is then None, and the page says so in its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shadowline.core.artifacts import Artifact
from shadowline.core.layout import Layout
from shadowline.data.labels import Label
from shadowline.data.manifest import read_manifest, source_names
from shadowline.data.validation_results import ClassChecks, OverallChecks
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.summary import Summary
from shadowline.models.calibration_file import CalibrationFile
from shadowline.models.dinomaly.history import TrainingHistory
from shadowline.records.timeline import Timeline, read_timeline
from shadowline.report.timings import Timings
from shadowline.stages.import_class import ImportReport


@dataclass(frozen=True)
class ClassContents:
    """One class's files. `scores` has the columns of `SCORE_COLUMNS`; `maps` is row for row the same images."""

    name: str
    metrics: ClassMetrics
    scores: pd.DataFrame
    maps: npt.NDArray[np.float32] | None  # (N, h, w), robust sigmas
    calibration: CalibrationFile | None
    validation: ClassChecks | None
    import_report: ImportReport | None
    source_names: dict[str, str]  # path in the project → the user's own name of the file; empty without a manifest

    def scores_of(self, label: Label, column: str = "score") -> npt.NDArray[np.float64]:
        """Finite scores of the test images with this label."""
        values = self.scores.loc[self.scores["label"] == label.value, column].to_numpy(dtype=np.float64)
        return np.asarray(values[np.isfinite(values)], dtype=np.float64)


@dataclass(frozen=True)
class Contents:
    summary: Summary
    classes: tuple[ClassContents, ...]  # worst first
    history: TrainingHistory | None
    validation: OverallChecks | None
    docs_exist: bool
    provenance: dict[str, str] | None  # dotted key → value
    timings: Timings | None
    timeline: Timeline | None


COMPONENT_COLUMNS = ("reconstruction_score", "bank_score", "legacy_score")
SCORE_COLUMNS = (
    *("image_id", "path", "label", "defect_type", "mask_path", "score", "threshold", "decision"),
    *COMPONENT_COLUMNS,
)


def read_contents(layout: Layout) -> Contents:
    """Everything that the page shows.

    Raises FileNotFoundError for a missing required file, ValueError for any file that breaks its schema.
    """
    summary = _read_required(layout.summary, Summary, stage="summary")
    if not summary.classes:
        raise ValueError(f"{layout.summary}: classes: no class was evaluated; run `dvc repro summary`")
    return Contents(
        summary=summary,
        classes=tuple(_read_class(layout, name) for name in summary.classes),
        history=_read_optional(layout.history, TrainingHistory),
        validation=_read_optional(layout.overall_checks, OverallChecks),
        docs_exist=(layout.validation / "docs/index.html").is_file(),
        provenance=_read_provenance(layout.package / "config.json"),
        timings=_read_optional(layout.timings, Timings),
        timeline=read_timeline(layout.timeline),
    )


def _read_class(layout: Layout, name: str) -> ClassContents:
    folder, stage = layout.evaluation(name), f"evaluate@{name}"
    scores = _read_scores(folder / "scores.parquet", stage)
    return ClassContents(
        name=name,
        metrics=_read_required(layout.metrics(name), ClassMetrics, stage=stage),
        scores=scores,
        maps=_read_maps(folder / "maps.safetensors", len(scores)),
        calibration=_read_optional(layout.calibration(name), CalibrationFile),
        validation=_read_optional(layout.class_checks(name), ClassChecks),
        import_report=_read_optional(layout.import_report(name), ImportReport),
        source_names=source_names(read_manifest([layout.manifest(name)])) if layout.manifest(name).is_file() else {},
    )


Record = TypeVar("Record", bound=Artifact)


def _read_required(path: Path, record: type[Record], *, stage: str) -> Record:
    """Raises FileNotFoundError naming the stage that writes the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the report cannot be built without it; run `dvc repro {stage}`")
    return record.read(path)


def _read_optional(path: Path, record: type[Record]) -> Record | None:
    return record.read(path) if path.is_file() else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); run the stage that writes it again") from None


def _read_scores(path: Path, stage: str) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the report cannot be built without it; run `dvc repro {stage}`")
    frame: pd.DataFrame = pq.read_table(path).to_pandas()
    missing = sorted(set(SCORE_COLUMNS) - set(COMPONENT_COLUMNS) - set(frame.columns))
    if missing:
        raise ValueError(f"{path}: no column {missing[0]}, need {list(SCORE_COLUMNS)}; run `dvc repro {stage}`")
    texts = frame[["path", "label", "defect_type", "mask_path", "decision"]].fillna("").astype(str)
    return frame.reindex(columns=list(SCORE_COLUMNS)).assign(**{name: texts[name] for name in texts.columns})


def _read_maps(path: Path, num_rows: int) -> npt.NDArray[np.float32] | None:
    if not path.is_file():
        return None
    try:
        maps_NHW = load_file(path)["maps"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: no readable tensor 'maps' ({error}); run the evaluation again") from None
    if maps_NHW.ndim != 3 or len(maps_NHW) != num_rows:
        raise ValueError(f"{path}: maps {maps_NHW.shape}, need ({num_rows}, h, w); run the evaluation again")
    return np.asarray(maps_NHW, dtype=np.float32)


def _read_provenance(path: Path) -> dict[str, str] | None:
    return dict(_flatten(_read_json(path))) if path.is_file() else None


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Scalars and lists of scalars under their dotted keys; deeper lists are left out."""
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list):
        simple = all(isinstance(item, str | int | float) for item in value)
        return [(prefix, ", ".join(map(str, value)))] if simple and value else []
    return [(prefix, "–" if value is None else str(value))]
