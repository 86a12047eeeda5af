"""Evidence as it is read from real databases: each image once, and its labels when they came."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from fixtures.records import BOLT, START, image_id, made_pair, stores_on
from shadowline.core.params import Params
from shadowline.data.labels import Label
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    DROPPED,
    FAILED,
    NO_ALARM,
    NORMAL,
    SLOT,
    UNLABELLED,
    Evidence,
    EvidenceTable,
    count_cells,
    slot_of,
)
from shadowline.records.evidence import read_table
from shadowline.records.pair import DROPPED as NEVER_ASKED
from shadowline.records.pair import ModelDecision, PairSource
from shadowline.records.pairs import PairStore
from shadowline.rollout.verdict import VerdictOutcome
from shadowline.rollout.weighing import appraise

LATER = START + timedelta(days=400)
NO, YES = ModelDecision(0.1, 0.5, 40.0), ModelDecision(0.9, 0.5, 40.0)


@pytest.fixture
def pairs(engine: Engine) -> PairStore:
    return PairStore(engine, stores_on(engine).chain, clock=lambda: LATER)


def read(store: PairStore, until: datetime = LATER) -> EvidenceTable:
    return read_table(store.engine, BOLT, None, until, slow_ms=150.0)


def cells_at(table: EvidenceTable, at: datetime) -> dict[tuple[int, int, int], int]:
    cells = count_cells(table.where(table.slot < slot_of(at)))
    return {tuple(map(int, where)): int(cells[tuple(where)]) for where in zip(*cells.nonzero(), strict=True)}


def label(store: PairStore, number: int, words: Sequence[tuple[Label, datetime]]) -> None:
    for word, at in words:
        store.label("bolt", image_id(number), word, "Ada", at)


def test_every_answer_has_its_place(pairs: PairStore) -> None:
    made = [
        made_pair(1, candidate_said=NO, legacy_said=YES),
        made_pair(2, candidate_said=YES, legacy_said=None),
        made_pair(3, candidate_said=ModelDecision(error="CUDA"), legacy_said=NO),
        made_pair(4, candidate_said=ModelDecision(error=NEVER_ASKED), legacy_said=NO),
        made_pair(5, candidate_said=ModelDecision(0.1, 0.5, 151.0), legacy_said=NO),
        made_pair(6, candidate_said=NO, legacy_said=NO, review_share=0.25, review_drawn=True),
        made_pair(7, candidate_said=NO, legacy_said=NO, source=PairSource.REDECIDED_TEST),
    ]
    pairs.record(made)
    table = read(pairs)
    assert int(table.count.sum()) == 7
    assert sorted(zip(table.candidate.tolist(), table.legacy.tolist(), strict=True)) == sorted(
        [(NO_ALARM, ALARM), (ALARM, ABSENT), (FAILED, NO_ALARM), (DROPPED, NO_ALARM), *[(NO_ALARM, NO_ALARM)] * 3]
    )
    assert [int(table.count[flag].sum()) for flag in (table.slow, table.drawn, table.reference)] == [1, 1, 1]
    assert table.review_share[table.drawn].tolist() == [0.25]


def test_a_label_counts_from_the_quarter_of_an_hour_in_which_it_came(pairs: PairStore) -> None:
    pairs.record([made_pair(1, candidate_said=YES, legacy_said=NO)])
    received = START + timedelta(minutes=1)
    label(
        pairs,
        1,
        [(Label.ANOMALOUS, START + 4 * SLOT), (Label.ANOMALOUS, START + 5 * SLOT), (Label.NORMAL, START + 6 * SLOT)],
    )
    table = read(pairs)
    seen = {slots: cells_at(table, START + slots * SLOT) for slots in (0, 1, 4, 5, 6, 7)}
    assert seen == {
        0: {},
        1: {(UNLABELLED, ALARM, NO_ALARM): 1},
        4: {(UNLABELLED, ALARM, NO_ALARM): 1},
        5: {(ANOMALOUS, ALARM, NO_ALARM): 1},
        6: {(ANOMALOUS, ALARM, NO_ALARM): 1},
        7: {(NORMAL, ALARM, NO_ALARM): 1},
    }
    assert cells_at(read(pairs, received + 4 * SLOT), LATER) == {(ANOMALOUS, ALARM, NO_ALARM): 1}
    assert cells_at(read(pairs, START + 4 * SLOT), LATER) == {(UNLABELLED, ALARM, NO_ALARM): 1}


def test_words_with_times_out_of_order_never_make_a_count_negative(pairs: PairStore) -> None:
    """A word that was put on record later counts no earlier than the one that it supersedes, nor than the image."""
    pairs.record([made_pair(1, candidate_said=YES, legacy_said=NO)])
    words = [(Label.NORMAL, START + 9 * SLOT), (Label.ANOMALOUS, START + 3 * SLOT), (Label.NORMAL, START - SLOT)]
    label(pairs, 1, words)
    table = read(pairs)
    for slots in range(12):
        at = START + slots * SLOT
        cells = count_cells(table.where(table.slot < slot_of(at)))
        assert (cells >= 0).all()
        assert cells_at(read(pairs, at), LATER) == cells_at(table, at)
    assert cells_at(table, LATER) == {(NORMAL, ALARM, NO_ALARM): 1}


def test_a_candidate_that_is_good_on_images_sent_again_is_not_good(pairs: PairStore, params: Params) -> None:
    """It misses every defect at first, and finds each of them the three times that it comes again."""
    made, numbers = [], range(6 * 40)
    for number in numbers:
        day = START + timedelta(days=number // 6, minutes=number % 6)
        made.append(made_pair(number, captured_at=day, candidate_said=NO, legacy_said=YES))
        for again in range(1, 4):
            at = day + timedelta(hours=again)
            made.append(made_pair(number, captured_at=at, candidate_said=YES, legacy_said=YES))
    pairs.record(made)
    for number in numbers:
        label(pairs, number, [(Label.ANOMALOUS, START + timedelta(days=number // 6, hours=12))])
    table = read(pairs)
    assert cells_at(table, LATER) == {(ANOMALOUS, NO_ALARM, ALARM): len(numbers)}
    policy = params.rollout.model_copy(update={"min_day_images": 1})
    _, verdict = appraise(Evidence(table, slot_of(LATER)), params.shadow, policy, params.shadow.min_agreement)
    assert verdict.outcome is VerdictOutcome.FAIL
