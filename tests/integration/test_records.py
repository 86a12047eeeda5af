"""Pairs and feedback on real databases, SQLite and PostgreSQL: written once, counted right, opened by many at once."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from fixtures.records import BOLT, START, compared_since, image_id, made_pair, random_pairs, stores_on, together
from shadowline.benchmarks.records import bench_pairs
from shadowline.core.params import Params, RolloutParams
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    FAILED,
    NO_ALARM,
    NORMAL,
    UNLABELLED,
    EvidenceTable,
    count_cells,
    slot_of,
)
from shadowline.evaluation.evidence import DROPPED as CANDIDATE_DROPPED
from shadowline.records.database import migrations, open_database, reading
from shadowline.records.evidence import read_evidence
from shadowline.records.pair import DROPPED, ModelDecision, Pair
from shadowline.records.pairs import PairStore
from shadowline.records.tables import Base, FeedbackRow, PairRow

if TYPE_CHECKING:
    from fixtures.postgres import Postgres

SECRET = "pass-word-of-ada"
SLOW_MS = 60.0  # some of the random answers take longer


@pytest.fixture
def pairs(engine: Engine) -> PairStore:
    return stores_on(engine).pairs


class TestAPairIsWrittenOnce:
    def test_again_it_has_no_effect(self, pairs: PairStore) -> None:
        made = [made_pair(number) for number in range(2_500)]
        assert pairs.record(made) == 2_500
        before = pairs.table(*BOLT)
        assert pairs.record(made) == 0
        pd.testing.assert_frame_equal(pairs.table(*BOLT), before)

    def test_overlapping_batches_add_only_what_is_new(self, pairs: PairStore) -> None:
        made = [made_pair(number) for number in range(2_000)]
        assert pairs.record(made[:1_500]) == 1_500
        assert pairs.record(made[700:]) == 500
        assert pairs.counts(*BOLT).num_pairs == 2_000

    def test_twice_in_one_batch_it_counts_once(self, pairs: PairStore) -> None:
        assert pairs.record([made_pair(1), made_pair(2), made_pair(1)]) == 2

    def test_what_was_written_first_stays(self, pairs: PairStore) -> None:
        pairs.record([made_pair(1)])
        pairs.record([made_pair(1, candidate_said=ModelDecision(99.0, 0.5))])
        assert pairs.table(*BOLT)["candidate_score"].tolist() == [made_pair(1).candidate_said.score]

    def test_no_pairs_are_no_work(self, pairs: PairStore) -> None:
        assert pairs.record([]) == 0

    def test_one_bad_pair_takes_its_whole_batch_back(self, pairs: PairStore) -> None:
        made = [made_pair(number) for number in range(3_000)]
        made[2_999] = replace(made[2_999], answered_by=None)
        with pytest.raises(IntegrityError):
            pairs.record(made)
        assert pairs.counts(*BOLT).num_pairs == 0

    def test_the_time_zone_makes_no_other_pair(self, pairs: PairStore) -> None:
        pair, seoul = made_pair(1), timezone(timedelta(hours=9))
        assert pairs.record([pair, replace(pair, captured_at=pair.captured_at.astimezone(seoul))]) == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"class_name": "nut"},
            {"image_id": image_id(2)},
            {"captured_at": START},
            {"candidate": "v2"},
            {"legacy": "another"},
        ],
        ids=lambda other: next(iter(other)),
    )
    def test_each_part_of_the_key_makes_another_pair(self, pairs: PairStore, other: dict[str, object]) -> None:
        assert pairs.record([made_pair(1), made_pair(1, **other)]) == 2

    def test_processes_that_record_the_same_pairs_at_once_write_each_once(self, database_url: str) -> None:
        """In opposite orders and large transactions: where each waited for the other, one would be killed."""
        open_database(database_url).dispose()
        new = together(_record_many, [(database_url, 1), (database_url, -1)])
        assert sum(new) == 6_000
        assert stores_on(open_database(database_url)).pairs.counts(*BOLT).num_pairs == 6_000


def _record_many(url: str, direction: int) -> int:
    made = [made_pair(number) for number in range(6_000)][::direction]
    store = stores_on(open_database(url)).pairs
    return sum(store.record(made[start : start + 3_000]) for start in range(0, len(made), 3_000))


class TestWhatIsNoPair:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_a_score_that_is_not_finite_is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match="must be finite; give an error"):
            ModelDecision(value, 0.5)
        with pytest.raises(ValueError, match="must be finite; give an error"):
            ModelDecision(0.5, value)

    @pytest.mark.parametrize("said", [{}, {"score": 0.1}, {"score": 0.1, "threshold": 0.5, "error": "both"}])
    def test_a_judgement_is_a_decision_or_an_error(self, said: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="give score and threshold, or an error"):
            ModelDecision(**said)

    def test_a_naive_time_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no time zone; give UTC"):
            made_pair(1, captured_at=datetime(2026, 1, 5))

    def test_a_naive_bound_is_refused(self, pairs: PairStore) -> None:
        with pytest.raises(ValueError, match="no time zone; give UTC"):
            pairs.counts(*BOLT, since=datetime(2026, 1, 5))

    def test_feedback_at_a_naive_time_is_refused_and_leaves_nothing(self, pairs: PairStore) -> None:
        pairs.record([made_pair(1)])
        pairs.label("bolt", image_id(1), Label.NORMAL, "Ada", START)
        with pytest.raises(ValueError, match="no time zone; give UTC"):
            pairs.label("bolt", image_id(1), Label.ANOMALOUS, "Ada", datetime(2026, 1, 5))
        assert pairs.table(*BOLT)["label"].tolist() == ["normal"]


class TestFeedback:
    @pytest.fixture
    def cells(self, pairs: PairStore) -> dict[int, tuple[int, int]]:
        """Number of a pair → its decisions; candidate alarms on 4, 5 and 6, legacy on 3 and 4."""
        pairs.record([made_pair(number) for number in range(7)])
        return {4: (ALARM, ALARM), 5: (ALARM, NO_ALARM), 3: (NO_ALARM, ALARM), 0: (NO_ALARM, NO_ALARM)}

    @pytest.mark.parametrize("number", [4, 5, 3, 0])
    @pytest.mark.parametrize(("label", "axis"), [(Label.NORMAL, NORMAL), (Label.ANOMALOUS, ANOMALOUS)])
    def test_it_moves_a_pair_to_its_label(
        self, pairs: PairStore, cells: dict[int, tuple[int, int]], number: int, label: Label, axis: int
    ) -> None:
        before = pairs.counts(*BOLT).cells_LCG
        pairs.label("bolt", image_id(number), label, "Ada", START + timedelta(days=30))
        moved = pairs.counts(*BOLT).cells_LCG - before
        candidate, legacy = cells[number]
        assert moved[axis, candidate, legacy] == 1
        assert moved[UNLABELLED, candidate, legacy] == -1
        assert np.abs(moved).sum() == 2

    def test_a_later_word_supersedes_and_erases_nothing(self, pairs: PairStore, cells: object) -> None:
        for label in (Label.NORMAL, Label.ANOMALOUS, Label.ANOMALOUS, Label.NORMAL):
            pairs.label("bolt", image_id(5), label, "Ada", START)
        found = pairs.counts(*BOLT)
        assert (found.num_pairs, int(found.cells_LCG[NORMAL].sum()), int(found.cells_LCG[ANOMALOUS].sum())) == (7, 1, 0)
        with reading(pairs.engine) as connection:
            words = connection.execute(select(FeedbackRow.label, FeedbackRow.superseded).order_by(FeedbackRow.id))
            assert [tuple(word) for word in words] == [
                ("normal", True),
                ("anomalous", True),
                ("anomalous", True),
                ("normal", False),
            ]

    def test_it_holds_for_every_pair_of_the_image_also_later_ones(self, pairs: PairStore, cells: object) -> None:
        pairs.label("bolt", image_id(5), Label.NORMAL, "Ada", START)
        pairs.record([made_pair(5, captured_at=START + timedelta(days=3)), made_pair(5, candidate="v2")])
        assert pairs.table(*BOLT).set_index("image_id").loc[image_id(5), "label"].tolist() == ["normal", "normal"]
        assert int(pairs.counts(*BOLT).cells_LCG[NORMAL].sum()) == 1
        assert int(pairs.counts("bolt", "v2", BOLT[2]).cells_LCG[NORMAL].sum()) == 1

    def test_it_does_not_reach_another_class_with_the_same_image(self, pairs: PairStore, cells: object) -> None:
        pairs.record([made_pair(5, class_name="nut")])
        pairs.label("nut", image_id(5), Label.NORMAL, "Ada", START)
        assert int(pairs.counts(*BOLT).cells_LCG[NORMAL:].sum()) == 0

    def test_an_image_that_nobody_inspected_is_refused(self, pairs: PairStore, cells: object) -> None:
        with pytest.raises(ValueError, match="was never inspected"):
            pairs.label("bolt", image_id(99), Label.NORMAL, "Ada", START)
        with pytest.raises(ValueError, match="was never inspected"):
            pairs.label("nut", image_id(5), Label.NORMAL, "Ada", START)

    def test_the_label_unknown_is_refused(self, pairs: PairStore, cells: object) -> None:
        with pytest.raises(ValueError, match="unknown says nothing"):
            pairs.label("bolt", image_id(5), Label.UNKNOWN, "Ada", START)

    def test_inspectors_who_speak_at_once_leave_one_word_that_counts(self, database_url: str) -> None:
        store = stores_on(open_database(database_url)).pairs
        store.record([made_pair(number) for number in range(7)])
        store.engine.dispose()
        together(_label_often, [(database_url, label) for label in (Label.NORMAL, Label.ANOMALOUS) * 2])
        assert store.counts(*BOLT).num_pairs == 7
        with reading(store.engine) as connection:
            query = select(func.count(), func.count().filter(~FeedbackRow.superseded)).select_from(FeedbackRow)
            assert tuple(connection.execute(query).one()) == (80, 1)


def _label_often(url: str, label: Label) -> None:
    store = stores_on(open_database(url)).pairs
    for _ in range(20):
        store.label("bolt", image_id(5), label, "Ada", START)


class TestAgainstPandas:
    """The same questions, answered by pandas from the pairs themselves."""

    BOUNDS = (None, START, START + timedelta(hours=60), START + timedelta(hours=171), START + timedelta(hours=239))

    @pytest.fixture(params=[0, 1])
    def filled(self, pairs: PairStore, request: pytest.FixtureRequest) -> tuple[PairStore, pd.DataFrame]:
        """The store, and what it must hold: one row a pair, with its label."""
        rng = np.random.default_rng(request.param)
        made = random_pairs(rng, 1_500)
        assert pairs.record(made[:800]) + pairs.record(made[600:]) == len({pair.key for pair in made})
        labels: dict[tuple[str, str], str] = {}
        for index in rng.choice(len(made), 300):
            label = Label(rng.choice(["normal", "anomalous"]))
            labels[made[index].class_name, made[index].image_id] = label
            pairs.label(made[index].class_name, made[index].image_id, label, "Ada", START)
        return pairs, _frame(made, labels)

    def test_counts_and_evidence_between_any_bounds(
        self, filled: tuple[PairStore, pd.DataFrame], params: Params
    ) -> None:
        """Counts leave `since` out and take `until` in; evidence does it the other way round."""
        store, frame = filled
        policy = _with_latency_bound(params.rollout, SLOW_MS)
        groups = frame[frame["is_first"]].groupby(["class_name", "candidate"])
        assert groups.ngroups == 4
        for ((class_name, candidate), rows), since, until in product(groups, self.BOUNDS, self.BOUNDS):
            inside = pd.Series(True, index=rows.index)
            inside &= rows["at"] > since if since else True
            inside &= rows["at"] <= until if until else True
            models = (str(class_name), str(candidate), "legacy")
            assert (store.counts(*models, since, until).cells_LCG == _cells(rows[inside])).all()
            if since and until:
                one = compared_since(since, *models)
                evidence = read_evidence(store.engine, one, until, policy)
                assert _known(evidence.table) == _expected(rows[(rows["at"] >= since) & (rows["at"] < until)])

    def test_scores_are_those_of_the_images_that_both_judged(self, filled: tuple[PairStore, pd.DataFrame]) -> None:
        store, frame = filled
        for (class_name, candidate), rows in frame[frame["is_first"]].groupby(["class_name", "candidate"]):
            both = rows.dropna(subset=["candidate_alarm", "legacy_alarm"])
            found = store.scores(str(class_name), str(candidate), "legacy")
            expected = both[["candidate_score", "legacy_score"]]
            pd.testing.assert_frame_equal(_sorted(found), _sorted(expected), check_dtype=False)

    def test_the_table_is_every_pair_the_newest_first(self, filled: tuple[PairStore, pd.DataFrame]) -> None:
        store, frame = filled
        rows = frame[(frame["class_name"] == "bolt") & (frame["candidate"] == "v1")]
        found = store.table("bolt", "v1", "legacy")
        assert set(found["key"]) == set(rows["key"])
        assert found["received_at"].is_monotonic_decreasing
        assert dict(zip(found["key"], found["is_first"], strict=True)) == dict(
            zip(rows["key"], rows["is_first"], strict=True)
        )
        assert dict(zip(found["key"], found["label"], strict=True)) == dict(
            zip(rows["key"], rows["label"], strict=True)
        )
        assert store.table("bolt", "v1", "legacy", limit=10)["key"].tolist() == found["key"].tolist()[:10]
        assert store.known_keys("bolt", "v1", "legacy") == set(rows["key"])


def _frame(made: Sequence[Pair], labels: dict[tuple[str, str], str]) -> pd.DataFrame:
    rows = [
        {
            "key": pair.key,
            "class_name": pair.class_name,
            "candidate": pair.candidate,
            "image_id": pair.image_id,
            "at": pd.Timestamp(pair.received_at),
            "label": labels.get((pair.class_name, pair.image_id)),
            "candidate_score": pair.candidate_said.score,
            "candidate_alarm": pair.candidate_said.alarm,
            "candidate_error": pair.candidate_said.error,
            "latency_ms": pair.candidate_said.latency_ms,
            "legacy_score": pair.legacy_said.score if pair.legacy_said else None,
            "legacy_alarm": pair.legacy_said.alarm if pair.legacy_said else None,
        }
        for pair in made
    ]
    frame = pd.DataFrame(rows).astype({"label": object}).drop_duplicates("key")
    return frame.assign(is_first=~frame.duplicated(["class_name", "candidate", "image_id"]))


def _cells(rows: pd.DataFrame) -> np.ndarray:
    cells = np.zeros((3, 2, 2), dtype=np.int64)
    both = rows.dropna(subset=["candidate_alarm", "legacy_alarm"])
    for axis, label in ((UNLABELLED, None), (NORMAL, "normal"), (ANOMALOUS, "anomalous")):
        chosen = both[both["label"].isna() if label is None else both["label"] == label]
        for candidate in (NO_ALARM, ALARM):
            for legacy in (NO_ALARM, ALARM):
                hits = (chosen["candidate_alarm"] == bool(candidate)) & (chosen["legacy_alarm"] == bool(legacy))
                cells[axis, candidate, legacy] = hits.sum()
    return cells


def _with_latency_bound(policy: RolloutParams, bound_ms: float) -> RolloutParams:
    latency = policy.guards.latency.model_copy(update={"bound": bound_ms})
    return policy.model_copy(update={"guards": policy.guards.model_copy(update={"latency": latency})})


def _known(table: EvidenceTable) -> Counter[tuple[int, ...]]:
    """Images by slot of receipt, label, answers of candidate and legacy model, and whether the candidate was slow."""
    columns = (table.received, table.label, table.candidate, table.legacy, table.slow, table.count)
    known: Counter[tuple[int, ...]] = Counter()
    for *kind, count in zip(*(column.tolist() for column in columns), strict=True):
        known[tuple(kind)] += count
    assert min(known.values(), default=0) >= 0
    return +known


def _expected(rows: pd.DataFrame) -> Counter[tuple[int, ...]]:
    labels, answers = {"normal": NORMAL, "anomalous": ANOMALOUS}, {False: NO_ALARM, True: ALARM}
    return Counter(
        (
            slot_of(row["at"].to_pydatetime()),
            labels.get(row["label"], UNLABELLED),
            answers.get(row["candidate_alarm"], CANDIDATE_DROPPED if row["candidate_error"] == DROPPED else FAILED),
            answers.get(row["legacy_alarm"], ABSENT),
            row["latency_ms"] > SLOW_MS,
        )
        for row in rows.to_dict("records")
    )


def _sorted(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.sort_values(list(scores.columns), ignore_index=True)


class TestWhatDoesNotCount:
    def test_pairs_without_both_answers_are_no_evidence_of_agreement(self, pairs: PairStore, params: Params) -> None:
        pairs.record([
            made_pair(1, candidate_said=ModelDecision(error=DROPPED)),
            made_pair(2, candidate_said=ModelDecision(error="broken")),
            made_pair(3, legacy_said=None),
            made_pair(4, legacy_said=ModelDecision(error="broken")),
            made_pair(5, candidate="", candidate_said=None),
        ])  # fmt: skip
        assert pairs.counts(*BOLT).num_pairs == 0
        assert len(pairs.scores(*BOLT)) == 0
        one = compared_since(START, *BOLT)
        table = read_evidence(pairs.engine, one, START + timedelta(days=1), params.rollout).table
        assert not count_cells(table).any()
        num_of = {said: int(table.count[table.candidate == said].sum()) for said in (FAILED, CANDIDATE_DROPPED)}
        assert (int(table.count[table.judged].sum()), num_of) == (2, {FAILED: 1, CANDIDATE_DROPPED: 1})

    def test_without_pairs_the_evidence_is_empty(self, pairs: PairStore, params: Params) -> None:
        one = compared_since(START, *BOLT)
        assert len(read_evidence(pairs.engine, one, START + timedelta(days=1), params.rollout).table) == 0

    def test_since_is_left_out_and_until_is_not(self, pairs: PairStore) -> None:
        pairs.record([made_pair(number) for number in range(10)])
        since, until = START + timedelta(minutes=3), START + timedelta(minutes=7)
        assert pairs.counts(*BOLT, since, until).num_pairs == 4

    def test_times_come_back_as_they_went_in(self, pairs: PairStore) -> None:
        exact = datetime(2026, 3, 29, 2, 30, 0, 123_456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        pairs.record([made_pair(1, captured_at=exact)])
        (pair,) = pairs.table(*BOLT).to_dict("records")
        for at in (pair["captured_at"], pair["received_at"]):
            assert at == exact and at.utcoffset() == timedelta(0)


class TestReadersAndWriters:
    def test_readers_do_not_wait_for_a_writer_and_see_what_was_before(
        self, pairs: PairStore, database_url: str
    ) -> None:
        """A reader that asked for the write lock would wait half a minute and give up."""
        pairs.record([made_pair(1)])
        with pairs.engine.begin() as writer:
            writer.execute(
                PairRow.__table__.insert(),
                [{**made_pair(2).to_row(START), "frame_group": image_id(2), "is_first": True}],
            )
            assert pairs.counts(*BOLT).num_pairs == 1
            assert len(pairs.table(*BOLT)) == 1
            assert stores_on(open_database(database_url)).pairs.counts(*BOLT).num_pairs == 1
        assert pairs.counts(*BOLT).num_pairs == 2

    def test_a_writer_does_not_wait_for_a_reader_that_sees_one_moment(self, pairs: PairStore) -> None:
        pairs.record([made_pair(1)])
        count = select(func.count()).select_from(PairRow)
        with reading(pairs.engine) as reader:
            assert reader.execute(count).scalar() == 1
            pairs.record([made_pair(2)])
            assert reader.execute(count).scalar() == 1
        assert pairs.counts(*BOLT).num_pairs == 2


class TestTheSchema:
    def test_after_the_migrations_it_is_that_of_the_tables(self, engine: Engine) -> None:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []

    def test_down_and_up_again(self, engine: Engine) -> None:
        with engine.begin() as connection:
            command.downgrade(migrations(connection), "base")
        assert inspect(engine).get_table_names() == ["alembic_version"]
        with engine.begin() as connection:
            command.upgrade(migrations(connection), "head")
        assert stores_on(engine).pairs.record([made_pair(1)]) == 1

    def test_processes_that_open_a_new_database_at_once_all_get_it(self, database_url: str) -> None:
        assert together(_open_and_count, [(database_url,)] * 4) == [0] * 4

    def test_a_new_file_is_waited_for_while_another_process_writes_to_it(self, tmp_path: Path) -> None:
        """Before a file keeps a write-ahead log, SQLite refuses a second process at once, whatever its patience."""
        other = sqlite3.connect(tmp_path / "records.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        soon = Timer(0.3, other.rollback)
        soon.start()
        assert stores_on(open_database(f"sqlite:///{tmp_path / 'records.db'}")).pairs.record([made_pair(1)]) == 1
        soon.join()
        other.close()

    def test_two_words_on_one_image_cannot_both_count(self, engine: Engine) -> None:
        word = {"class_name": "bolt", "image_id": "1", "label": "normal", "by": "Ada", "at": START, "note": ""}
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(FeedbackRow.__table__.insert(), [word | {"superseded": False}] * 2)

    def test_a_schema_of_a_later_version_is_refused(self, engine: Engine, database_url: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ValueError, match="9999"):
            open_database(database_url)


def _open_and_count(url: str) -> int:
    return stores_on(open_database(url)).pairs.counts(*BOLT).num_pairs


class TestTheBenchmark:
    def test_it_fills_and_asks_an_empty_database_and_refuses_a_full_one(self, engine: Engine, params: Params) -> None:
        found = bench_pairs(engine, 4_001, params, Progress())
        assert (found.database, found.num_pairs) == (engine.dialect.name, 4_001)
        pairs = stores_on(engine).pairs
        with reading(engine) as connection:
            models = connection.execute(select(PairRow.class_name, PairRow.candidate, PairRow.legacy).distinct()).all()
        counts = [pairs.counts(*model) for model in models]
        assert (len(counts), sum(count.num_pairs for count in counts)) == (found.num_classes, 4_001)
        assert sum(int(count.cells_LCG[NORMAL:].sum()) for count in counts) == 3
        with pytest.raises(ValueError, match="holds pairs already; give an empty one"):
            bench_pairs(engine, 1, params, Progress())

    def test_its_command_says_what_it_measured(self, command: Callable[..., tuple[int, str, str]]) -> None:
        code, out, _ = command("bench", "pairs", "--pairs", "300", "--json")
        assert code == 0
        found = json.loads(out.splitlines()[-1])
        assert (found["database"], found["num_pairs"], found["num_classes"]) == ("sqlite", 300, 15)
        assert min(value for name, value in found.items() if name.endswith("_s")) > 0


class TestADatabaseThatCannotBeUsed:
    @pytest.mark.parametrize(
        "url",
        [
            f"nonsense {SECRET}",
            f"postgresql+psycopg://ada:{SECRET}@host:no-port/records",
            f"postgresql://ada:{SECRET}@localhost/records",
            f"mysql+pymysql://ada:{SECRET}@localhost/records",
            "",
        ],
    )
    def test_a_url_that_is_none_says_what_is_needed(self, url: str) -> None:
        with pytest.raises(ValueError, match="need sqlite:///FILE or postgresql") as refused:
            open_database(url)
        assert SECRET not in str(refused.value)

    @pytest.mark.parametrize("query", ["", f"?password={SECRET}&user=ada"])
    def test_an_unreachable_server_is_named_without_its_password(self, query: str) -> None:
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:1/records: .*; check SHADOWLINE_DATABASE_URL$") as refused:
            open_database(f"postgresql+psycopg://ada:{SECRET}@127.0.0.1:1/records{query}")
        assert SECRET not in str(refused.value)
        assert refused.value.__suppress_context__

    @pytest.mark.parametrize(("database", "password"), [("postgres", SECRET), ("nowhere", None)])
    def test_a_server_that_refuses_is_quoted(self, postgres: Postgres, database: str, password: str | None) -> None:
        url = postgres.url(database, password) if password else postgres.url(database)
        with pytest.raises(ValueError, match=r"authentication failed|does not exist") as refused:
            open_database(url)
        assert SECRET not in str(refused.value)

    def test_a_file_that_is_no_database_is_left_as_it_is(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.txt"
        file.write_text("not a database, " * 100)
        with pytest.raises(ValueError, match="file is not a database"):
            open_database(f"sqlite:///{file}")
        assert file.read_text() == "not a database, " * 100

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")
        with pytest.raises(ValueError, match=r"taken.*SHADOWLINE_DATABASE_URL"):
            open_database(f"sqlite:///{tmp_path / 'taken' / 'records.db'}")
