"""Guards: what a tick checks of a class whose candidate is at work.

A guard trips where the evidence proves that its bound is crossed: the whole interval lies beyond it. Fewer images than
`silence` asks for trip nothing else: a guard that looks at every single pair would sooner or later trip by chance.
Evidence that is missing, stale or of other models fails every tick as `silence` does. Rates of false alarms and misses
count what inspectors have proven, of all images: which images they choose to look at biases the labels, but cannot make
these rates too high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from shadowline.params import GuardParams, RolloutParams
from shadowline.rollout.observation import ClassObservation
from shadowline.rollout.state import ClassState
from shadowline.shadow import PairCounts, Rate, agree, lost_defects


@dataclass(frozen=True)
class GuardResult:
    """One guard at one tick."""

    name: str
    tripped: bool
    hard: bool
    reason: str


def check_guards(
    state: ClassState, seen: ClassObservation | None, now: datetime, policy: RolloutParams, confidence: float
) -> tuple[GuardResult, ...]:
    """Every guard that applies to where the class stands; hard ones first."""
    problem = _unusable(state, seen, now, policy)
    if seen is None or problem:
        return (_result("silence", policy.guards.silence, True, problem),)
    results = list(_on_candidate(seen, policy, confidence))
    if state.legacy_judges and state.candidate_answers:  # before that, the shadow verdict compares, and nobody is hurt
        results += _on_pairs(seen.window, policy, confidence)
    return tuple(sorted(results, key=lambda one: not one.hard))


def _unusable(state: ClassState, seen: ClassObservation | None, now: datetime, policy: RolloutParams) -> str:
    """Why this observation is no evidence, or nothing."""
    if seen is None:
        return "no observation"
    if (seen.legacy, seen.candidate) != (state.legacy, state.candidate):
        return f"evidence of other models: {seen.legacy[:12]} and {seen.candidate[:12]}"
    age = now - seen.observed_at
    if not timedelta(0) <= age <= timedelta(hours=policy.max_observation_age_hours):
        return (
            f"evidence is {age.total_seconds() / 3600:.1f} h old, at most {policy.max_observation_age_hours:g} h count"
        )
    return ""


def _on_candidate(seen: ClassObservation, policy: RolloutParams, confidence: float) -> Iterator[GuardResult]:
    guards = policy.guards
    enough = seen.num_judged + seen.num_failed >= guards.silence.bound
    failed = Rate.of(seen.num_failed, seen.num_judged + seen.num_failed, confidence)
    yield _result("errors", guards.errors, enough and failed.low > guards.errors.bound, f"candidate failed on {failed}")
    silent = seen.num_judged < guards.silence.bound
    yield _result("silence", guards.silence, silent, f"{seen.num_judged} images judged in {policy.window_days:g} days")
    p95 = seen.p95_latency_ms
    if p95 is None:
        yield _result("latency", guards.latency, seen.num_judged > 0, "p95 latency not measured")
    else:
        yield _result("latency", guards.latency, not p95 <= guards.latency.bound, f"p95 latency {p95:.0f} ms")
    offered = seen.num_judged + seen.num_dropped
    dropped = seen.num_dropped / offered if offered else 0.0
    yield _result("dropped", guards.dropped, dropped > guards.dropped.bound, f"{dropped:.1%} of images never paired")
    alarms = Rate.of(seen.num_false_alarms, seen.num_judged, confidence)
    yield _result(
        "false_alarms", guards.false_alarms, enough and alarms.low > guards.false_alarms.bound, f"proven on {alarms}"
    )
    misses = Rate.of(seen.num_misses, seen.num_judged, confidence)
    yield _result("misses", guards.misses, enough and misses.low > guards.misses.bound, f"proven on {misses}")


def _on_pairs(counts: PairCounts, policy: RolloutParams, confidence: float) -> Iterator[GuardResult]:
    guards, found = policy.guards, agree(counts, confidence)
    enough = found.num_pairs >= guards.silence.bound
    tripped = enough and found.settled.high < guards.agreement.bound
    yield _result("agreement", guards.agreement, tripped, f"settled agreement {found.settled}")
    p = found.lost_defects_p
    losing = enough and p is not None and p < guards.lost_defects.bound
    yield _result("lost_defects", guards.lost_defects, losing, lost_defects(counts, found))
    value, low, high = found.unsettled_drift
    beyond = enough and max(low, -high) > guards.drift.bound
    reason = f"anomaly rate differs from the legacy's by {value:+.1%} [{low:+.1%}, {high:+.1%}]"
    yield _result("drift", guards.drift, beyond, reason)


def _result(name: str, guard: GuardParams, tripped: bool, measured: str) -> GuardResult:
    return GuardResult(name, tripped, guard.severity == "hard", f"{name}: {measured}; bound {guard.bound:g}")
