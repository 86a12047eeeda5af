"""Sections of `params.yaml` on the operation: enrolment, shadow mode, rollout, gateway, schedule, demo.

No pipeline stage reads them, so a change of this file makes no stage stale (see `shadowline/core/code.py`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from shadowline.core.params.base import ClassName, Days, FrozenModel, PoolShare, Positive, Share


class ImageRetentionPolicy(StrEnum):
    NONE = "none"
    ALARMS = "alarms"  # those that wait for review: of an alarm, a disagreement, a draw
    ALL = "all"


class EnrolmentParams(FrozenModel):
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


class RegistryParams(FrozenModel):
    model_name: str  # registered model; its versions are what `shadowline models` lists
    experiment: str  # MLflow experiment of all runs

    @field_validator("model_name", "experiment")
    @classmethod
    def _is_an_mlflow_name(cls, name: str) -> str:
        if not name.strip() or "/" in name or ":" in name:
            raise ValueError(f"{name!r} is no name for MLflow, which allows neither '/' nor ':' in it")
        return name


class ShadowParams(FrozenModel):
    """What a candidate must show beside the legacy model before it may answer."""

    min_pairs: Positive  # distinct images that both models judged, per class
    min_days: Days  # production days since the class entered shadow mode
    min_agreement: Share  # share of pairs in which the candidate agrees, or is proven right
    confidence: Annotated[float, Field(gt=0, lt=1)]  # of intervals; 1 − it: chance that a worse candidate passes
    min_alarms: Positive  # alarms of each of the two models
    min_labelled_alarms: Positive  # alarms of each model that have an inspector's label
    min_labelled_share: Share  # of the disagreements, and of the parts that were drawn for review
    review_days: Days  # newest production days whose labels may still be missing
    max_lost_share: Annotated[float, Field(gt=0, lt=1)]  # share of known defects that it may find fewer than the legacy
    near_identical_levels: float = Field(ge=0)  # mean grey-level difference up to which two frames count as one
    near_identical_window: Positive  # newest frames of a class and two models that a frame is compared with
    review_share: Share  # probability that an image is drawn for review, whatever the models decide


class GuardParams(FrozenModel):
    bound: float  # the guard trips where the evidence proves that the measurement is beyond it
    severity: Literal["hard", "soft"]  # hard: the class goes back; soft: it stays where it is, and a person is told


class GuardsParams(FrozenModel):
    agreement: GuardParams  # share of images on which it is not proven wrong where the legacy was right, at least
    drift: GuardParams  # change of the candidate's alarm rate since it began to answer, at most
    false_alarms: GuardParams  # share of images with a proven false alarm of the candidate, at most
    misses: GuardParams  # share missed of the defects in a sample that no model chose, above what was usual before
    alarm_rate: GuardParams  # likewise, where it judges alone
    lost_defects: GuardParams  # legacy's share of the labelled defects that one model alone finds, at most
    latency: GuardParams  # ms that 95 % of the candidate's answers keep to
    errors: GuardParams  # share of images on which the candidate failed, at most
    dropped: GuardParams  # share of images that were never paired, at most


ApprovablePhase = Literal["shadow", "canary", "live", "legacy_read_only", "legacy_off", "legacy_deleted", "alone"]


class RetuneParams(FrozenModel):
    """When a threshold may be tuned without a new month in shadow mode."""

    max_flipped_share: Share  # of the decisions that the new threshold turns, against those made at receipt


class RolloutParams(FrozenModel):
    """The calendar and the guards of a rollout; all days are production days."""

    wave_size: Positive  # classes per wave
    canary_shares: tuple[PoolShare, ...] = Field(min_length=1)  # shares of the images that it answers, in turn
    canary_days: Days  # days in each share
    stabilisation_days: Days  # days live, before the next wave begins and the legacy becomes read-only
    read_only_days: Days  # legacy model: inference allowed, training not
    off_days: Days  # legacy model: no inference; then it is deleted
    parallel_days: Days  # days of both models on every image, before the legacy is switched off
    min_day_images: Positive  # distinct images that make 24 hours a production day of a phase
    window_days: Positive  # production days that a verdict stays valid, and that a soft guard bars the way
    silence_hours: float = Field(gt=0)  # hours without an image, after which a person is told
    stop_error: Annotated[float, Field(gt=0, lt=1)]  # probability that guards ever take back a candidate as good
    rollback_scope: Literal["class", "wave"]  # what a tripped guard takes back
    approvals: tuple[
        Literal["shadow", "canary", "live", "legacy_read_only", "legacy_off", "legacy_deleted", "alone"], ...
    ]  # phases that a class enters only after a person has approved it
    retune: RetuneParams
    guards: GuardsParams  # what may take a candidate back, or bar its way

    @model_validator(mode="after")
    def _shares_rise(self) -> RolloutParams:
        if list(self.canary_shares) != sorted(set(self.canary_shares)):
            raise ValueError(f"canary_shares {list(self.canary_shares)} must rise")
        return self


class Unplanned(StrEnum):
    """Which model answers for a class that is in no rollout."""

    LEGACY = "legacy"  # the newest legacy model on record
    CHAMPION = "champion"  # the registry's champion, as it was last promoted


class GatewayParams(FrozenModel):
    """How the gateway serves; every bound is per process."""

    max_in_flight: Positive  # requests in work at once; more are refused
    batch_size: Positive  # images that one model scores together, at most
    batch_window_ms: float = Field(ge=0)  # how long the first image of a batch waits for others
    candidate_timeout_ms: float = Field(gt=0)  # limit for one batch; then the legacy model answers, if one still judges
    answer_timeout_ms: float = Field(gt=0)  # then there is no answer; also of work in the shadow
    max_connections: Positive  # open at once, with or without a request; more are refused
    header_timeout_ms: float = Field(gt=0)  # limit to the end of a request's headers
    upload_timeout_ms: float = Field(gt=0)  # limit from the first to the last byte of a request
    shadow_queue: Positive  # images that wait for the other model; more are dropped, counted and recorded
    shadow_queue_mb: float = Field(gt=0)  # pixels and files of the images that wait, 10^6 bytes
    shadow_patience_ms: float = Field(ge=0)  # how long each of them waits for a moment without callers
    poll_interval_ms: float = Field(gt=0, le=500)  # between two looks at the rollout; a rollback takes a second at most
    database_timeout_ms: float = Field(gt=0)  # silence after which the database counts as unreachable
    reload_interval_ms: float = Field(gt=0)  # between two attempts at a model that would not load
    record_batch: Positive  # pairs per transaction
    pair_queue: Positive  # pairs that wait to be written; more are lost, and counted
    max_inbox_images: Positive  # images of one class that wait for its enrolment; more are refused
    max_spool_mb: float = Field(gt=0)  # pairs on disk while the database is away, 10^6 bytes
    drain_ms: float = Field(ge=0)  # for shadow work and pairs that are left when the process is told to end
    keep_queue: Positive  # images that wait to be written to disk; more are not kept, and counted
    keep_queue_mb: float = Field(gt=0)  # their files, 10^6 bytes
    keep_images: ImageRetentionPolicy  # so that a decision can be shown again
    max_kept_mb: float = Field(gt=0)  # size of kept images of all processes, 10^6 bytes; the oldest go first
    unplanned: Unplanned  # which model answers for a class outside the rollout; the other one where it is missing
    max_capture_age_hours: float = Field(gt=0)  # a claimed capture time that long before receipt is suspect
    max_clock_skew_minutes: float = Field(ge=0)  # a claimed capture time that long after receipt is suspect


class EffortParams(FrozenModel):
    """What models cost to build and to keep, as the background's section 7.2 counts it."""

    prepare_hours: float = Field(ge=0)  # hours of an engineer, per model: data
    train_hours: float = Field(ge=0)  # hours of an engineer and of an accelerator, per model
    validate_hours: float = Field(ge=0)  # hours of an engineer, per model: validation and deployment
    retrain_hours: float = Field(ge=0)  # hours of an engineer and of an accelerator, per model and retraining
    monitor_hours_per_week: float = Field(ge=0)  # hours of an engineer, all models together
    fixes_per_year: float = Field(ge=0)  # cost of fixes in $, all models together


class AssessmentParams(FrozenModel):
    """When a migration suits a factory, what it must bring, and what it costs."""

    min_classes: Positive  # product classes
    min_accelerator_gb: float = Field(ge=0)  # memory of the largest accelerator; a cloud will do as well
    high_burden_hours: float = Field(ge=0)  # a month, all models together; from here on the burden is high
    frequent_new_products: Positive  # a year; from here on new products are frequent
    high_items: Positive  # met items of the checklist from which suitability is high: go
    medium_items: Positive  # met items from which it is medium: pilot; below it is low: stay
    min_cost_cut: Share  # goal: share of the yearly cost that the migration saves
    min_maintenance_cut: Share  # goal: likewise of the hours
    retrainings_per_year: Positive  # retrainings of each model
    horizon_years: Positive  # years of the total cost
    new_class_hours: float = Field(ge=0)  # hours of an engineer, per class added to the multi-class model
    single: EffortParams  # single-class models, one per class
    multi: EffortParams  # the one multi-class model

    @model_validator(mode="after")
    def _items_rise(self) -> AssessmentParams:
        if self.medium_items >= self.high_items:
            raise ValueError(f"medium_items {self.medium_items} must be below high_items {self.high_items}")
        return self


class DemoParams(FrozenModel):
    """The migration that `shadowline demo` runs."""

    waves: tuple[tuple[ClassName, ...], ...] = Field(min_length=1)  # classes that move together
    lies: tuple[str, ...] = Field(min_length=1)  # views: ways to lay a stream image down, a part of its own each
    images_per_day: Positive  # per class, in two lots
    anomaly_share: Share  # of a day's images
    references_per_day: int = Field(ge=0)  # known defects that are put on the line besides, per class
    labelled_share: Share  # of the parts with an alarm, that an inspector ever labels
    holiday: tuple[Days, Days]  # first and last day of the demo on which the line stands still
    fault_class: ClassName  # whose camera fails during the canary
    fault_light: str  # the view that the failing camera gives
    sabotage: dict[ClassName, Annotated[float, Field(gt=0, lt=1)]]  # class → promise, after the rollback
    remedy: dict[ClassName, Annotated[float, Field(gt=0, lt=1)]]  # class → promise, after the sabotage was stopped
    guard_bounds: dict[str, float]  # guard → bound, in the place of the one in rollout.guards
    max_days: Positive  # the demo ends at the latest

    @field_validator("guard_bounds")
    @classmethod
    def _name_guards(cls, bounds: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(bounds) - set(GuardsParams.model_fields)):
            raise ValueError(f"no such guard: {', '.join(unknown)}; use names of rollout.guards")
        return bounds


class ScheduleParams(FrozenModel):
    retrain: str  # recurrence rule (RFC 5545): a full retraining
    rollout: str  # recurrence rule: the ticks of the rollout
    enroll: str  # recurrence rule: a look at the images of new products
    decommission: str  # recurrence rule: archive, prove and delete retired legacy models
    shadow: str  # recurrence rule: both models on the images below SHADOWLINE_SHADOW_URL
    timezone: str  # time zone of all schedules, an IANA name such as Europe/Berlin
