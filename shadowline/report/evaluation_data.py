"""What the report is made of: the files that other stages wrote, read into frozen records.

`data/summary.json` and each class's `metrics.json` and `scores.parquet` are required. Everything else may be
missing: the record is then None, and the page says so in its place.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shadowline.core.layout import Layout
from shadowline.data.manifest import Label
from shadowline.records.timeline import Timeline, read_timeline


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):  # with its interval, of which the page shows the value
        value = value.get("value")
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measure = Annotated[float | None, BeforeValidator(_finite_or_none)]  # None: not measured, or not a number


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # what a later version adds does not break the page


class Interval(_Record):
    """A value with its interval; a bare number is a value without one."""

    value: Measure
    low: Measure = None
    high: Measure = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, raw: Any) -> Any:
        return raw if isinstance(raw, dict) else {"value": raw}


UNKNOWN = Interval(value=None)


class Check(_Record):
    name: str
    passed: bool
    measured: Measure = None
    bound: Measure = None
    direction: Literal["min", "max"]
    subject: str = ""
    reason: str = ""
    advisory: bool = False


class Verdict(_Record):
    passed: bool
    checks: tuple[Check, ...]


class Summary(_Record):
    verdict: Verdict
    classes: tuple[str, ...] = Field(min_length=1)  # worst first
    means: dict[str, Measure] = {}
    memory: dict[str, Measure] = {}  # MB, 10^6 bytes
    latency_ms: dict[str, Measure] = {}
    num_images: dict[str, dict[str, int]] = {}  # class → split → images


class ImageMetrics(_Record):
    auroc: Interval = UNKNOWN
    average_precision: Interval = UNKNOWN
    f1_max: Interval = UNKNOWN
    fpr_at_95_tpr: Interval = UNKNOWN
    tpr_at_1_fpr: Interval = UNKNOWN


class PixelMetrics(_Record):
    auroc: Interval = UNKNOWN
    average_precision: Interval = UNKNOWN
    aupro: Interval = UNKNOWN


class Components(_Record):
    """Image AUROC of each part alone, and of the model that it would replace."""

    reconstruction: Interval | None = None
    bank: Interval | None = None
    fused: Interval | None = None
    legacy: Interval | None = None


class Decisions(_Record):
    threshold: Measure = None
    target_fpr: Measure = None
    false_alarms: int = 0
    misses: int = 0
    fpr: Measure = None
    fnr: Measure = None


class Practicality(_Record):
    separation: Measure = None  # robust sigmas between the medians
    overlap: Measure = None
    saturation: Measure = None
    flip_share: Measure = None
    flips: dict[str, Measure] = {}  # view → share of decisions that flip


class BankSize(_Record):
    storage: str
    num_bytes: int
    exact_num_bytes: int  # uncompressed


class ClassMetrics(_Record):
    class_name: str
    num_test_normal: int
    num_test_anomalous: int
    image: ImageMetrics = ImageMetrics()
    pixel: PixelMetrics | None = None
    components: Components = Components()
    decisions: Decisions = Decisions()
    practicality: Practicality = Practicality()
    bank: BankSize | None = None
    latency_ms: dict[str, Measure] = {}


class Candidate(_Record):
    weights: dict[str, float] = {}
    pooling: str = ""
    auroc: Measure = None
    separation: Measure = None
    chosen: bool = False


class Calibration(_Record):
    weights: dict[str, float] = {}
    pooling: str = ""
    threshold: Measure = None
    target_fpr: Measure = None
    num_selection: int = 0
    num_calibration: int = 0
    injected_kinds: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    calibration_scores: tuple[float, ...] = ()


class TrainingStep(_Record):
    step: int
    loss: Measure = None
    lr: Measure = None


class TrainingEvaluation(_Record):
    step: int
    val_loss: Measure = None
    per_class: dict[str, Measure] = {}


class History(_Record):
    steps: tuple[TrainingStep, ...] = ()
    evaluations: tuple[TrainingEvaluation, ...] = ()
    best_step: int | None = None
    stopped: str = ""
    seconds: Measure = None


class Validation(_Record):
    passed: bool
    critical_failures: tuple[Any, ...] = ()
    advisory_failures: tuple[Any, ...] = ()


class ClassValidation(_Record):
    passed: bool | None = None


class StageTiming(_Record):
    name: str
    seconds: Measure = None
    skipped: bool = False


class Timings(_Record):
    stages: tuple[StageTiming, ...] = ()
    peak_memory_mb: Measure = None


class RefusedFile(_Record):
    name: str
    reason: str = ""
    message: str = ""


class ImportReport(_Record):
    refused: tuple[RefusedFile, ...] = ()
    duplicates: tuple[Any, ...] = ()  # files with the same content as one that was kept
    training_images: str = ""  # in words: how many of those that could train were used


@dataclass(frozen=True)
class ClassContents:
    """One class's files. `scores` has the columns of `SCORE_COLUMNS`; `maps` is row for row the same images."""

    name: str
    metrics: ClassMetrics
    scores: pd.DataFrame
    maps: npt.NDArray[np.float32] | None  # (N, h, w), robust sigmas
    calibration: Calibration | None
    validation: ClassValidation | None
    import_report: ImportReport | None

    def scores_of(self, label: Label, column: str = "score") -> npt.NDArray[np.float64]:
        """Finite scores of the test images with this label."""
        values = self.scores.loc[self.scores["label"] == label.value, column].to_numpy(dtype=np.float64)
        return np.asarray(values[np.isfinite(values)], dtype=np.float64)


@dataclass(frozen=True)
class Contents:
    summary: Summary
    classes: tuple[ClassContents, ...]  # worst first
    history: History | None
    validation: Validation | None
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

    Raises FileNotFoundError for a missing required file, ValueError for any file that breaks its contract.
    """
    summary = read_required(layout.summary, Summary, stage="summary")
    return Contents(
        summary=summary,
        classes=tuple(_read_class(layout, name) for name in summary.classes),
        history=read_optional(layout.decoder / "history.json", History),
        validation=read_optional(layout.checks / "overall.json", Validation),
        docs_exist=(layout.validation / "docs/index.html").is_file(),
        provenance=_read_provenance(layout.package / "config.json"),
        timings=read_optional(layout.root / "data/timings.json", Timings),
        timeline=read_timeline(layout.timeline),
    )


def _read_class(layout: Layout, name: str) -> ClassContents:
    folder, stage = layout.evaluation(name), f"evaluate@{name}"
    scores = _read_scores(folder / "scores.parquet", stage)
    return ClassContents(
        name=name,
        metrics=read_required(folder / "metrics.json", ClassMetrics, stage=stage),
        scores=scores,
        maps=_read_maps(folder / "maps.safetensors", len(scores)),
        calibration=read_optional(layout.calibration(name), Calibration),
        validation=read_optional(layout.checks / f"{name}.json", ClassValidation),
        import_report=read_optional(layout.import_report(name), ImportReport),
    )


Record = TypeVar("Record", bound=_Record)


def read_required(path: Path, record: type[Record], *, stage: str) -> Record:
    """Raises FileNotFoundError naming the stage that writes the file, ValueError naming the first wrong field."""
    found = read_optional(path, record)
    if found is None:
        raise FileNotFoundError(f"{path}: the report cannot be built without it; run `dvc repro {stage}`")
    return found


def read_optional(path: Path, record: type[Record]) -> Record | None:
    """None for a missing file; ValueError for one that is not JSON or does not fit `record`."""
    if not path.is_file():
        return None
    try:
        return record.model_validate(_read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {field}: {first['msg']}; run the stage that writes it again") from None


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
