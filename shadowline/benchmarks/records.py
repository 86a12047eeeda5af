"""How fast pairs are written and read, on synthetic pairs of four weeks: `shadowline bench pairs`.

bench_pairs(open_database(url), 1_000_000, params, default_progress())
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import Engine, select, text

from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.evaluation.agreement import agree, score_correlation
from shadowline.records.audit_log.keys import open_keys
from shadowline.records.database import reading
from shadowline.records.observe import observe_class
from shadowline.records.pair import ModelDecision, Pair
from shadowline.records.pairs import PairStore
from shadowline.records.stores import records_on
from shadowline.records.tables import PairRow
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState

CLASSES = tuple(f"class_{number:02d}" for number in range(1, 16))
_BATCH = 10_000  # pairs per transaction
_LABEL_EVERY = 2_000  # one image in so many has feedback
_START, _SPAN = datetime(2026, 1, 5, tzinfo=UTC), timedelta(days=28)


@dataclass(frozen=True)
class PairSpeed:
    """Seconds, each for all classes together, one candidate against one legacy model per class."""

    database: str  # sqlite | postgresql
    num_pairs: int
    num_classes: int
    insert_s: float
    label_s: float  # one image in 2000, each in a transaction of its own
    agree_s: float  # all pairs, counted by label and decisions, and their statistics
    tick_s: float  # all guards and the verdict on the evidence, as a tick asks for them
    correlation_s: float  # of all scores


def bench_pairs(engine: Engine, num_pairs: int, params: Params, progress: Progress) -> PairSpeed:
    """Fill the database with pairs and time what a tick and a page ask for; the pairs stay where they are.

    Raises ValueError for a database that holds pairs already.
    """
    records = records_on(engine, open_keys())
    store = records.pairs
    _refuse_pairs(engine)
    insert_s = _timed(lambda: _fill(store, num_pairs, progress))
    label_s = _timed(lambda: _label(store, num_pairs))
    _analyse(engine)

    def agreement(name: str) -> object:
        return agree(store.counts(name, *_models(name)), params.shadow.confidence)

    def tick(name: str) -> object:
        candidate, legacy = _models(name)
        cls = ClassState(name, 1, Phase.SHADOW, _START, legacy, candidate, 0.0, evidence_since=_START)
        return observe_class(cls, records, _START + _SPAN, params)

    def correlation(name: str) -> object:
        scores = store.scores(name, *_models(name))
        return score_correlation(scores["candidate_score"], scores["legacy_score"])

    return PairSpeed(
        database=engine.dialect.name,
        num_pairs=num_pairs,
        num_classes=len(CLASSES),
        insert_s=insert_s,
        label_s=label_s,
        agree_s=_timed(lambda: [agreement(name) for name in CLASSES]),
        tick_s=_timed(lambda: [tick(name) for name in CLASSES]),
        correlation_s=_timed(lambda: [correlation(name) for name in CLASSES]),
    )


def _refuse_pairs(engine: Engine) -> None:
    with reading(engine) as connection:
        if connection.execute(select(PairRow.id).limit(1)).first():
            raise ValueError(f"database {engine.url.database}: holds pairs already; give an empty one")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _fill(store: PairStore, num_pairs: int, progress: Progress) -> None:
    with progress.task("pairs", total=num_pairs) as task:
        for start in range(0, num_pairs, _BATCH):
            batch = list(_pairs(start, min(start + _BATCH, num_pairs), num_pairs))
            store.record(batch)
            task.advance(len(batch))


def _pairs(start: int, stop: int, num_pairs: int) -> Iterator[Pair]:
    """Pairs `start` up to `stop`: classes take turns, times are even, the scores correlate and agree mostly."""
    scores = np.random.default_rng(start).multivariate_normal([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]], stop - start)
    for number, (candidate, legacy) in zip(range(start, stop), scores.tolist(), strict=True):
        name, at = _class_of(number), _START + _SPAN * ((number + 1) / num_pairs)
        yield Pair(
            name,
            _sha256("image", number),
            at,
            *_models(name),
            received_at=at,
            answered_by="legacy",
            candidate_said=ModelDecision(candidate, 1.6, 40.0 + 10.0 * abs(candidate)),
            legacy_said=ModelDecision(legacy, 1.6, 25.0),
        )


def _label(store: PairStore, num_pairs: int) -> None:
    for number in range(0, num_pairs, _LABEL_EVERY):
        label = Label.ANOMALOUS if number % 3 == 0 else Label.NORMAL
        store.label(_class_of(number), _sha256("image", number), label, "bench", _START + _SPAN)


def _class_of(number: int) -> str:
    return CLASSES[number % len(CLASSES)]


def _models(name: str) -> tuple[str, str]:
    """Fingerprints of candidate and legacy."""
    return _sha256("candidate", name), _sha256("legacy", name)


def _sha256(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _analyse(engine: Engine) -> None:
    """Let the planner see what was inserted, as autovacuum would in a minute."""
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
