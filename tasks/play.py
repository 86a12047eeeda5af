"""A migration in fast motion: days of images, people who review and approve, and a tick every evening."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from shadowline.detectors.load import load_detector
from shadowline.legacy import LegacyModel, Stated, examine
from shadowline.params import Params
from shadowline.params_file import editing
from shadowline.paths import Layout
from shadowline.progress import Progress, default_progress
from shadowline.records.pairs import Pair
from shadowline.records.stores import Records
from shadowline.rollout.engine import ActionKind
from shadowline.rollout.observation import Approval, ChecklistItem
from shadowline.rollout.phases import FORWARD, Phase
from shadowline.rollout.state import ClassState, RolloutState
from shadowline.simulation import JudgedStream, Light, Part, day_of_pairs, judge_stream, reviewed, sample_parts
from shadowline.views import ORIGINAL
from tasks.actions import settle
from tasks.records import tick_once
from tasks.registry import challenger_fingerprints

FIRST_DAY = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)  # a Monday; the play's own calendar
_EVENING = timedelta(hours=17)
_PEOPLE = frozenset(
    {
        ChecklistItem.NO_CRITICAL_ISSUE,
        ChecklistItem.DOCUMENTED,
        ChecklistItem.TRAINED,
        ChecklistItem.MONITORED,
        ChecklistItem.ROLLBACK_DOCUMENTED,
    }
)


class Curtain(StrEnum):
    """Why the play stopped."""

    FINISHED = "finished"  # every legacy model is deleted
    NEEDS_REMEDY = "needs_remedy"  # a class has rolled back and waits for a new candidate
    OUT_OF_DAYS = "out_of_days"  # params.demo.max_days are over


@dataclass(frozen=True)
class PlayResult:
    curtain: Curtain
    num_ticks: int
    last_day: datetime


@task
def baselines(params: Params, layout: Layout) -> list[LegacyModel]:
    """The single-class baselines of the evaluation: the legacy models of the play."""
    names = [name for wave in params.demo.waves for name in wave]
    return [examine(name, str(layout.legacy(name)), params, layout, Stated()) for name in names]


@task(cache_policy=NO_CACHE)
def play_days(records: Records, params: Params, root: Path, remedied: bool) -> PlayResult:
    """One day after the other until the curtain falls; a play that was interrupted goes on with the next day."""
    theatre, policy = _Theatre(records, params, Layout(root), default_progress()), _with_patience(params)
    challenger = challenger_fingerprints(params.registry.model_name)
    morning, num_ticks = _next_morning(records), 0
    with theatre.progress.task("migration", total=params.demo.max_days) as bar:
        while True:
            curtain = _curtain(records.rollout.state(), morning, params, remedied)
            if curtain is not None:
                return PlayResult(curtain, num_ticks, morning)
            theatre.day(morning)
            result = tick_once.fn(records, challenger, morning + _EVENING, policy)
            settle.fn(records, params, root, morning + _EVENING, frozenset(ActionKind))
            morning, num_ticks = morning + timedelta(days=1), num_ticks + 1
            bar.advance(note=result.reason[:60])


def _with_patience(params: Params) -> Params:
    """The latency of the play is that of whatever else runs here; the gate on the packaged model has judged speed."""
    patient = params.rollout.guards.latency.model_copy(update={"bound": params.demo.max_latency_ms})
    guards = params.rollout.guards.model_copy(update={"latency": patient})
    return params.model_copy(update={"rollout": params.rollout.model_copy(update={"guards": guards})})


@task
def apply_remedy(params_file: Path, params: Params) -> None:
    """Write the remedy's promises into params.yaml."""
    with editing(params_file) as content:
        for class_name, promise in params.demo.remedy.items():
            content["classes"][class_name]["target_fpr"] = promise


def is_remedied(params: Params) -> bool:
    """Whether the promises of the remedy are in params.yaml already."""
    return all(params.classes[class_name].target_fpr == promise for class_name, promise in params.demo.remedy.items())


def _curtain(state: RolloutState, morning: datetime, params: Params, remedied: bool) -> Curtain | None:
    if all(one.phase is Phase.LEGACY_DELETED for one in state.classes):
        return Curtain.FINISHED
    if morning - FIRST_DAY >= timedelta(days=params.demo.max_days):
        return Curtain.OUT_OF_DAYS
    failed = any(one.phase is Phase.ROLLED_BACK for one in state.classes)
    return Curtain.NEEDS_REMEDY if failed and not remedied else None


def _next_morning(records: Records) -> datetime:
    """The day after the last tick that left an event; days that left none are played again, to the same effect."""
    events = records.rollout.events()
    days = (events[-1].at - FIRST_DAY).days + 1 if events[-1].source else 0
    return FIRST_DAY + timedelta(days=days)


class _Theatre:
    """The stage: parts and what the models say of them, judged when first needed."""

    def __init__(self, records: Records, params: Params, layout: Layout, progress: Progress) -> None:
        self.records, self.params, self.layout, self.progress = records, params, layout, progress
        self._parts: dict[str, tuple[Part, ...]] = {}
        self._judged: dict[tuple[str, Light], JudgedStream] = {}
        self._yesterday: list[Pair] = []

    def day(self, morning: datetime) -> None:
        """Images in the morning, reviews of yesterday's at noon, paperwork in the afternoon."""
        state = self.records.rollout.state()
        pairs = [pair for one in state.classes for pair in self._pairs(one, morning)]
        self.records.pairs.record(pairs)
        self._review(morning + timedelta(hours=6))
        self._yesterday = pairs
        for one in state.classes:
            self._paperwork(one, morning + timedelta(hours=8))

    def _pairs(self, one: ClassState, morning: datetime) -> list[Pair]:
        if one.class_name not in self._parts:
            self._parts[one.class_name] = sample_parts(one.class_name, self.params, self.layout)
        parts, light = self._parts[one.class_name], self._light(one)
        candidate, legacy = self._said(one, one.candidate, light), self._said(one, one.legacy, light)
        return day_of_pairs(one, parts, candidate, legacy, morning, self.params.demo)

    def _light(self, one: ClassState) -> Light:
        """The camera of one class fails in its first canary, and is mended when the class has rolled back."""
        demo = self.params.demo
        fails = one.class_name == demo.fault_class and one.standing is Phase.CANARY and one.share > 0.1
        first = all(event.after.phase is not Phase.ROLLED_BACK for event in self.records.rollout.events(one.class_name))
        return demo.fault_light if fails and first else ORIGINAL

    def _said(self, one: ClassState, fingerprint: str, light: Light) -> JudgedStream:
        if (fingerprint, light) not in self._judged:
            location = self.records.rollout.model(fingerprint).location
            detector = load_detector(location, one.class_name)
            parts = self._parts[one.class_name]
            judged = judge_stream(parts, detector, light, self.params, self.layout, self.progress)
            self._judged[fingerprint, light] = judged
        return self._judged[fingerprint, light]

    def _review(self, at: datetime) -> None:
        labels = {part.image_id: part.label for parts in self._parts.values() for part in parts}
        looked_at = {(pair.class_name, pair.image_id) for pair in reviewed(self._yesterday, self.params.demo)}
        known = {(name, image) for name in self._parts for image in self.records.pairs.labelled_images(name)}
        for class_name, image_id in sorted(looked_at - known):
            self.records.pairs.label(class_name, image_id, labels[image_id], "Grace", at)

    def _paperwork(self, one: ClassState, at: datetime) -> None:
        """Ada says yes to the next phase; whether it is entered is for the evidence to say."""
        if one.phase not in FORWARD[:-1]:
            return
        target = FORWARD[FORWARD.index(one.phase) + 1]
        if target in self.params.rollout.approvals:
            self.records.rollout.approve(Approval(one.class_name, target, one.legacy, one.candidate, "Ada"), at)
        if target is Phase.LEGACY_DELETED:
            on_record = self.records.rollout.evidence(one.class_name, one.legacy)
            for item in sorted(_PEOPLE - set(on_record)):
                link = "https://example.org/migration/checklist"
                self.records.rollout.put_evidence(one.class_name, one.legacy, item, "Ada", at, link)
