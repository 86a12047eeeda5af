"""One tick of a rollout: `step(state, observation, policy) → (state, events, actions, reason)`. Pure.

A tick does everything that is due. To each class at most one of these happens, the first that applies:

    1. a person's order: roll back, hold, resume; one order a tick
    2. a rollback: a hard guard tripped
    3. a new challenger is tried: by a class that rolled back, and by one without a legacy model, where what was the
       candidate becomes the legacy model of its successor
    4. its group, the classes of one wave that stand in one phase, moves on; the worst of them decides
    5. while it waits in LEGACY, it follows the newest challenger, so that people approve what would really enter
    6. people are told of a guard that tripped and took nothing back, of a line that fell silent, and of misses that
       nothing measures

What failed stays failed until the fingerprint of the candidate changes. Nothing here counts ticks, and no class waits
for a tick of its own: evidence is as of the ends of quarters of an hour and of production days, and whatever the
evidence allows or demands happens at the first tick after it. See `tests/unit/rollout/test_passage_of_time.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from shadowline.core.params import RolloutParams
from shadowline.rollout.guards import GuardResult
from shadowline.rollout.observation import (
    ApprovalRequest,
    ChecklistItem,
    ClassObservation,
    Observation,
    Order,
    OrderKind,
)
from shadowline.rollout.phases import (
    BOTH_JUDGE,
    CANDIDATE_JUDGES,
    FORWARD,
    LEGACY_JUDGES,
    LEGAL_MOVES,
    TAKEN_OVER,
    WITHOUT_LEGACY,
    Phase,
    check_move,
)
from shadowline.rollout.state import NEW_PRODUCT, STAYS, ClassState, Event, RolloutState
from shadowline.rollout.verdict import VerdictOutcome

NOTHING = RolloutState(())
ENGINE = "engine"  # who moved a class when no person did
USUAL_PAUSE = 1.5  # times the longest pause so far: so a weekend, once there was one, raises no alarm


class ActionKind(StrEnum):
    """What has to happen outside after a move; each can be repeated without harm."""

    PROMOTE = "promote"  # MLflow: the version that holds every live candidate becomes champion; of no class alone
    ARCHIVE_LEGACY = "archive_legacy"  # copy the legacy model to the object storage, with its hash
    PROVE_ARCHIVE = "prove_archive"  # restore the archive and score known images
    DELETE_LEGACY = "delete_legacy"  # refuses unless the archive is proven
    NOTIFY = "notify"


@dataclass(frozen=True)
class Action:
    kind: ActionKind
    class_name: str  # empty for an action of the whole rollout
    fingerprint: str  # of the model that the action is about, likewise
    reason: str


@dataclass(frozen=True)
class RolloutStep:
    """The result of one tick."""

    state: RolloutState
    events: tuple[Event, ...]
    actions: tuple[Action, ...]
    reason: str  # one line for people
    waiting: tuple[str, ...]  # per class that did not move: what it waits for
    guards: dict[str, tuple[GuardResult, ...]]  # per class that was checked
    asks: tuple[ApprovalRequest, ...] = ()  # of groups of classes that lack nothing but approvals


def begin(
    waves: Sequence[Sequence[str]],
    legacy: Mapping[str, str],
    candidate: Mapping[str, str],
    now: datetime,
    by: str,
    before: RolloutState = NOTHING,
    without_legacy: Collection[str] = (),
) -> tuple[RolloutState, tuple[Event, ...]]:
    """Plan waves of classes, after those planned already, given the fingerprints of both models of each class.

    A class that has not begun to move, or was taken back, may be named again: it changes its wave. Classes of
    `without_legacy` start with no model at all, and their first one answers alone. Raises ValueError for a class that
    lacks a model, that is on its way already, or that is named twice.
    """
    names = [name for wave in waves for name in wave]
    if len(set(names)) < len(names):
        raise ValueError(f"rollout: a class occurs twice in {sorted(names)}")
    if unplanned := sorted(set(without_legacy) - set(names)):
        raise ValueError(f"rollout: {', '.join(unplanned)}: in no wave; add to the plan, or leave out --without-legacy")
    last = max((cls.wave for cls in before.classes), default=0)
    states = [
        _planned(name, number, (legacy, candidate), now, before, without_legacy)
        for number, wave in enumerate(waves, start=max(last, 0) + 1)
        for name in sorted(wave)
    ]
    return _changed(before, states, now, by)


def _planned(
    name: str,
    wave: int,
    models: tuple[Mapping[str, str], Mapping[str, str]],
    now: datetime,
    before: RolloutState,
    without_legacy: Collection[str],
) -> ClassState:
    legacy, candidate = models
    present = next((cls for cls in before.classes if cls.class_name == name), None)
    if present is not None and present.phase is Phase.ROLLED_BACK:
        return replace(present, wave=wave, reason="planned again")
    if present is not None and present.phase is not Phase.LEGACY:
        raise ValueError(f"class {name!r}: is in {present.phase} already; `shadowline rollout status` shows it")
    if name not in legacy and name not in without_legacy:
        raise ValueError(
            f"class {name!r}: no legacy model is registered; run `shadowline legacy import`, or say --without-legacy"
        )
    if name in legacy and name in without_legacy:
        raise ValueError(f"class {name!r}: has a legacy model, {legacy[name][:12]}; leave out --without-legacy")
    if name not in candidate:
        raise ValueError(f"class {name!r}: the challenger does not know it; run `shadowline retrain`")
    return ClassState(name, wave, Phase.LEGACY, now, legacy.get(name, ""), candidate[name], 0.0, reason="planned")


def leave(state: RolloutState, class_name: str, now: datetime, by: str) -> RolloutStep:
    """The class stays with its legacy model, if it has one, and no wave waits for it; it can be planned again.

    Where it was the last that had not been taken over, the others are promoted. Raises ValueError for a class that has
    begun to move: a person's rollback comes first.
    """
    cls = state.of(class_name)
    if cls.phase not in {Phase.LEGACY, Phase.ROLLED_BACK}:
        raise ValueError(f"class {class_name!r}: is in {cls.phase}; `shadowline rollout rollback` comes first")
    reason = "left the plan"
    after, events = _changed(state, [replace(cls, wave=STAYS, reason=reason)], now, by)
    return RolloutStep(after, events, _promotion(state, after), reason, (), {})


def retire(state: RolloutState, cls: ClassState, now: datetime, by: str, why: str) -> RolloutStep:
    """The class leaves the rollout from any phase: no model answers for it any more, and its events stay.

    A legacy model that may still be there is archived. Where the class was the last that had not been taken over, the
    others are promoted. `cls` need not be in the rollout: a class outside of it is answered by models on record.
    """
    retired = replace(
        cls, phase=Phase.RETIRED, wave=STAYS, since=now, share=0.0, held_from=None, held_at=None, days_before=0,
        reason=f"{by}: {why}",
    )  # fmt: skip
    after, events = _changed(state, [retired], now, by)
    archive = Action(ActionKind.ARCHIVE_LEGACY, cls.class_name, cls.legacy, retired.reason)
    notify = Action(ActionKind.NOTIFY, cls.class_name, cls.candidate, f"{Phase.RETIRED}: {retired.reason}")
    has_legacy = cls.legacy and cls.standing not in WITHOUT_LEGACY
    actions = (*((archive,) if has_legacy else ()), notify, *_promotion(state, after))
    return RolloutStep(after, events, actions, retired.reason, (), {})


def _changed(
    before: RolloutState, states: Sequence[ClassState], now: datetime, by: str
) -> tuple[RolloutState, tuple[Event, ...]]:
    all_before = (*before.classes, *before.retired)
    phases = {cls.class_name: cls.phase for cls in all_before}
    events = tuple(
        Event(number, now, by, phases.get(cls.class_name), cls)
        for number, cls in enumerate(states, start=before.revision + 1)
    )
    changed = {state.class_name: state for state in states}
    kept = [cls for cls in all_before if cls.class_name not in changed]
    return RolloutState.of_all((*kept, *states), before.revision + len(events)), events


def join(state: RolloutState, class_name: str, starter: str, now: datetime, by: str) -> tuple[Event, ...]:
    """The event that adds a new product, or gives it a better starter model; empty where nothing changes.

    The class stands in LEGACY, with its starter in the place of a legacy model, in no wave. Once a candidate of the
    class is active, the starter that it is compared with stays as it is.
    """
    present = next((cls for cls in state.classes if cls.class_name == class_name), None)
    reason = f"enrolled, {starter[:12]} answers"
    if present is None:
        cls = ClassState(class_name, NEW_PRODUCT, Phase.LEGACY, now, starter, "", 0.0, reason=reason)
        source = Phase.RETIRED if class_name in state.retired_names else None
        return (Event(state.revision + 1, now, by, source, cls),)
    if present.phase is not Phase.LEGACY or present.legacy == starter:
        return ()
    cls = replace(present, legacy=starter, since=now, reason=reason)
    return (Event(state.revision + 1, now, by, present.phase, cls),)


def retune(state: RolloutState, class_name: str, candidate: str, now: datetime, by: str, reason: str) -> RolloutStep:
    """The class goes on with `candidate`, which differs from its present one in the threshold alone.

    Phase, share and evidence stay; the days of the phase begin again, and approvals of the former candidate are void.
    Raises ValueError where not both models judge, or a person holds the class.
    """
    cls = state.of(class_name)
    if cls.phase not in BOTH_JUDGE:
        phases = ", ".join(phase for phase in FORWARD if phase in BOTH_JUDGE)
        raise ValueError(
            f"class {class_name!r}: is in {cls.phase}; a threshold is tuned in {phases}, where both models judge"
        )
    if candidate in {cls.candidate, cls.legacy}:
        raise ValueError(f"class {class_name!r}: {candidate[:12]} is at work there already; name another version")
    tuned = replace(cls, candidate=candidate, since=now, days_before=0, reason=reason)
    after = replace(state.with_classes([tuned]), revision=state.revision + 1)
    promote = (Action(ActionKind.PROMOTE, "", "", "every class is live"),) if after.all_taken_over else ()
    return RolloutStep(after, (Event(after.revision, now, by, cls.phase, tuned),), promote, reason, (), {})


def step(state: RolloutState, seen: Observation, policy: RolloutParams) -> RolloutStep:
    """One tick; raises ValueError for an order that names an unknown class."""
    seen = replace(seen, now=seen.now.astimezone(UTC))
    guards = {
        cls.class_name: observed.guards for cls in state.classes if (observed := _evidence_of(cls, seen)) is not None
    }
    tick = _Tick(state, seen, policy, guards)
    changes: dict[str, _Change] = {}
    for decide in (_obey, _take_back, _try_again):
        changes |= decide(tick, changes)
    tick = replace(tick, state=state.with_classes(change.after for change in changes.values()))
    changes |= _move_on(tick, changes)
    waiting, asks = tuple(_waiting(tick, changes)), tuple(_asks(tick, changes))
    moved = [change.after for change in changes.values()]
    for note in (_follow, _notice):
        changes |= note(tick, changes)
    events = _events(state, changes.values(), seen.now)
    after = replace(state.with_classes(event.after for event in events), revision=state.revision + len(events))
    reason = moved[0].reason if moved else (waiting[0] if waiting else "nothing to do")
    actions = (*_actions(state, moved), *_promotion(state, after), *_notifications(state, after))
    return RolloutStep(after, events, actions, reason, waiting, guards, asks)


@dataclass(frozen=True)
class _Tick:
    """What a tick decides from."""

    state: RolloutState  # before it; for moves forward, with what orders, guards and challengers have changed already
    seen: Observation
    policy: RolloutParams
    guards: Mapping[str, tuple[GuardResult, ...]]  # class → guards, where there is evidence of its models


@dataclass(frozen=True)
class _Change:
    after: ClassState
    by: str = ENGINE


_Changes = Mapping[str, _Change]  # class → what happens to it at this tick


def _evidence_of(cls: ClassState, seen: Observation) -> ClassObservation | None:
    """The observation of exactly these two models; None where there is none."""
    observed = seen.of(cls.class_name)
    if observed is None or (observed.legacy, observed.candidate) != (cls.legacy, cls.candidate):
        return None
    return observed if cls.standing in CANDIDATE_JUDGES else None


# --- 1. orders of people ----------------------------------------------------------------------------------------


def _obey(tick: _Tick, _: _Changes) -> dict[str, _Change]:
    for order in tick.seen.orders:
        targets = [tick.state.of(name) for name in order.classes if name not in tick.state.retired_names]
        changed = [cls for cls in (_apply(order, before, tick.seen) for before in targets) if cls is not None]
        if changed:
            return {cls.class_name: _Change(cls, order.by) for cls in changed}
    return {}


def _apply(order: Order, cls: ClassState, seen: Observation) -> ClassState | None:
    """The class after the order; None where the order would change nothing (`objection`)."""
    if objection(order.kind, cls):
        return None
    reason = f"{order.by}: {order.why}"
    if order.kind is OrderKind.ROLL_BACK:
        return _rolled_back(cls, seen.now, reason)
    if order.kind is OrderKind.HOLD:
        days = _phase_days(cls, seen)
        return replace(
            cls, phase=Phase.HELD, held_from=cls.phase, held_at=seen.now, days_before=days, reason=reason
        )  # fmt: skip
    return replace(cls, phase=cls.held_from or cls.phase, since=seen.now, held_from=None, held_at=None, reason=reason)


def objection(kind: OrderKind, cls: ClassState) -> str:
    """Why an order would change nothing about a class as it stands; empty where it does."""
    if kind is OrderKind.ROLL_BACK and cls.phase in WITHOUT_LEGACY:
        return f"is in {cls.phase}: no legacy model is left to go back to; see `shadowline legacy restore`"
    if kind is OrderKind.ROLL_BACK and (cls.standing is Phase.LEGACY or not _can_go_back(cls)):
        return f"is in {cls.phase}: no candidate is at work"
    if kind is OrderKind.HOLD and Phase.HELD not in LEGAL_MOVES[cls.phase]:
        return f"is in {cls.phase}, from where nothing moves it on"
    return "is not held" if kind is OrderKind.RESUME and cls.held_from is None else ""


def awaited_approval(cls: ClassState, policy: RolloutParams) -> Phase | None:
    """The phase that comes next, where it needs a person's approval; None otherwise."""
    target = _next(cls, policy)[0] if cls.phase in FORWARD[:-1] else None
    return target if target in policy.approvals and target is not cls.phase else None


def _phase_days(cls: ClassState, seen: Observation) -> int:
    """Production days of the phase, or of its present share, without those while it was held."""
    observed = _evidence_of(cls, seen)
    return cls.days_before + (observed.phase_days if observed is not None and cls.phase is not Phase.HELD else 0)


# --- 2. guards --------------------------------------------------------------------------------------------------


def _take_back(tick: _Tick, changes: _Changes) -> dict[str, _Change]:
    causes: dict[str, str] = {}
    for cls in tick.state.classes:
        if _can_go_back(cls) and cls.standing is not Phase.LEGACY:
            tripped = [guard.reason for guard in tick.guards.get(cls.class_name, ()) if guard.active and guard.hard]
            causes |= {cls.class_name: "; ".join(tripped)} if tripped else {}
    if tick.policy.rollback_scope == "wave":
        causes = _spread(tick.state, causes)
    now = tick.seen.now
    return {
        name: _Change(_rolled_back(tick.state.of(name), now, cause))
        for name, cause in causes.items()
        if name not in changes or changes[name].after.phase is not Phase.ROLLED_BACK  # by a person already
    }


def _can_go_back(cls: ClassState) -> bool:
    return Phase.ROLLED_BACK in LEGAL_MOVES[cls.phase]


def _spread(state: RolloutState, causes: dict[str, str]) -> dict[str, str]:
    """The same causes, and one for every class with an active candidate in the wave of a class whose guard tripped."""
    by_wave = {state.of(name).wave: name for name in causes if state.of(name).planned}
    mates = {
        cls.class_name: f"wave {cls.wave} goes back with {by_wave[cls.wave]}"
        for cls in state.classes
        if cls.wave in by_wave and cls.standing in BOTH_JUDGE and _can_go_back(cls)
    }
    return {**mates, **causes}


def _rolled_back(cls: ClassState, now: datetime, reason: str) -> ClassState:
    return replace(
        cls, phase=Phase.ROLLED_BACK, since=now, share=0.0, held_from=None, held_at=None, days_before=0,
        evidence_since=None, answering_since=None, alarmed_at=None, silent_since=None, alarm="", reason=reason,
    )  # fmt: skip


# --- 3. recovery ------------------------------------------------------------------------------------------------


def _try_again(tick: _Tick, changes: _Changes) -> dict[str, _Change]:
    now, tried = tick.seen.now, []
    for cls in tick.state.classes:
        new = tick.seen.challenger.get(cls.class_name, cls.candidate)
        if new == cls.candidate or cls.wave == STAYS or cls.class_name in changes:
            continue
        if cls.phase is Phase.ROLLED_BACK:
            reason = f"a new candidate, {new[:12]}, tries again"
            tried.append(_enter(replace(cls, candidate=new), Phase.SHADOW, now, 0.0, reason))
        elif cls.phase in WITHOUT_LEGACY:
            reason = f"{new[:12]} wants to succeed {cls.candidate[:12]}"
            successions = cls.num_successions + 1
            heir = replace(cls, legacy=cls.candidate, candidate=new, num_successions=successions)
            tried.append(_enter(heir, Phase.SHADOW, now, 0.0, reason))
    return {cls.class_name: _Change(cls) for cls in tried}


# --- 4. forward -------------------------------------------------------------------------------------------------


def _move_on(tick: _Tick, changes: _Changes) -> dict[str, _Change]:
    """Every group whose classes are all ready, new products before waves, early waves and late phases first."""
    return {
        cls.class_name: _Change(_advance(cls, tick.seen, tick.policy))
        for group in _groups(tick.state)
        if not any(cls.class_name in changes or _obstacles(cls, tick) for cls in group)
        for cls in group
    }


def _waiting(tick: _Tick, changes: _Changes) -> Iterator[str]:
    """What the groups that do not move at this tick wait for."""
    for group in _groups(tick.state):
        yield from (line for cls in group if cls.class_name not in changes for line in _obstacles(cls, tick))


def _groups(state: RolloutState) -> Iterator[tuple[ClassState, ...]]:
    """Classes that move together: a new product alone, those of a wave that stand in one phase."""
    for phase in reversed(FORWARD[:-1]):
        yield from ((cls,) for cls in state.wave(NEW_PRODUCT) if cls.phase is phase)
    for wave in state.waves:
        for phase in reversed(FORWARD[:-1]):
            if group := tuple(cls for cls in state.wave(wave) if cls.phase is phase):
                yield group


def _obstacles(cls: ClassState, tick: _Tick) -> list[str]:
    """Everything that keeps a class where it stands."""
    lines = _unfulfilled(cls, tick)
    if (request := _missing_approval(cls, tick)) is not None:
        lines.append(f"{cls.class_name}: a person's approval of {request.target} with exactly these models")
    return lines


def _missing_approval(cls: ClassState, tick: _Tick) -> ApprovalRequest | None:
    target, _ = _next(cls, tick.policy)
    cls = _with_newest(cls, tick.seen) if cls.phase is Phase.LEGACY else cls
    needed = target is not cls.phase and target in tick.policy.approvals
    if not needed or tick.seen.approval(cls.class_name, target, cls.legacy, cls.candidate):
        return None
    return ApprovalRequest(cls.class_name, target, cls.legacy, cls.candidate)


def _asks(tick: _Tick, changes: _Changes) -> Iterator[ApprovalRequest]:
    """The missing approvals of every group of classes that lacks nothing else."""
    for group in _groups(tick.state):
        if not any(cls.class_name in changes or _unfulfilled(cls, tick) for cls in group):
            requests = (_missing_approval(cls, tick) for cls in group)
            yield from (request for request in requests if request is not None)


def _unfulfilled(cls: ClassState, tick: _Tick) -> list[str]:
    """What keeps a class where it stands, except for a missing approval."""
    state, seen, policy = tick.state, tick.seen, tick.policy
    target, _ = _next(cls, policy)
    lines = [guard.reason for guard in tick.guards.get(cls.class_name, ()) if guard.active]
    if cls.phase is Phase.LEGACY:
        cls = _with_newest(cls, seen)
        lines += _earlier_waves(cls, state, seen, policy)
        if target is Phase.SHADOW and cls.class_name not in seen.challenger:
            lines.append("a challenger that knows the class")
    else:
        lines += _calendar(cls, seen, policy)
        lines += _missing_evidence(cls, _evidence_of(cls, seen), state, seen, target, policy)
    return [f"{cls.class_name}: {line}" for line in lines]


def _next(cls: ClassState, policy: RolloutParams) -> tuple[Phase, float]:
    """Where a class goes from here, and with which share: the next share of the canary, or the next phase."""
    if cls.phase is Phase.LEGACY and not cls.legacy:
        return Phase.ALONE, 1.0
    higher = [share for share in policy.canary_shares if share > cls.share]
    if cls.phase is Phase.CANARY and higher:
        return Phase.CANARY, higher[0]
    target = FORWARD[FORWARD.index(cls.phase) + 1]
    if target is Phase.CANARY:
        return target, policy.canary_shares[0]
    return target, 1.0 if target in TAKEN_OVER else 0.0


def _calendar(cls: ClassState, seen: Observation, policy: RolloutParams) -> list[str]:
    needed = {
        Phase.CANARY: policy.canary_days,
        Phase.LIVE: policy.stabilisation_days,
        Phase.LEGACY_READ_ONLY: policy.read_only_days,
        Phase.LEGACY_OFF: policy.off_days,
    }.get(cls.phase, 0)
    missing = needed - _phase_days(cls, seen)
    return [f"{missing} more production days of {cls.phase}"] if missing > 0 else []


def _earlier_waves(cls: ClassState, state: RolloutState, seen: Observation, policy: RolloutParams) -> list[str]:
    """Classes of earlier waves that are not live and stable; successors keep nobody waiting."""
    return [
        f"{other.class_name} of wave {other.wave}, which is {other.phase}, to be live and stable"
        for other in state.classes
        if cls.planned and other.planned and other.wave < cls.wave and not _has_migrated(other, seen, policy)
    ]


def _has_migrated(cls: ClassState, seen: Observation, policy: RolloutParams) -> bool:
    """Whether a candidate, the present or a former one, has taken over and completed its weeks of stabilisation."""
    is_stable = cls.phase in TAKEN_OVER and not (cls.phase is Phase.LIVE and _calendar(cls, seen, policy))
    return is_stable or cls.num_successions > 0


def _missing_evidence(
    cls: ClassState,
    observed: ClassObservation | None,
    state: RolloutState,
    seen: Observation,
    target: Phase,
    policy: RolloutParams,
) -> list[str]:
    if observed is None:
        return ["evidence of exactly these models"]
    lines = []
    opens_with_verdict = target is Phase.LEGACY_OFF or cls.phase is Phase.SHADOW
    if opens_with_verdict and observed.verdict.outcome is not VerdictOutcome.PASS:
        lines += [f"verdict {observed.verdict.outcome}: {'; '.join(observed.verdict.reasons)}"]
    if target is Phase.LEGACY_OFF and observed.parallel_days < policy.parallel_days:
        lines += [f"{policy.parallel_days - observed.parallel_days} more production days of parallel operation"]
    if target is Phase.LEGACY_DELETED:
        lines += [observed.unproven_misses] if observed.unproven_misses else []
        on_record = observed.evidence - {ChecklistItem.ALL_MIGRATED} | {ChecklistItem.PARALLEL_OPERATION}
        if all(_has_migrated(other, seen, policy) for other in state.classes if other.planned):
            on_record |= {ChecklistItem.ALL_MIGRATED}  # no record of a person can stand for this
        lacking = sorted(set(ChecklistItem) - on_record)
        lines += [f"checklist: {', '.join(lacking)}"] if lacking else []
    return lines


def _advance(cls: ClassState, seen: Observation, policy: RolloutParams) -> ClassState:
    target, share = _next(cls, policy)
    if target is cls.phase:
        return replace(cls, share=share, since=seen.now, days_before=0, reason=f"canary rises to {share:.0%}")
    if cls.phase is Phase.LEGACY:
        alone = "the first model of the class answers, and no other"
        reason = alone if target is Phase.ALONE else f"wave {cls.wave} begins" if cls.planned else "its turn has come"
        return _enter(_with_newest(cls, seen), target, seen.now, share, reason)
    observed = seen.of(cls.class_name)
    proof = "; ".join(observed.verdict.reasons) if observed and cls.phase is Phase.SHADOW else "time and checks"
    return _enter(cls, target, seen.now, share, f"{cls.phase} is fulfilled: {proof}")


def _enter(cls: ClassState, target: Phase, now: datetime, share: float, reason: str) -> ClassState:
    begins = target in {Phase.SHADOW, Phase.ALONE}
    return replace(
        cls,
        phase=target,
        since=now,
        share=share,
        days_before=0,
        evidence_since=now if begins else cls.evidence_since,
        answering_since=None if begins else (cls.answering_since or now),
        alarmed_at=None if begins else cls.alarmed_at,
        silent_since=None if begins else cls.silent_since,
        alarm="" if begins else cls.alarm,
        reason=reason,
    )


def _with_newest(cls: ClassState, seen: Observation) -> ClassState:
    """The class with the candidate that would enter now."""
    return replace(cls, candidate=seen.challenger.get(cls.class_name, cls.candidate))


# --- 5. what waits, and 6. what people are told ------------------------------------------------------------------


def _follow(tick: _Tick, changes: _Changes) -> dict[str, _Change]:
    waiting = [cls for cls in tick.state.classes if cls.phase is Phase.LEGACY and cls.wave != STAYS]
    newest = [_with_newest(cls, tick.seen) for cls in waiting if cls.class_name not in changes]
    return {
        cls.class_name: _Change(replace(cls, reason=f"waits with {cls.candidate[:12]}"))
        for cls in newest
        if cls.candidate != tick.state.of(cls.class_name).candidate
    }


def _notice(tick: _Tick, changes: _Changes) -> dict[str, _Change]:
    noticed = [_told(cls, tick) for cls in tick.state.classes if cls.class_name not in changes]
    return {cls.class_name: _Change(cls) for cls in noticed if cls != tick.state.of(cls.class_name)}


def _told(cls: ClassState, tick: _Tick) -> ClassState:
    """The class, with what people have to be told recorded in its state."""
    observed = _evidence_of(cls, tick.seen)
    if observed is None:
        return cls
    silent_since = _silent_since(cls, observed, tick.seen.now, tick.policy)
    lines = []
    if silent_since is not None and silent_since != cls.silent_since:
        lines.append(f"no image since {silent_since:%Y-%m-%d %H:%M} UTC; does the line run?")
    lines += [line for line in _unmeasured(cls, observed) if line not in cls.alarm]
    telling = [guard for guard in observed.guards if guard.crossed_at and _only_tells(guard, cls)]
    newest = max((guard.crossed_at[-1] for guard in telling), default=None)
    if newest is not None and (cls.alarmed_at is None or newest > cls.alarmed_at):
        lines += [guard.reason for guard in telling if cls.alarmed_at is None or guard.crossed_at[-1] > cls.alarmed_at]
        cls = replace(cls, alarmed_at=newest)
    return replace(cls, silent_since=silent_since, alarm="; ".join(lines) or cls.alarm)


def _unmeasured(cls: ClassState, observed: ClassObservation) -> Iterator[str]:
    """Without the legacy model, only labels of parts that no model chose measure misses."""
    if observed.unmeasured_since is not None and cls.standing not in LEGACY_JUDGES:
        yield (
            f"misses are not measured since {observed.unmeasured_since:%Y-%m-%d}: label the parts drawn for review, "
            "or send parts of known label"
        )


def _only_tells(guard: GuardResult, cls: ClassState) -> bool:
    """Whether the guard rolls nothing back: it is soft, or there is no legacy model to go back to."""
    return not guard.hard or cls.standing in WITHOUT_LEGACY


def _silent_since(cls: ClassState, observed: ClassObservation, now: datetime, policy: RolloutParams) -> datetime | None:
    """Since when no image has come, where that is longer than the policy's hours and than pauses usually are."""
    last = observed.last_received or cls.evidence_since or now
    patience = max(timedelta(hours=policy.silence_hours), USUAL_PAUSE * observed.longest_pause)
    return last if now - last > patience else None


def _notifications(before: RolloutState, after: RolloutState) -> Iterator[Action]:
    for cls in after.classes:
        if cls.alarm and cls.alarm != before.of(cls.class_name).alarm:
            yield Action(ActionKind.NOTIFY, cls.class_name, cls.candidate, f"alarm: {cls.alarm}")


# --- what a tick leaves behind ----------------------------------------------------------------------------------


def _events(state: RolloutState, changes: Iterable[_Change], now: datetime) -> tuple[Event, ...]:
    events = []
    for number, change in enumerate(changes, start=state.revision + 1):
        after, source = change.after, state.of(change.after.class_name).phase
        if source is not after.phase:
            check_move(after.class_name, source, after.phase)
        events.append(Event(number, now, change.by, source, after))
    return tuple(events)


def _actions(before: RolloutState, changed: Iterable[ClassState]) -> tuple[Action, ...]:
    actions: list[Action] = []
    on_entry = {
        Phase.LEGACY_READ_ONLY: ActionKind.ARCHIVE_LEGACY,
        Phase.LEGACY_OFF: ActionKind.PROVE_ARCHIVE,
        Phase.LEGACY_DELETED: ActionKind.DELETE_LEGACY,
    }
    for cls in changed:
        moved = before.of(cls.class_name).phase is not cls.phase
        if moved and cls.phase in on_entry and before.of(cls.class_name).phase is not Phase.HELD:
            actions.append(Action(on_entry[cls.phase], cls.class_name, cls.legacy, cls.reason))
        if moved:
            actions.append(Action(ActionKind.NOTIFY, cls.class_name, cls.candidate, f"{cls.phase}: {cls.reason}"))
    return tuple(actions)


def _promotion(before: RolloutState, after: RolloutState) -> tuple[Action, ...]:
    if after.all_taken_over and not before.all_taken_over:
        return (Action(ActionKind.PROMOTE, "", "", "every class is live"),)
    return ()
