"""A simulated migration: days of images, people who review late and approve, and a tick every five minutes.

Ticks at which nothing can have changed are counted and left out: evidence changes only at the end of a quarter of an
hour or of a production day, and when a person labels, approves or orders something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.params_file import editing
from shadowline.core.progress import Progress, default_progress
from shadowline.data.perturbations import ORIGINAL
from shadowline.evaluation.evidence import end_of_slot
from shadowline.inference.simulation import (
    Calendar,
    Light,
    SampledImage,
    StreamScores,
    day_of_pairs,
    judge_stream,
    parts_of_day,
    reviewed,
    stock_of,
)
from shadowline.models.legacy_validation import DeclaredMetrics, LegacyModel, validate_legacy_model
from shadowline.models.loader import load_detector
from shadowline.records.observe import observe_class
from shadowline.records.pair import Pair
from shadowline.records.stores import Records
from shadowline.rollout.engine import ActionKind, leave
from shadowline.rollout.observation import Approval, ApprovalRequest, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import CANDIDATE_JUDGES, Phase
from shadowline.rollout.state import ClassState, RolloutState
from tasks.integrations.mlflow_registry import challenger_fingerprints
from tasks.rollout.outbox import drain_outbox
from tasks.rollout.tick import tick_once

FIRST_DAY = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)  # a Monday; the demo's own calendar
_TICK = timedelta(minutes=5)  # the shipped interval of `schedule.rollout`
_REVIEW, _OFFICE = timedelta(hours=4), timedelta(hours=9)  # after a working day's first image
_NIGHT = timedelta(hours=15)  # a tick at which no images have come for a while
_ENOUGH = timedelta(days=50)  # in which the first class has its production days without the legacy model
_DAYS_AHEAD = 14  # whose parts are judged together
_PEOPLE = frozenset(
    {
        ChecklistItem.NO_CRITICAL_ISSUE,
        ChecklistItem.DOCUMENTED,
        ChecklistItem.TRAINED,
        ChecklistItem.MONITORED,
        ChecklistItem.ROLLBACK_DOCUMENTED,
    }
)


class StopReason(StrEnum):
    """Why the simulated days stopped."""

    FINISHED = "finished"  # every class has arrived, or stays with its legacy model since its candidate was stopped
    NEEDS_VERSION = "needs_version"  # a class has rolled back, and the next stage of the demo brings a new candidate
    OUT_OF_DAYS = "out_of_days"  # params.demo.max_days are over


class DemoStage(StrEnum):
    """Which candidate the class with the failing camera has."""

    FIRST = "first"  # as trained
    SABOTAGE = "sabotage"  # params.demo.sabotage: the evidence must stop it
    REMEDY = "remedy"  # params.demo.remedy: the candidate that completes the rollout


@dataclass(frozen=True)
class DemoResult:
    stop_reason: StopReason
    num_ticks: int  # that were made
    num_idle: int  # that were left out: nothing can have changed
    last_day: datetime


@task
def demo_legacy_models(params: Params, layout: Layout) -> list[LegacyModel]:
    """The single-class baselines of the evaluation: the legacy models of the demo."""
    names = [name for wave in params.of_demo().waves for name in wave]
    return [validate_legacy_model(name, str(layout.legacy(name)), params, layout, DeclaredMetrics()) for name in names]


@task(cache_policy=NO_CACHE)
def run_days(records: Records, params: Params, root: Path, stage: DemoStage) -> DemoResult:
    """Simulate day after day until there is a reason to stop; after an interruption, go on with the next day."""
    migration = DemoMigration(records, with_guard_bounds(params), root, default_progress())
    morning = _next_morning(records)
    with migration.progress.task("migration", total=params.of_demo().max_days) as bar:
        while True:
            reason = stop_reason(records.rollout.state(), migration.challenger, morning, params, stage)
            if reason is not None:
                return DemoResult(reason, migration.num_ticks, migration.num_idle, morning)
            migration.run_day(morning)
            morning += timedelta(days=1)
            bar.advance(note=migration.last_reason[:60])


def with_guard_bounds(params: Params) -> Params:
    """The policy with the bounds of `demo.guard_bounds`, all else as shipped."""
    guards = params.rollout.guards
    bounds = params.of_demo().guard_bounds.items()
    changed = {name: getattr(guards, name).model_copy(update={"bound": bound}) for name, bound in bounds}
    rollout = params.rollout.model_copy(update={"guards": guards.model_copy(update=changed)})
    return params.model_copy(update={"rollout": rollout})


@task
def apply_promises(params_file: Path, promises: Mapping[str, float]) -> None:
    """Write target false-positive rates into params.yaml."""
    with editing(params_file) as content:
        for class_name, promise in promises.items():
            content["classes"][class_name]["target_fpr"] = promise


def stage_of(params: Params) -> DemoStage:
    """Which stage of the demo the target false-positive rates in params.yaml belong to."""

    def are_held(promises: Mapping[str, float]) -> bool:
        return all(params.classes[class_name].target_fpr == promise for class_name, promise in promises.items())

    if are_held(params.of_demo().remedy):
        return DemoStage.REMEDY
    return DemoStage.SABOTAGE if are_held(params.of_demo().sabotage) else DemoStage.FIRST


def stop_reason(
    state: RolloutState, challenger: Mapping[str, str], morning: datetime, params: Params, stage: DemoStage
) -> StopReason | None:
    """None while the next day may still change something. `challenger`: class → fingerprint of the waiting version."""
    if morning - FIRST_DAY >= timedelta(days=params.of_demo().max_days):
        return StopReason.OUT_OF_DAYS
    if stage is not DemoStage.REMEDY:
        cls = state.of(params.of_demo().fault_class)
        has_tried = cls.candidate == challenger.get(cls.class_name)
        return StopReason.NEEDS_VERSION if cls.phase is Phase.ROLLED_BACK and has_tried else None
    settled = {Phase.LEGACY_DELETED, Phase.ROLLED_BACK}
    return StopReason.FINISHED if all(cls.phase in settled for cls in state.classes) else None


def _next_morning(records: Records) -> datetime:
    """The day after the last tick that left an event; days without an event are run again, with the same result."""
    events = records.rollout.events()
    days = (events[-1].at - FIRST_DAY).days + 1 if events[-1].source else 0
    return FIRST_DAY + timedelta(days=days)


class DemoMigration:
    """The simulated plant: its parts, the models' scores for them, computed a few days ahead, and its clock."""

    def __init__(self, records: Records, params: Params, root: Path, progress: Progress) -> None:
        self.records, self.params, self.root, self.progress = records, params, root, progress
        self.layout = Layout(root)
        self.calendar = Calendar(FIRST_DAY, params.of_demo().holiday)
        self.challenger = challenger_fingerprints(params.registry.model_name)
        self.num_ticks, self.num_idle, self.last_reason = 0, 0, ""
        self._stock: dict[str, tuple[SampledImage, ...]] = {}
        self._judged: dict[tuple[str, Light], StreamScores] = {}
        self._unreviewed: list[Pair] = []
        self._asked: tuple[ApprovalRequest, ...] = ()

    def run_day(self, morning: datetime) -> None:
        """24 hours from the first image on: images in two lots, reviews of the last working day's, checklist, ticks."""
        due = {morning, morning + _NIGHT}
        if self.calendar.runs(morning):
            pairs = [pair for cls in self.records.rollout.state().classes for pair in self._pairs(cls, morning)]
            self.records.pairs.record(pairs)
            due |= {end_of_slot(pair.received_at or morning) for pair in pairs} | {morning + _OFFICE}
            due |= {end_of_slot(at) for at in self._review(morning + _REVIEW)}
            self._unreviewed = pairs
        self._tick_at(sorted(due), morning)

    def _tick_at(self, due: Sequence[datetime], morning: datetime) -> None:
        """Run the ticks of a day at which something may have changed, and one more after each that moved a class."""
        waiting, before = list(due), self.num_ticks
        while waiting:
            at = waiting.pop(0)
            if at == morning + _OFFICE:
                self._end_waiting_classes(at)
                for asked in self._asked:  # Ada approves everything that waits only for her
                    self.records.approvals.approve(Approval(**asdict(asked), by="Ada"), at)
                for cls in self.records.rollout.state().classes:
                    self._sign_checklist(cls, at)
            result = tick_once.fn(self.records, self.challenger, at, self.params)
            drain_outbox.fn(self.records, self.params, self.root, at, frozenset(ActionKind))
            self.num_ticks += 1
            self.last_reason, self._asked = result.reason, result.asks
            if result.events and at + _TICK not in waiting:
                waiting = sorted([*waiting, at + _TICK])
        self.num_idle += int(timedelta(days=1) / _TICK) - (self.num_ticks - before)

    def _pairs(self, cls: ClassState, morning: datetime) -> list[Pair]:
        """The pairs of a day. Days count from the start of each candidate: only pairs of these two models count."""
        if cls.evidence_since is None or cls.standing not in CANDIDATE_JUDGES:
            return []
        if cls.class_name not in self._stock:
            self._stock[cls.class_name] = stock_of(cls.class_name, self.params, self.layout)
        number, light = self.calendar.num_days(cls.evidence_since, morning), self._light(cls)
        candidate = self._said(cls, cls.candidate, number, light)
        legacy = self._said(cls, cls.legacy, number, light) if cls.legacy_judges else candidate
        parts = self._parts(cls.class_name, number)
        return day_of_pairs(cls, parts, candidate, legacy, morning, self.params)

    def _parts(self, class_name: str, day: int) -> list[SampledImage]:
        return parts_of_day(class_name, self._stock[class_name], day, self.params.of_demo())

    def _light(self, cls: ClassState) -> Light:
        """The camera of one class fails in its first canary, and is repaired when the class has rolled back."""
        demo = self.params.of_demo()
        fails = cls.class_name == demo.fault_class and cls.share > min(self.params.rollout.canary_shares)
        first = all(event.after.phase is not Phase.ROLLED_BACK for event in self.records.rollout.events(cls.class_name))
        return demo.fault_light if fails and first else ORIGINAL

    def _said(self, cls: ClassState, fingerprint: str, day: int, light: Light) -> StreamScores:
        """A model's scores for the parts of a day, computed together with those of the following days."""
        scores = self._judged.get((fingerprint, light))
        if scores is None or any(part.image_id not in scores.said for part in self._parts(cls.class_name, day)):
            ahead = _DAYS_AHEAD if light == ORIGINAL else 1
            parts = [part for later in range(day, day + ahead) for part in self._parts(cls.class_name, later)]
            detector = load_detector(self.records.locations.model(fingerprint).location, cls.class_name)
            scores = judge_stream(parts, detector, light, self.params, self.layout, self.progress)
            self._judged[fingerprint, light] = scores
        return scores

    def _review(self, at: datetime) -> list[datetime]:
        """Grace labels the unreviewed pairs of the last working day, one a minute; returns the times."""
        labels = {part.image_id: part.label for stock in self._stock.values() for part in stock}
        times = []
        for number, pair in enumerate(reviewed(self._unreviewed, self.params.of_demo().labelled_share)):
            times.append(at + number * timedelta(minutes=1))
            self.records.pairs.label(pair.class_name, pair.image_id, labels[pair.image_id], "Grace", times[-1])
        return times

    def _end_waiting_classes(self, at: datetime) -> None:
        """When the first class has only the others to wait for, Ada lets those stay with their legacy models."""
        rollout, first = self.records.rollout, self.params.of_demo().fault_class
        state = rollout.state()
        others = [cls for cls in state.classes if cls.class_name != first and cls.planned]
        arrived = state.of(first)
        if arrived.phase is not Phase.LEGACY_OFF or at - arrived.since < _ENOUGH:
            return
        for other in others:
            if other.phase is Phase.SHADOW:
                lacks = "; ".join(observe_class(other, self.records, at, self.params).verdict.reasons)
                why = f"stays with its legacy model until a better candidate comes: {lacks}"
                self.records.approvals.order(Order(OrderKind.ROLL_BACK, (other.class_name,), "Ada", why), at)
            if other.phase is Phase.ROLLED_BACK:
                rollout.commit(leave(state, other.class_name, at, "Ada"))
                state = rollout.state()

    def _sign_checklist(self, cls: ClassState, at: datetime) -> None:
        """Ada's part of the checklist, when the legacy model is off."""
        if cls.phase is not Phase.LEGACY_OFF:
            return
        on_record = self.records.approvals.evidence(cls.class_name, cls.legacy)
        for item in sorted(_PEOPLE - set(on_record)):
            link = "https://example.org/migration/checklist"
            self.records.approvals.record_evidence(cls.class_name, cls.legacy, item, "Ada", at, link)
