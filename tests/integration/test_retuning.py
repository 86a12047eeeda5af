"""A tuned threshold, on real databases: past pairs are decided again from their scores, or nothing is written."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import Engine, func, insert, select

from fixtures.effort import examples
from shadowline.core.params import Params
from shadowline.data.labels import Label
from shadowline.evaluation.evidence import ALARM, NO_ALARM, count_cells
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.rollout_watcher import RolloutWatcher
from shadowline.inference.model_pool import ModelPool
from shadowline.models.threshold_change import Deciding
from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.database import open_database, reading
from shadowline.records.evidence import read_evidence, read_table
from shadowline.records.model_locations import ModelLocation
from shadowline.records.observe import observe
from shadowline.records.pair import DROPPED, ModelDecision, Pair, PairSource
from shadowline.records.retuning import Retuning, retune
from shadowline.records.stores import Records, records_on
from shadowline.records.tables import ActionRow, AuditEntryRow, AuditNoteRow, EventRow, FeedbackRow, PairRow
from shadowline.records.timeline import collect_timeline
from shadowline.records.traces import pairs_of_trace
from shadowline.rollout.engine import begin, step
from shadowline.rollout.observation import Approval
from shadowline.rollout.phases import LEGAL_MOVES, Phase
from shadowline.rollout.state import Event
from shadowline.rollout.verdict import VerdictOutcome

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
NUM_DAYS, PARTS_A_DAY = 35, 60
NOW = START + timedelta(days=NUM_DAYS)
THRESHOLD, TUNED = 2.5, 2.3
A, B, C = "candidate-a", "candidate-b", "candidate-c"
_ROAD = (Phase.SHADOW, Phase.CANARY, Phase.LIVE, Phase.LEGACY_READ_ONLY, Phase.LEGACY_OFF)


@pytest.fixture
def records(engine: Engine, tmp_path: Path) -> Records:
    return records_on(engine, KeyFolder(tmp_path / "keys"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """One SQLite for all examples of a law, each with a class of its own."""
    folder = tmp_path_factory.mktemp("laws")
    return records_on(open_database(f"sqlite:///{folder / 'records.db'}"), KeyFolder(folder / "keys"))


@pytest.fixture
def lenient(params: Params) -> Params:
    """Any share of the decisions may turn."""
    return with_bound(params, 1.0)


def with_bound(params: Params, bound: float) -> Params:
    tuning = params.rollout.retune.model_copy(update={"max_flipped_share": bound})
    return params.model_copy(update={"rollout": params.rollout.model_copy(update={"retune": tuning})})


def asked(
    threshold: float = TUNED, new: str = B, old: str = A, before: float = THRESHOLD, name: str = "bolt"
) -> Retuning:
    models = (Deciding(name, fingerprint, value, {}) for fingerprint, value in ((old, before), (new, threshold)))
    return Retuning(*models, by="Ada", why="false alarms at dawn")


def stand_in(records: Records, phase: Phase, name: str = "bolt", candidate: str = A) -> None:
    """Let a class come to a phase, as ticks would bring it there."""
    state, events = begin([[name]], {name: "legacy"}, {name: candidate}, START, "Ada", records.rollout.state())
    one, number = state.of(name), state.revision
    for source, target in itertools.pairwise((Phase.LEGACY, *_ROAD[: _ROAD.index(phase) + 1])):
        answering = START + timedelta(days=15) if target is not Phase.SHADOW else None
        share = {Phase.SHADOW: 0.0, Phase.CANARY: 0.5}.get(target, 1.0)
        one = replace(one, phase=target, share=share, evidence_since=START, answering_since=answering)
        number += 1
        events = (*events, Event(number, answering or START, "engine", source, one))
    records.rollout.begin(events)


def image_id(number: int, name: str = "bolt") -> str:
    return hashlib.sha256(f"{name} {number}".encode()).hexdigest()


def made_pair(number: int, score: float | None, legacy_score: float = 0.0, **changes: Any) -> Pair:
    name = changes.get("class_name", "bolt")
    at = START + timedelta(days=number // PARTS_A_DAY, minutes=10 * (number % PARTS_A_DAY))
    said = ModelDecision(error=DROPPED) if score is None else ModelDecision(score, THRESHOLD, 40.0)
    pair = Pair(
        name, image_id(number, name), at, A, "legacy", "legacy", said, ModelDecision(legacy_score, 3.0, 25.0),
        trace_id=f"{name}-{number}", received_at=at,
    )  # fmt: skip
    return replace(pair, **changes)


def five_weeks(records: Records, num_days: int = NUM_DAYS) -> np.ndarray:
    """A good candidate beside a good legacy model, every defect and every alarm labelled; the candidate's scores."""
    rng = np.random.default_rng(7)
    number = num_days * PARTS_A_DAY
    defect = rng.random(number) < 0.05
    scores, legacy = (np.where(defect, 7.0, 0.0) + rng.normal(size=number) for _ in range(2))
    pairs = [made_pair(n, float(scores[n]), float(legacy[n])) for n in range(number)]
    records.pairs.record(pairs)
    look = defect | (scores > 2.0) | (legacy > 2.0)
    rows = [
        {
            "class_name": "bolt", "image_id": pairs[n].image_id, "by": "Ben", "note": "", "superseded": False,
            "at": pairs[n].captured_at + timedelta(hours=1),
            "label": str(Label.ANOMALOUS if defect[n] else Label.NORMAL),
        }
        for n in np.flatnonzero(look)
    ]  # fmt: skip
    with records.pairs.engine.begin() as connection:
        connection.execute(insert(FeedbackRow), rows)
    return scores


def rows_written(records: Records) -> tuple[int, ...]:
    tables = (PairRow, EventRow, ActionRow, AuditNoteRow, AuditEntryRow)
    with reading(records.pairs.engine) as connection:
        return tuple(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)


def columns_of(
    records: Records, candidate: str, names: Sequence[str], class_name: str = "bolt"
) -> list[tuple[Any, ...]]:
    query = select(*(getattr(PairRow, name) for name in names)).order_by(PairRow.id)
    with reading(records.pairs.engine) as connection:
        found = connection.execute(query.where(PairRow.candidate == candidate, PairRow.class_name == class_name))
        return [tuple(row) for row in found]


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.LIVE])
def test_the_evidence_is_the_old_scores_against_the_new_threshold(
    records: Records, params: Params, phase: Phase
) -> None:
    scores = five_weeks(records)
    stand_in(records, phase)
    before = records.rollout.state().of("bolt")
    records.approvals.approve(Approval("bolt", Phase.LEGACY_OFF, "legacy", A, "Ada"), NOW)
    num_undrawn = collect_timeline(records, params).num_undrawn
    done = retune(records, asked(), NOW, params)
    assert collect_timeline(records, params).num_undrawn == num_undrawn  # no part is drawn, or missed, twice

    flipped = int(((scores > TUNED) != (scores > THRESHOLD)).sum())
    assert done is not None and 0 < flipped < 0.05 * len(scores)
    assert (done.num_pairs, done.num_decided, done.num_flipped) == (len(scores), len(scores), flipped)
    assert done.verdict.outcome is VerdictOutcome.PASS

    one = records.rollout.state().of("bolt")
    assert one == replace(before, candidate=B, since=NOW, reason=one.reason)
    table = read_evidence(records.pairs.engine, one, NOW, params.rollout).table
    alarms = count_cells(table).sum(axis=(0, 2))
    assert (alarms[NO_ALARM], alarms[ALARM]) == ((scores <= TUNED).sum(), (scores > TUNED).sum())
    labels = count_cells(table)[1:].sum()
    assert labels == count_cells(read_table(records.pairs.engine, ("bolt", A, "legacy"), START, NOW, 150.0))[1:].sum()

    same = [name for name in PairRow.__table__.columns.keys() if name not in _CHANGED]  # noqa: SIM118
    assert columns_of(records, B, same) == columns_of(records, A, same)
    assert {row[0] for row in columns_of(records, B, ["source"])} == {"redecided"}
    assert len(pairs_of_trace(records.pairs.engine, "bolt-5")) == 1  # what was said of the part when it came

    note = records.chain.latest(EntryKind.RETUNE, "bolt")
    assert note is not None and note.by == "Ada"
    (entry,) = records.chain.entries(kinds=[EntryKind.RETUNE])
    assert entry.facts["from"] == {"candidate": A, "threshold": THRESHOLD}
    assert entry.facts["to"] == {"candidate": B, "threshold": TUNED}
    assert (entry.facts["pairs"], entry.facts["flipped"], entry.facts["verdict"]) == (len(scores), flipped, "pass")
    assert entry.facts["why"] == "false alarms at dawn" and entry.facts["reasons"]

    assert retune(records, asked(), NOW, params) is None  # again: no effect
    assert len(columns_of(records, B, ["id"])) == len(scores)
    obstacles = tick(records, params)
    if phase is Phase.SHADOW:  # the verdict holds at once; the approval of the former candidate does not
        assert obstacles == ("bolt: a person's approval of canary with exactly these models",)
    else:  # stabilisation begins again
        assert obstacles == (f"bolt: {params.rollout.stabilisation_days} more production days of live",)


_CHANGED = {"id", "key", "candidate", "candidate_threshold", "candidate_alarm", "source"}


def tick(records: Records, params: Params, name: str = "bolt") -> tuple[str, ...]:
    """What the class waits for, right after; whatever moves, moves legally."""
    state = records.rollout.state()
    result = step(state, observe(state, records, {}, NOW, params), params.rollout)
    for event in result.events:
        assert event.source is event.after.phase or event.after.phase in LEGAL_MOVES[event.source or Phase.LEGACY]
    return tuple(line for line in result.waiting if line.startswith(name))


# --- refused: nothing is written ------------------------------------------------------------------------------------


def refuse(records: Records, request: Retuning, params: Params, match: str) -> None:
    before = rows_written(records)
    with pytest.raises(ValueError, match=match):
        retune(records, request, NOW, params)
    assert rows_written(records) == before


def test_what_the_bounds_or_the_verdict_refuse_leaves_no_trace(
    records: Records, params: Params, lenient: Params
) -> None:
    scores = five_weeks(records, num_days=20)
    stand_in(records, Phase.LIVE)
    share = ((scores > 1.0) != (scores > THRESHOLD)).mean()
    refuse(records, asked(1.0), params, rf"turns \d+ of 1200 decisions \({share:.2%}\), at most 5\.00%")
    refuse(records, asked(), params, "in live, the pairs .* verdict inconclusive: .*production days .* need 28")
    refuse(records, asked(9.0), lenient, "verdict fail: .*lost_defects")
    refuse(records, asked(old=C), params, "is now about candidate-a")


def test_in_shadow_mode_it_may_be_inconclusive_and_never_fail(
    records: Records, params: Params, lenient: Params
) -> None:
    five_weeks(records, num_days=20)
    stand_in(records, Phase.SHADOW)
    refuse(records, asked(9.0), lenient, "in shadow, .* verdict fail: .*lost_defects")
    done = retune(records, asked(), NOW, params)
    assert done is not None and done.verdict.outcome is VerdictOutcome.INCONCLUSIVE


# --- laws, on one SQLite --------------------------------------------------------------------------------------------

_classes = (f"class_{number}" for number in itertools.count())
law = settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
some_scores = st.lists(st.one_of(st.none(), st.floats(-1.0, 6.0).map(lambda x: round(x, 1))), min_size=1, max_size=25)
some_threshold = st.floats(0.0, 5.0).map(lambda x: round(x, 1))


def recorded(stores: Records, scores: Sequence[float | None], **changes: Any) -> str:
    """A class in shadow mode with a pair for each score; returns its name."""
    name = changes.setdefault("class_name", next(_classes))
    stores.pairs.record([made_pair(n, score, **changes) for n, score in enumerate(scores)])
    stand_in(stores, Phase.SHADOW, name)
    return str(name)


def cells(stores: Records, name: str, params: Params) -> Any:
    return count_cells(read_evidence(stores.pairs.engine, stores.rollout.state().of(name), NOW, params.rollout).table)


@law
@given(scores=some_scores)
def test_the_same_threshold_turns_nothing(stores: Records, lenient: Params, scores: list[float | None]) -> None:
    name = recorded(stores, scores)
    before = cells(stores, name, lenient)
    done = retune(stores, asked(THRESHOLD, name=name), NOW, lenient)
    assert done is not None and (done.num_pairs, done.num_flipped) == (len(scores), 0)
    assert (cells(stores, name, lenient) == before).all()


@law
@given(scores=some_scores, threshold=some_threshold, last=some_threshold)
def test_flips_are_counted_against_what_was_decided_at_receipt(
    stores: Records, lenient: Params, scores: list[float | None], threshold: float, last: float
) -> None:
    """Small steps do not add up to a large one unseen, and going back turns nothing."""
    name = recorded(stores, scores)
    judged = np.array([score for score in scores if score is not None])
    once = retune(stores, asked(threshold, name=name), NOW, lenient)
    twice = retune(stores, asked(last, C, B, threshold, name), NOW, lenient)
    back = retune(stores, asked(THRESHOLD, A, C, last, name), NOW, lenient)
    for done, value in ((once, threshold), (twice, last), (back, THRESHOLD)):
        assert done is not None
        assert (done.num_decided, done.num_flipped) == (
            len(judged), ((judged > value) != (judged > THRESHOLD)).sum(),
        )  # fmt: skip
    assert back is not None and back.num_pairs == 0  # candidate A has judged them itself
    assert cells(stores, name, lenient).sum() == len(judged)
    tick(stores, lenient, name)


def test_two_steps_within_the_bound_do_not_pass_it_together(stores: Records, params: Params) -> None:
    name = recorded(stores, [*np.full(96, 0.0), 2.4, 2.4, 2.4, 2.2, 2.2, 2.2])
    assert retune(stores, asked(2.3, name=name), NOW, params) is not None
    refuse(stores, asked(2.1, C, B, 2.3, name), params, r"turns 6 of 102 decisions")


def test_a_part_of_known_label_stays_no_part_of_the_production(stores: Records, params: Params) -> None:
    name = recorded(stores, [0.0, 0.0], source=PairSource.REFERENCE)
    for new, old in ((B, A), (C, B)):
        retune(stores, asked(THRESHOLD, new, old, name=name), NOW, params)
        assert columns_of(stores, new, ["source"], name) == [("redecided_test",)] * 2
    assert not cells(stores, name, params).any()


def test_what_was_never_judged_stays_so(stores: Records, params: Params) -> None:
    name = recorded(stores, [None, 0.0])
    done = retune(stores, asked(name=name), NOW, params)
    assert done is not None and (done.num_pairs, done.num_decided) == (2, 1)
    said = columns_of(stores, B, ["candidate_error", "candidate_threshold", "candidate_alarm"], name)
    assert said == [(DROPPED, None, None), (None, TUNED, False)]


def test_a_part_on_which_the_models_differ_since_the_tuning_waits_for_review(stores: Records, params: Params) -> None:
    name = recorded(stores, [*np.full(40, 0.0), 2.4])
    assert stores.pairs.waiting_for_review(name) == []
    retune(stores, asked(name=name), NOW, params)
    (part,) = stores.pairs.waiting_for_review(name)
    assert (part.image_id, part.reasons[0]) == (image_id(40, name), "disagreement")


def test_an_image_that_the_tuned_candidate_has_judged_itself_counts_once(stores: Records, params: Params) -> None:
    name = recorded(stores, [0.0, 1.0, 2.0])
    stores.pairs.record([made_pair(1, 1.0, class_name=name, candidate=B, source=PairSource.BATCH)])
    done = retune(stores, asked(name=name), NOW, params)
    assert done is not None and (done.num_pairs, done.num_decided) == (2, 3)
    assert cells(stores, name, params).sum() == 3
    sent_again = made_pair(2, 2.0, class_name=name, candidate=B)
    assert stores.pairs.record([sent_again]) == 1
    assert cells(stores, name, params).sum() == 3


def test_what_came_before_shadow_mode_and_what_others_judged_is_not_decided_again(
    stores: Records, params: Params
) -> None:
    early = made_pair(0, 0.0, class_name="nut", received_at=START - timedelta(hours=1))
    others = [made_pair(1, 0.0, class_name="nut", candidate=C), made_pair(2, 0.0, class_name="nut", legacy="other")]
    stores.pairs.record([early, *others, made_pair(3, 0.0, class_name="nut")])
    stand_in(stores, Phase.SHADOW, "nut")
    retune(stores, asked(name="nut"), NOW, params)
    assert columns_of(stores, B, ["image_id"], "nut") == [(image_id(3, "nut"),)]


def test_what_was_rolled_back_stays_failed(stores: Records, params: Params) -> None:
    name = recorded(stores, [0.0])
    one = replace(stores.rollout.state().of(name), phase=Phase.ROLLED_BACK, candidate=B)
    number = stores.rollout.revision()
    again = replace(one, phase=Phase.SHADOW, candidate=A, evidence_since=START)
    events = (
        Event(number + 1, NOW, "Ada", Phase.SHADOW, one),
        Event(number + 2, NOW, "engine", Phase.ROLLED_BACK, again),
    )
    stores.rollout.begin(events)
    refuse(stores, asked(name=name), params, "candidate-b was rolled back, and stays failed")


def test_a_reason_and_a_name_are_needed() -> None:
    with pytest.raises(ValueError, match="both must say something"):
        replace(asked(), why=" ")


# --- the gateway ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """As much of a detector as the gateway looks at before it scores; `threshold`, `score` and `maps` are not asked."""

    class_name: str
    fingerprint: str
    threshold: float = THRESHOLD

    def score(self, images: Sequence[Image.Image]) -> Any: ...
    def maps(self, images: Sequence[Image.Image]) -> Any: ...


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_gateway_takes_the_tuned_candidate_over_once_it_is_loaded(tmp_path: Path, params: Params) -> None:
    records = records_on(open_database(f"sqlite:///{tmp_path / 'records.db'}"), KeyFolder(tmp_path / "keys"))
    recorded(records, [0.0], class_name="bolt")
    places = [ModelLocation(name, "bolt", role, name, "1") for name, role in ((A, "candidate"), ("legacy", "legacy"))]
    records.locations.upsert_model([*places, ModelLocation(B, "bolt", "candidate", B, "2")], NOW)
    may_load = threading.Event()

    def load(location: str, class_name: str) -> Named:
        assert location != B or may_load.wait(30)
        return Named(class_name, location)

    pool = ModelPool(load, params.gateway)
    watcher = RolloutWatcher(records, pool, params.gateway, Metrics())
    watcher.start()
    try:
        assert watcher.table.routes["bolt"].fingerprint("candidate") == A
        retune(records, asked(), NOW, params)
        wait_until(lambda: watcher.table.state.revision == records.rollout.revision())
        assert watcher.table.routes["bolt"].fingerprint("candidate") == A
        may_load.set()
        wait_until(lambda: watcher.table.routes["bolt"].fingerprint("candidate") == B)
        assert watcher.table.routes["bolt"].models["candidate"].place.version == "2"
    finally:
        watcher.stop()
        pool.close()
