"""One tick of a rollout: `step(state, observation, policy) → (state, events, actions, reason)`. Pure.

At a tick at most one of these happens, the first that applies:

    1. a person's order: roll back, hold, resume
    2. classes are taken back: a hard guard tripped, the budget of soft failures is spent, or shadow mode has failed
    3. a new challenger is tried: by classes that rolled back, and by those whose legacy model is deleted, where what
       was the candidate becomes the legacy model of its successor
    4. one group of classes, those of one wave that stand in one phase, moves on; the worst of them decides

Beside it, failed soft guards are counted. What failed stays failed until the fingerprint of the candidate changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from shadowline.params import RolloutParams
from shadowline.rollout.guards import GuardResult, check_guards
from shadowline.rollout.observation import ChecklistItem, ClassObservation, Observation, Order, OrderKind
from shadowline.rollout.phases import BOTH_JUDGE, CANDIDATE_JUDGES, FORWARD, LEGAL_MOVES, TAKEN_OVER, Phase, check_move
from shadowline.rollout.state import ClassState, Event, RolloutState
from shadowline.shadow import Outcome

NOTHING = RolloutState(())
ENGINE = "engine"  # who moved a class when no person did


@dataclass(frozen=True)
class Policy:
    """The numbers that decide: params.rollout, and the confidence of params.shadow."""

    rollout: RolloutParams
    confidence: float


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
class Step:
    """What one tick came to."""

    state: RolloutState
    events: tuple[Event, ...]
    actions: tuple[Action, ...]
    reason: str  # one line for people
    waiting: tuple[str, ...]  # per class that did not move: what it waits for
    guards: dict[str, tuple[GuardResult, ...]]  # per class that was checked


def begin(
    waves: Sequence[Sequence[str]],
    legacy: Mapping[str, str],
    candidate: Mapping[str, str],
    now: datetime,
    by: str,
    before: RolloutState = NOTHING,
) -> tuple[RolloutState, tuple[Event, ...]]:
    """A rollout with every class in LEGACY, from the fingerprints of both models of each class.

    `before` holds new products that were enrolled earlier. Raises ValueError for a class that lacks a model, that is
    there already, or for a migration that has been planned already.
    """
    if any(one.planned for one in before.classes):
        raise ValueError("a rollout is on record already; `shadowline rollout status` shows it")
    states: list[ClassState] = []
    for number, wave in enumerate(waves, start=1):
        for name in sorted(wave):
            if name not in legacy:
                raise ValueError(f"class {name!r}: no legacy model is registered; run `shadowline legacy import`")
            if name not in candidate:
                raise ValueError(f"class {name!r}: the challenger does not know it; run `shadowline retrain`")
            states.append(
                ClassState(name, number, Phase.LEGACY, now, legacy[name], candidate[name], 0.0, reason="planned")
            )
    events = tuple(Event(i, now, by, None, one) for i, one in enumerate(states, start=before.revision + 1))
    return RolloutState((*before.classes, *states), before.revision + len(events)), events


def join(state: RolloutState, class_name: str, starter: str, now: datetime, by: str) -> tuple[Event, ...]:
    """The event by which a new product comes in, or by which it gets a better starter model; or none.

    It stands in LEGACY, with its starter in the place of a legacy model, in no wave. Once a candidate of the
    class is at work, the starter that it is compared with stays as it is.
    """
    known = next((one for one in state.classes if one.class_name == class_name), None)
    reason = f"enrolled, {starter[:12]} answers"
    if known is None:
        one = ClassState(class_name, 0, Phase.LEGACY, now, starter, "", 0.0, reason=reason)
        return (Event(state.revision + 1, now, by, None, one),)
    if known.phase is not Phase.LEGACY or known.legacy == starter:
        return ()
    one = replace(known, legacy=starter, since=now, reason=reason)
    return (Event(state.revision + 1, now, by, known.phase, one),)


def step(state: RolloutState, seen: Observation, policy: Policy) -> Step:
    """One tick; raises ValueError for an order that names an unknown class."""
    guards = {
        one.class_name: check_guards(one, seen.of(one.class_name), seen.now, policy.rollout, policy.confidence)
        for one in state.classes
        if one.standing in CANDIDATE_JUDGES - {Phase.LEGACY_DELETED}
    }
    changed, by, waiting = _decide(state, seen, policy.rollout, guards)
    counted = _count_soft_failures(state, guards, {one.class_name for one in changed})
    events = _events(state, (*changed, *counted), by, seen.now)
    after = replace(state.with_classes((*changed, *counted)), revision=state.revision + len(events))
    reason = changed[0].reason if changed else (waiting[0] if waiting else "nothing to do")
    return Step(after, events, _actions(state, after, changed), reason, waiting, guards)


Decision = tuple[tuple[ClassState, ...], str, tuple[str, ...]]  # changed classes, by whom, what the others wait for


def _decide(
    state: RolloutState, seen: Observation, policy: RolloutParams, guards: dict[str, tuple[GuardResult, ...]]
) -> Decision:
    for decide in (_obey, _take_back, _try_again):
        changed, by = decide(state, seen, policy, guards)
        if changed:
            return changed, by, ()
    return _move_on(state, seen, policy, guards)


# --- 1. orders of people ----------------------------------------------------------------------------------------


def _obey(
    state: RolloutState, seen: Observation, policy: RolloutParams, guards: object
) -> tuple[tuple[ClassState, ...], str]:
    for order in seen.orders:
        asked = [state.of(name) for name in order.classes]
        changed = tuple(one for one in (_apply(order, before, seen.now) for before in asked) if one is not None)
        if changed:
            return changed, order.by
    return (), ENGINE


def _apply(order: Order, one: ClassState, now: datetime) -> ClassState | None:
    """The class after the order, or None where the order means nothing: it is there already, or it is the end."""
    reason = f"{order.by}: {order.why}"
    if order.kind is OrderKind.ROLL_BACK and Phase.ROLLED_BACK in LEGAL_MOVES[one.phase]:
        return None if one.standing is Phase.LEGACY else _rolled_back(one, now, reason)
    if order.kind is OrderKind.HOLD and Phase.HELD in LEGAL_MOVES[one.phase]:
        return replace(one, phase=Phase.HELD, held_from=one.phase, held_at=now, reason=reason)
    if order.kind is OrderKind.RESUME and one.held_from is not None and one.held_at is not None:
        since = one.since + (now - one.held_at)
        return replace(one, phase=one.held_from, since=since, held_from=None, held_at=None, reason=reason)
    return None


# --- 2. guards --------------------------------------------------------------------------------------------------


def _take_back(
    state: RolloutState, seen: Observation, policy: RolloutParams, guards: dict[str, tuple[GuardResult, ...]]
) -> tuple[tuple[ClassState, ...], str]:
    causes: dict[str, str] = {}
    for one in state.classes:
        if Phase.ROLLED_BACK in LEGAL_MOVES[one.phase]:
            cause = _cause(one, guards, policy) or _failed_shadow(one, seen.of(one.class_name))
            causes |= {one.class_name: cause} if cause else {}
    if policy.rollback_scope == "wave":
        causes = _spread(state, causes)
    return tuple(_rolled_back(state.of(name), seen.now, cause) for name, cause in causes.items()), ENGINE


def _cause(one: ClassState, guards: dict[str, tuple[GuardResult, ...]], policy: RolloutParams) -> str:
    tripped = [guard for guard in guards.get(one.class_name, ()) if guard.tripped]
    hard = [guard.reason for guard in tripped if guard.hard]
    if hard:
        return "; ".join(hard)
    if one.phase is not Phase.HELD and tripped and one.soft_failures >= policy.soft_budget:
        return f"{one.soft_failures + 1} failed soft checks, budget {policy.soft_budget}; last: {tripped[0].reason}"
    return ""


def _failed_shadow(one: ClassState, seen: ClassObservation | None) -> str:
    """The reasons of a negative shadow verdict on exactly these models, or nothing."""
    if one.phase is not Phase.SHADOW or seen is None or (seen.legacy, seen.candidate) != (one.legacy, one.candidate):
        return ""
    return "; ".join(seen.verdict.reasons) if seen.verdict.outcome is Outcome.FAIL else ""


def _spread(state: RolloutState, causes: dict[str, str]) -> dict[str, str]:
    """The same causes, and for every wave mate whose candidate is at work the one of the class that tripped."""
    by_wave = {state.of(name).wave: name for name in causes if state.of(name).planned}
    mates = {
        one.class_name: f"wave {one.wave} goes back with {by_wave[one.wave]}"
        for one in state.classes
        if one.wave in by_wave and one.standing in BOTH_JUDGE and Phase.ROLLED_BACK in LEGAL_MOVES[one.phase]
    }
    return {**mates, **causes}


def _rolled_back(one: ClassState, now: datetime, reason: str) -> ClassState:
    return replace(
        one, phase=Phase.ROLLED_BACK, since=now, share=0.0, soft_failures=0, last_failure="", held_from=None,
        held_at=None, parallel_since=None, reason=reason,
    )  # fmt: skip


# --- 3. recovery ------------------------------------------------------------------------------------------------


def _try_again(
    state: RolloutState, seen: Observation, policy: RolloutParams, guards: object
) -> tuple[tuple[ClassState, ...], str]:
    changed = []
    for one in state.classes:
        new = seen.challenger.get(one.class_name, one.candidate)
        if new == one.candidate:
            continue
        if one.phase is Phase.ROLLED_BACK:
            reason = f"a new candidate, {new[:12]}, tries again"
            changed.append(_enter(replace(one, candidate=new), Phase.SHADOW, seen.now, 0.0, reason))
        elif one.phase is Phase.LEGACY_DELETED:
            reason = f"{new[:12]} wants to succeed {one.candidate[:12]}"
            heir = replace(one, legacy=one.candidate, candidate=new, parallel_since=None)
            changed.append(_enter(heir, Phase.SHADOW, seen.now, 0.0, reason))
    return tuple(changed), ENGINE


# --- 4. forward -------------------------------------------------------------------------------------------------


def _move_on(
    state: RolloutState, seen: Observation, policy: RolloutParams, guards: dict[str, tuple[GuardResult, ...]]
) -> Decision:
    """The first group, new products before waves, early waves and late phases first, whose classes are all ready."""
    waiting: list[str] = []
    for group in _groups(state):
        obstacles = [line for one in group for line in _obstacles(one, state, seen, policy, guards)]
        if not obstacles:
            return tuple(_advance(one, seen, policy) for one in group), ENGINE, ()
        waiting += obstacles
    return (), ENGINE, tuple(waiting)


def _groups(state: RolloutState) -> Iterator[tuple[ClassState, ...]]:
    """Classes that move together: a new product alone, those of a wave that stand in one phase."""
    for phase in reversed(FORWARD[:-1]):
        yield from ((one,) for one in state.wave(0) if one.phase is phase)
    for wave in state.waves:
        for phase in reversed(FORWARD[:-1]):
            if wave and (group := tuple(one for one in state.wave(wave) if one.phase is phase)):
                yield group


def _obstacles(
    one: ClassState,
    state: RolloutState,
    seen: Observation,
    policy: RolloutParams,
    guards: dict[str, tuple[GuardResult, ...]],
) -> list[str]:
    """Everything that keeps a class where it stands."""
    target, _ = _next(one, policy)
    found = [guard.reason for guard in guards.get(one.class_name, ()) if guard.tripped]
    found += _calendar(one, seen.now, policy)
    if one.phase is Phase.LEGACY:
        found += _earlier_waves(one, state, seen.now, policy)
        if one.class_name not in seen.challenger:
            found.append("a challenger that knows the class")
    else:
        found += _missing_evidence(one, seen.of(one.class_name), state, seen.now, target, policy)
    moves = target is not one.phase
    if moves and target in policy.approvals and not seen.approval(one.class_name, target, one.legacy, one.candidate):
        found.append(f"a person's approval of {target} with exactly these models")
    return [f"{one.class_name}: {line}" for line in found]


def _next(one: ClassState, policy: RolloutParams) -> tuple[Phase, float]:
    """Where a class goes from here, and with which share: the next share of the canary, or the next phase."""
    higher = [share for share in policy.canary_shares if share > one.share]
    if one.phase is Phase.CANARY and higher:
        return Phase.CANARY, higher[0]
    target = FORWARD[FORWARD.index(one.phase) + 1]
    if target is Phase.CANARY:
        return target, policy.canary_shares[0]
    return target, 1.0 if target in TAKEN_OVER else 0.0


def _calendar(one: ClassState, now: datetime, policy: RolloutParams) -> list[str]:
    needed = {
        Phase.CANARY: policy.canary_days,
        Phase.LIVE: policy.stabilisation_days,
        Phase.LEGACY_READ_ONLY: policy.read_only_days,
        Phase.LEGACY_OFF: policy.off_days,
    }.get(one.phase, 0.0)
    missing = needed - _days(now - one.since)
    return [f"{missing:.1f} more days of {one.phase}"] if missing > 0 else []


def _earlier_waves(one: ClassState, state: RolloutState, now: datetime, policy: RolloutParams) -> list[str]:
    """Classes of earlier waves that are not live and stable."""
    return [
        f"{other.class_name} of wave {other.wave}, which is {other.phase}, to be live and stable"
        for other in state.classes
        if one.planned and other.planned and other.wave < one.wave and not _is_stable(other, now, policy)
    ]


def _is_stable(one: ClassState, now: datetime, policy: RolloutParams) -> bool:
    """The candidate has taken over, and its weeks of stabilisation are behind it."""
    return one.phase in TAKEN_OVER and not (one.phase is Phase.LIVE and _calendar(one, now, policy))


def _missing_evidence(
    one: ClassState,
    seen: ClassObservation | None,
    state: RolloutState,
    now: datetime,
    target: Phase,
    policy: RolloutParams,
) -> list[str]:
    if seen is None:
        return ["an observation"]
    if one.phase is Phase.SHADOW and seen.verdict.outcome is not Outcome.PASS:
        return [f"shadow verdict {seen.verdict.outcome}: {'; '.join(seen.verdict.reasons)}"]
    if target is Phase.LEGACY_OFF:
        parallel = _days(now - one.parallel_since) if one.parallel_since else 0.0
        missing = policy.parallel_days - parallel
        return [f"{missing:.1f} more days of parallel operation"] if missing > 0 else []
    if target is Phase.LEGACY_DELETED:
        found = seen.evidence - {ChecklistItem.ALL_MIGRATED} | {ChecklistItem.PARALLEL_OPERATION}
        if all(
            _is_stable(other, now, policy) for other in state.classes if other.planned
        ):  # no record of a person can stand for this
            found |= {ChecklistItem.ALL_MIGRATED}
        lacking = sorted(set(ChecklistItem) - found)
        return [f"checklist: {', '.join(lacking)}"] if lacking else []
    return []


def _advance(one: ClassState, seen: Observation, policy: RolloutParams) -> ClassState:
    target, share = _next(one, policy)
    if target is one.phase:
        return replace(
            one, share=share, since=seen.now, soft_failures=0, last_failure="", reason=f"canary rises to {share:.0%}"
        )
    if one.phase is Phase.LEGACY:
        one = replace(one, candidate=seen.challenger[one.class_name])
        return _enter(one, target, seen.now, share, f"wave {one.wave} begins")
    found = seen.of(one.class_name)
    proof = "; ".join(found.verdict.reasons) if found and one.phase is Phase.SHADOW else "time and checks"
    return _enter(one, target, seen.now, share, f"{one.phase} is fulfilled: {proof}")


def _enter(one: ClassState, target: Phase, now: datetime, share: float, reason: str) -> ClassState:
    parallel = (one.parallel_since or now) if target in BOTH_JUDGE else one.parallel_since
    return replace(
        one,
        phase=target,
        since=now,
        share=share,
        soft_failures=0,
        last_failure="",
        parallel_since=parallel,
        reason=reason,
    )


# --- what a tick leaves behind ----------------------------------------------------------------------------------


def _count_soft_failures(
    state: RolloutState, guards: dict[str, tuple[GuardResult, ...]], moved: set[str]
) -> tuple[ClassState, ...]:
    """Classes in which a soft guard failed at this tick, one failure richer; held classes spend nothing."""
    failed = {name: [one.reason for one in found if one.tripped and not one.hard] for name, found in guards.items()}
    return tuple(
        replace(one, soft_failures=one.soft_failures + 1, last_failure="; ".join(failed[one.class_name]))
        for one in state.classes
        if failed.get(one.class_name) and one.class_name not in moved and one.phase is not Phase.HELD
    )


def _events(state: RolloutState, changed: Iterable[ClassState], by: str, now: datetime) -> tuple[Event, ...]:
    events = []
    for number, after in enumerate(changed, start=state.revision + 1):
        source = state.of(after.class_name).phase
        if source is not after.phase:
            check_move(after.class_name, source, after.phase)
        events.append(Event(number, now, by, source, after))
    return tuple(events)


def _actions(before: RolloutState, after: RolloutState, changed: Iterable[ClassState]) -> tuple[Action, ...]:
    actions: list[Action] = []
    on_entry = {
        Phase.LEGACY_READ_ONLY: ActionKind.ARCHIVE_LEGACY,
        Phase.LEGACY_OFF: ActionKind.PROVE_ARCHIVE,
        Phase.LEGACY_DELETED: ActionKind.DELETE_LEGACY,
    }
    for one in changed:
        moved = before.of(one.class_name).phase is not one.phase
        if moved and one.phase in on_entry and before.of(one.class_name).phase is not Phase.HELD:
            actions.append(Action(on_entry[one.phase], one.class_name, one.legacy, one.reason))
        if moved:
            actions.append(Action(ActionKind.NOTIFY, one.class_name, one.candidate, f"{one.phase}: {one.reason}"))
    if after.all_taken_over and not before.all_taken_over:
        actions += [Action(ActionKind.PROMOTE, "", "", "every class is live")]
    return tuple(actions)


def _days(span: timedelta) -> float:
    return span.total_seconds() / 86_400
