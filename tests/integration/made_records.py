"""Pairs and ticks that tests make up, and processes that start at one moment."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from shadowline.core.params import Params
from shadowline.evaluation.agreement import PairCounts, agree
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.pairs import DROPPED, Judgement, Pair
from shadowline.records.rollout_store import RolloutStore, StoredOrder
from shadowline.records.stores import Records, records_on
from shadowline.rollout.engine import Step, begin, step
from shadowline.rollout.observation import Approval, ChecklistItem, ClassObservation, Observation
from shadowline.rollout.phases import FORWARD, Phase
from shadowline.rollout.state import ClassState, Event
from shadowline.rollout.verdict import Outcome, ShadowVerdict

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
LEGACY = {"bolt": "legacy-bolt", "nut": "legacy-nut", "gear": "legacy-gear"}
CANDIDATE = {"bolt": "v1-bolt", "nut": "v1-nut", "gear": "v1-gear"}
BOLT = ("bolt", CANDIDATE["bolt"], LEGACY["bolt"])

HEALTHY = PairCounts(np.array([[[290, 3], [3, 4]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]))

_KEYS = Path(tempfile.gettempdir()) / f"shadowline-audit-keys-{os.getpid()}"  # the same in processes forked from here
atexit.register(shutil.rmtree, _KEYS, ignore_errors=True)


def stores_on(engine: Engine) -> Records:
    """The stores of a database; all processes of a test run sign its audit chain with the same key."""
    return records_on(engine, KeyFolder(_KEYS / hashlib.sha256(str(engine.url).encode()).hexdigest()[:16]))


def image_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def made_pair(number: int, **changes: Any) -> Pair:
    """A pair of the bolt, a minute after the one before, received when it was captured."""
    at = changes.get("captured_at", START + timedelta(minutes=number))
    pair = Pair(
        class_name="bolt",
        image_id=image_id(number),
        captured_at=at,
        received_at=at,
        candidate=CANDIDATE["bolt"],
        legacy=LEGACY["bolt"],
        answered_by="legacy",
        candidate_said=Judgement(number % 7 / 7, 0.5, 40.0),
        legacy_said=Judgement(number % 5 / 5, 0.5, 25.0),
    )
    return replace(pair, **changes)


def compared_since(since: datetime, class_name: str, candidate: str, legacy: str) -> ClassState:
    """A class in shadow mode whose evidence begins at `since`."""
    return ClassState(class_name, 1, Phase.SHADOW, since, legacy, candidate, 0.0, evidence_since=since)


def random_pairs(rng: np.random.Generator, number: int) -> list[Pair]:
    """Two classes, two candidates, images seen again, scores at the threshold, errors, drops, a legacy that is off."""

    def said(p_error: float, error: str) -> Judgement:
        if rng.random() < p_error:
            return Judgement(error=error)
        return Judgement(round(rng.random(), 1), 0.5, float(rng.gamma(4, 10)))

    times = [START + timedelta(hours=int(rng.integers(240))) for _ in range(number)]
    return [
        Pair(
            class_name=str(rng.choice(["bolt", "nut"])),
            image_id=image_id(int(rng.integers(number // 2))),
            captured_at=at,
            received_at=at,
            candidate=str(rng.choice(["v1", "v2"])),
            legacy="legacy",
            answered_by="legacy" if rng.random() < 0.7 else "candidate",
            candidate_said=said(0.2, str(rng.choice([DROPPED, "RuntimeError: out of memory"]))),
            legacy_said=said(0.1, "timeout") if rng.random() < 0.8 else None,
        )
        for at in times
    ]


def first_events() -> tuple[Event, ...]:
    return begin([["bolt", "nut"], ["gear"]], LEGACY, CANDIDATE, START, "Ada")[1]


def tick(
    store: RolloutStore,
    now: datetime,
    params: Params,
    order: StoredOrder | None = None,
    challenger: Mapping[str, str] = CANDIDATE,
) -> Step:
    """What a tick comes to at `now`, with healthy classes and every approval; nothing is written."""
    state = store.state()
    approvals = (
        Approval(one.class_name, target, one.legacy, one.candidate, "Ada")
        for one in state.classes
        for target in (*FORWARD, Phase.ALONE)
    )
    seen = Observation(
        now=now,
        challenger=challenger,
        classes=tuple(_healthy(one, now, params) for one in state.classes),
        orders=(order.order,) if order else (),
        approvals=tuple(approvals),
    )
    return step(state, seen, params.rollout)


def _healthy(one: ClassState, now: datetime, params: Params) -> ClassObservation:
    """Every 24 hours are a production day."""
    begun = one.evidence_since or one.since
    has_days = now - begun >= timedelta(days=params.shadow.min_days)
    outcome = Outcome.PASS if has_days else Outcome.INCONCLUSIVE
    return ClassObservation(
        class_name=one.class_name,
        legacy=one.legacy,
        candidate=one.candidate,
        verdict=ShadowVerdict(outcome, ("the evidence says so",), agree(HEALTHY, params.shadow.confidence)),
        guards=(),
        phase_days=(now - one.since).days,
        parallel_days=(now - begun).days,
        last_received=now,
        longest_pause=timedelta(0),
        evidence=frozenset(ChecklistItem),
    )


_barrier: Any = None  # of a worker process


def together(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The results of `work` in as many processes, which start it at one moment."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(arguments))
    with ProcessPoolExecutor(len(arguments), context, _meet_at, (barrier,)) as pool:
        waiting = [pool.submit(_work_when_all_are_there, work, *each) for each in arguments]
        return [future.result(timeout=60) for future in waiting]


def _meet_at(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _work_when_all_are_there(work: Callable[..., Any], *arguments: Any) -> Any:
    wait_for_the_others()
    return work(*arguments)


def wait_for_the_others() -> None:
    """Inside the work of `together`: go on when every process has come this far."""
    _barrier.wait(timeout=60)
