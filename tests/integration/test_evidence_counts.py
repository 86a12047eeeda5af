"""What counts as evidence, on real databases: the time of receipt, each frame once, and no word of the caller."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import Engine, MetaData, create_engine, select, text
from sqlalchemy.exc import DBAPIError

from fixtures.effort import examples
from fixtures.learning import ROOT
from fixtures.records import BOLT, START, compared_since, image_id, made_pair, stores_on, together
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.data.near_duplicates import FrameRule
from shadowline.evaluation.evidence import SLOT, EvidenceTable, slot_of
from shadowline.inference.shadow_batch import find_images, shadow_images
from shadowline.records.database import migrations, open_database, reading
from shadowline.records.evidence import read_evidence
from shadowline.records.pair import DROPPED, ModelDecision, Pair, PairSource, is_capture_suspect, is_drawn_for_review
from shadowline.records.pairs import PairStore
from shadowline.records.stores import open_records
from shadowline.records.tables import PairRow
from shadowline.records.traces import labels_of

RULE = FrameRule(window=5, levels=0.5)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
CLAIMS = (datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))


@pytest.fixture
def pairs(engine: Engine) -> PairStore:
    return PairStore(engine, stores_on(engine).chain, clock=lambda: NOW)


def grey(level: int) -> bytes:
    return bytes([level]) * 1024


def rows_of(store: PairStore, class_name: str = "bolt") -> list[tuple[str, str, bool]]:
    """Image, frame group and whether it is the first, in the order of recording."""
    query = select(PairRow.image_id, PairRow.frame_group, PairRow.is_first).where(PairRow.class_name == class_name)
    with reading(store.engine) as connection:
        return [tuple(row) for row in connection.execute(query.order_by(PairRow.id))]


def evidence_between(
    since: datetime, until: datetime, store: PairStore, params: Params, class_name: str = "bolt"
) -> EvidenceTable:
    """What a tick at `until` knows of a class whose models are compared since then."""
    one = compared_since(since, class_name, *BOLT[1:])
    return read_evidence(store.engine, one, until, params.rollout).table


class TestTheTimeOfReceipt:
    @pytest.mark.parametrize("claim", CLAIMS, ids=lambda at: str(at.year))
    def test_a_claimed_time_is_kept_and_counts_for_nothing(
        self, pairs: PairStore, params: Params, claim: datetime
    ) -> None:
        pairs.record([made_pair(1, captured_at=claim, received_at=None)])
        assert pairs.counts(*BOLT, since=NOW - timedelta(days=1), until=NOW).num_pairs == 1
        evidence = evidence_between(NOW - timedelta(days=1), NOW + SLOT, pairs, params)
        assert evidence.received.tolist() == [slot_of(NOW)]
        assert pairs.table(*BOLT)[["captured_at", "received_at"]].to_numpy().tolist() == [[claim, NOW]]

    def test_a_pair_that_waited_on_disk_keeps_its_time(self, pairs: PairStore) -> None:
        pairs.record([made_pair(1, received_at=NOW - timedelta(hours=5))])
        assert pairs.table(*BOLT)["received_at"].tolist() == [NOW - timedelta(hours=5)]

    def test_a_naive_time_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"received at .* no time zone; give UTC"):
            made_pair(1, received_at=datetime(2026, 1, 5))

    @pytest.mark.parametrize(
        ("age", "suspect"),
        [
            (timedelta(hours=24), False),
            (timedelta(hours=24, seconds=1), True),
            (timedelta(minutes=-10), False),
            (timedelta(minutes=-10, seconds=-1), True),
            (timedelta(0), False),
        ],
    )
    def test_a_claim_far_from_the_receipt_is_suspect(self, params: Params, age: timedelta, suspect: bool) -> None:
        assert is_capture_suspect(NOW - age, NOW, params.gateway) is suspect

    def test_every_claim_that_a_time_can_express_is_judged(self, params: Params) -> None:
        extremes = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
        assert all(is_capture_suspect(at, NOW, params.gateway) for at in extremes)


class TestAnImageCountsOnce:
    def test_sent_220_times_it_is_one_pair_of_evidence(self, pairs: PairStore, params: Params) -> None:
        again = [made_pair(1, captured_at=START + timedelta(seconds=number)) for number in range(220)]
        assert pairs.record(again[:100]) + pairs.record(again[100:]) == 220
        assert pairs.counts(*BOLT).num_pairs == 1
        evidence = evidence_between(START - timedelta(days=1), START + timedelta(days=1), pairs, params)
        assert evidence.count.tolist() == [1]
        assert len(pairs.scores(*BOLT)) == 1

    def test_near_identical_frames_are_one_too(self, pairs: PairStore) -> None:
        levels = (10, 10, 11, 10, 30)
        made = [made_pair(number, frame_signature=grey(level)) for number, level in enumerate(levels)]
        pairs.record(made, RULE)
        groups = [image_id(number) for number in (0, 0, 2, 0, 4)]
        assert rows_of(pairs) == [
            (image_id(number), group, image_id(number) == group) for number, group in enumerate(groups)
        ]
        assert pairs.counts(*BOLT).num_pairs == 3

    def test_they_are_looked_for_among_the_newest_only_and_the_same_image_among_all(self, pairs: PairStore) -> None:
        made = [made_pair(number, frame_signature=grey(10 * number)) for number in range(1, 9)]
        pairs.record(made, RULE)
        again = [made_pair(20, frame_signature=grey(10)), replace(made[0], captured_at=NOW)]
        pairs.record(again, RULE)
        assert rows_of(pairs)[-2:] == [(image_id(20), image_id(20), True), (image_id(1), image_id(1), False)]

    def test_another_candidate_and_another_class_judge_it_anew(self, pairs: PairStore) -> None:
        pairs.record([made_pair(1), made_pair(1, candidate="v2"), made_pair(1, class_name="nut")])
        assert [first for *_, first in rows_of(pairs) + rows_of(pairs, "nut")] == [True, True, True]

    def test_signatures_without_a_rule_are_refused(self, pairs: PairStore) -> None:
        with pytest.raises(ValueError, match=r"give the rule that groups them, FrameRule\.of"):
            pairs.record([made_pair(1, frame_signature=grey(1))])

    def test_the_gallery_shows_a_disagreement_once(self, pairs: PairStore) -> None:
        said = {"candidate_said": ModelDecision(1.0, 0.5), "legacy_said": ModelDecision(0.0, 0.5)}
        pairs.record([made_pair(1, captured_at=START + timedelta(seconds=n), **said) for n in range(3)])
        assert len(pairs.table(*BOLT, disagreeing=True)) == 1

    def test_of_processes_that_record_one_image_at_once_one_has_the_first(self, database_url: str) -> None:
        open_database(database_url).dispose()
        together(_record_series, [(database_url, start) for start in range(3)])
        rows = rows_of(stores_on(open_database(database_url)).pairs)
        assert len(rows) == 90
        assert sum(is_first for *_, is_first in rows) == 30


def _record_series(url: str, start: int) -> None:
    """30 images, each with a capture time of this process."""
    store = stores_on(open_database(url)).pairs
    for number in range(30):
        store.record([made_pair(number, captured_at=START + timedelta(days=start))])


# --- laws -----------------------------------------------------------------------------------------------------------

_classes = (f"class_{number}" for number in itertools.count())
law = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
frames = st.lists(st.tuples(st.integers(0, 15), st.one_of(st.none(), st.integers(0, 6))), min_size=1, max_size=12)
moments = st.datetimes(timezones=st.just(UTC))


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    return stores_on(open_database(f"sqlite:///{tmp_path / 'records.db'}")).pairs


def series(class_name: str, made: Sequence[tuple[int, int | None]]) -> list[Pair]:
    """A pair a minute, by image number and grey level."""
    return [
        made_pair(
            image,
            class_name=class_name,
            captured_at=START + timedelta(minutes=minute),
            frame_signature=None if level is None else grey(level),
        )
        for minute, (image, level) in enumerate(made)
    ]


def evidence(store: PairStore, params: Params, class_name: str) -> tuple[object, ...]:
    """All that counts of a class: cells up to three moments, the time of each first frame, the table of a tick."""
    models, since = (class_name, *BOLT[1:]), START - timedelta(days=1)
    counts = [store.counts(*models, since, START + timedelta(minutes=n)).cells_LCG.tolist() for n in (3, 6, 60)]
    pairs = store.table(*models)
    firsts = pairs.loc[pairs["is_first"], ["image_id", "received_at"]].to_numpy().tolist()
    table = evidence_between(since, START + timedelta(days=1), store, params, class_name)
    columns = (getattr(table, field.name).tolist() for field in fields(table))
    return counts, firsts, sorted(zip(*columns, strict=True))


@law
@given(made=frames, claims=st.lists(moments, min_size=12, max_size=12, unique=True))
def test_what_a_caller_claims_changes_no_count(
    store: PairStore, params: Params, made: list[tuple[int, int | None]], claims: list[datetime]
) -> None:
    honest, lying = next(_classes), next(_classes)
    claimed = [
        replace(pair, captured_at=claim, capture_suspect=True)
        for pair, claim in zip(series(lying, made), claims, strict=False)
    ]
    store.record(series(honest, made), RULE)
    store.record(claimed, RULE)
    assert evidence(store, params, honest) == evidence(store, params, lying)


@law
@given(made=frames, again=st.lists(st.tuples(st.integers(0, 11), moments), max_size=12))
def test_what_is_sent_again_changes_no_count(
    store: PairStore, params: Params, made: list[tuple[int, int | None]], again: list[tuple[int, datetime]]
) -> None:
    name = next(_classes)
    sent = series(name, made)
    store.record(sent, RULE)
    before = evidence(store, params, name)
    resent = [replace(sent[number % len(sent)], captured_at=at) for number, at in again]
    store.record([*resent, *sent], RULE)
    assert evidence(store, params, name) == before


@law
@given(made=frames, cuts=st.sets(st.integers(1, 11)))
def test_the_groups_are_the_same_however_pairs_come_in_batches(
    store: PairStore, made: list[tuple[int, int | None]], cuts: set[int]
) -> None:
    whole, split = next(_classes), next(_classes)
    store.record(series(whole, made), RULE)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(made)), len(made)]
    sent = series(split, made)
    for start, stop in itertools.pairwise(bounds):
        store.record(sent[start:stop], RULE)
    assert rows_of(store, whole) == rows_of(store, split)


# --- drawn for review -----------------------------------------------------------------------------------------------


def test_a_draw_hits_its_share_and_a_larger_share_draws_the_same_images_and_more() -> None:
    ids = [image_id(number) for number in range(20_000)]
    few, many = ({image for image in ids if is_drawn_for_review("bolt", image, share)} for share in (0.02, 0.1))
    assert few < many
    assert len(few) == pytest.approx(400, abs=80)  # four standard deviations
    assert not any(is_drawn_for_review("bolt", image, 0.0) for image in ids)
    assert all(is_drawn_for_review("bolt", image, 1.0) for image in ids)


# --- the schema -----------------------------------------------------------------------------------------------------


def test_what_was_recorded_before_counts_by_its_capture_time_and_once(database_url: str) -> None:
    engine = create_engine(database_url)
    old = [made_pair(1), made_pair(1, captured_at=START), made_pair(2), made_pair(1, candidate="v2")]
    with engine.begin() as connection:
        command.upgrade(migrations(connection), "0002")
        before = MetaData()
        before.reflect(connection, only=["pairs"])
        table = before.tables["pairs"]
        for pair in old:
            row = {name: value for name, value in pair.to_row(NOW).items() if name in table.columns}
            connection.execute(table.insert(), row)
    engine.dispose()
    store = stores_on(open_database(database_url)).pairs
    assert rows_of(store) == [
        (image_id(1), image_id(1), True),
        (image_id(1), image_id(1), False),
        (image_id(2), image_id(2), True),
        (image_id(1), image_id(1), True),
    ]
    assert set(store.table(*BOLT)["received_at"]) == {pair.captured_at for pair in old[:3]}
    assert store.record(old) == 0  # the key is still unique
    assert (
        store.table(*BOLT)[["source", "review_share", "review_drawn", "capture_suspect"]].to_numpy().tolist()
        == [["line", 0.0, False, False]] * 3
    )


def test_counting_reads_the_index_alone(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'records.db'}")
    query = (
        "EXPLAIN QUERY PLAN SELECT candidate_alarm, legacy_alarm, image_id, count(*) FROM pairs WHERE class_name = 'a' "
        "AND candidate = 'b' AND legacy = 'c' AND is_first = 1 AND received_at > '2026' "
        "AND source IN ('line', 'batch') GROUP BY candidate_alarm, legacy_alarm"
    )
    with reading(engine) as connection:
        plan = " ".join(str(row) for row in connection.execute(text(query)))
    assert "COVERING INDEX pairs_for_counting" in plan


# --- in batch -------------------------------------------------------------------------------------------------------


class Brightness:
    """A detector: bright parts are bad."""

    bit_depth = 16

    def __init__(self, fingerprint: str) -> None:
        self.class_name, self.fingerprint, self.threshold = "bolt", fingerprint, 128.0

    def score(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array([np.asarray(image).mean() for image in images])


def test_a_folder_of_old_files_is_evidence_of_the_day_on_which_it_is_judged(
    pairs: PairStore, params: Params, tmp_path: Path
) -> None:
    for number, level in enumerate((10, 60, 60, 200)):
        path = tmp_path / f"{number}.{'bmp' if number == 2 else 'png'}"  # the third is the second, saved again
        Image.new("RGB", (40, 40), (level, level, level)).save(path)
        at = (NOW - timedelta(days=10 * number)).timestamp()
        os.utime(path, (at, at))
    models = (Brightness(BOLT[1]), Brightness(BOLT[2]))
    everyone = params.model_copy(update={"shadow": params.shadow.model_copy(update={"review_share": 1.0})})
    for expected in ((4, 0), (0, 4)):
        done = shadow_images("bolt", find_images(tmp_path), *models, pairs, everyone, Progress(), clock=lambda: NOW)
        assert (done.num_new, done.num_known) == expected
    table = pairs.table(*BOLT).sort_values("captured_at", ascending=False)
    assert table["captured_at"].tolist() == [NOW - timedelta(days=10 * number) for number in range(4)]
    assert table["capture_suspect"].tolist() == [False, True, True, True]
    assert table["is_first"].tolist() == [True, True, False, True]
    assert set(table["received_at"]) == {NOW}
    assert set(table["source"]) == {"batch"}
    assert set(table["review_share"]) == {1.0} and table["review_drawn"].all()
    assert pairs.counts(*BOLT, since=NOW - timedelta(seconds=1)).num_pairs == 3


# --- reference parts ------------------------------------------------------------------------------------------------


def test_a_reference_part_comes_with_its_label_once(pairs: PairStore) -> None:
    part = made_pair(1, source=PairSource.REFERENCE, known_label=Label.ANOMALOUS)
    assert [pairs.record([part]), pairs.record([part])] == [1, 0]
    assert pairs.table(*BOLT)[["source", "label"]].to_numpy().tolist() == [["reference", "anomalous"]]
    (word,) = labels_of(pairs.engine, "bolt", image_id(1))
    assert (word.by, word.at, word.superseded) == ("reference part", part.received_at, False)


def test_a_known_label_takes_no_word_back_that_is_on_record(pairs: PairStore) -> None:
    pairs.record([made_pair(1)])
    pairs.label("bolt", image_id(1), Label.NORMAL, "Grace", NOW)
    again = {"source": PairSource.REFERENCE, "received_at": NOW + timedelta(minutes=1), "captured_at": NOW}
    pairs.record([made_pair(1, known_label=Label.ANOMALOUS, **again)])
    pairs.record([made_pair(2, source=PairSource.REFERENCE, known_label=Label.NORMAL)])
    pairs.record([made_pair(2, known_label=Label.ANOMALOUS, **again)])
    for number, by in ((1, "Grace"), (2, "reference part")):
        (word,) = labels_of(pairs.engine, "bolt", image_id(number))
        assert (word.by, word.label, word.superseded) == (by, "normal", False)


def test_a_known_label_is_known_when_its_part_is_received_however_late_it_is_recorded(pairs: PairStore) -> None:
    early = NOW - timedelta(days=3)
    pairs.record([made_pair(1, source=PairSource.REFERENCE, known_label=Label.ANOMALOUS, received_at=early)])
    (word,) = labels_of(pairs.engine, "bolt", image_id(1))
    assert word.at == early


def test_a_part_of_the_line_has_no_known_label() -> None:
    with pytest.raises(ValueError, match="only a reference part has a known label"):
        made_pair(1, known_label=Label.NORMAL)


def test_a_label_that_cannot_be_stored_takes_its_pair_back(pairs: PairStore) -> None:
    with pairs.engine.begin() as connection:
        connection.execute(text("ALTER TABLE feedback RENAME TO away"))
    with pytest.raises(DBAPIError):
        pairs.record([made_pair(1, source=PairSource.REFERENCE, known_label=Label.NORMAL)])
    assert rows_of(pairs) == []


# --- what waits for review ------------------------------------------------------------------------------------------

QUIET, LOUD = ModelDecision(0.1, 0.5), ModelDecision(0.9, 0.5)


def judged(number: int, candidate: ModelDecision | None, legacy: ModelDecision | None, /, **changes: object) -> Pair:
    named = {} if candidate else {"candidate": ""}
    return made_pair(number, candidate_said=candidate, legacy_said=legacy, **named, **changes)


class TestWhatWaitsForReview:
    def waiting(self, pairs: PairStore, *arguments: object) -> list[tuple[str, list[str]]]:
        numbers = {image_id(number): str(number) for number in range(30)}
        return [(numbers[part.image_id], list(part.reasons)) for part in pairs.waiting_for_review(*arguments)]

    def test_disagreements_alarms_and_draws_wait_the_oldest_first_and_each_says_why(self, pairs: PairStore) -> None:
        pairs.record([
            judged(1, QUIET, QUIET),
            judged(6, LOUD, LOUD),
            judged(5, QUIET, LOUD),
            judged(4, QUIET, QUIET, review_drawn=True),
            judged(3, LOUD, None, review_drawn=True),
            judged(2, None, LOUD),
            judged(7, ModelDecision(error=DROPPED), QUIET),
            judged(8, LOUD, LOUD, source=PairSource.REFERENCE),
            judged(9, LOUD, LOUD, source=PairSource.REDECIDED_TEST),
            judged(10, LOUD, QUIET, source=PairSource.BATCH),
            judged(11, LOUD, LOUD, class_name="nut"),
        ])  # fmt: skip
        assert self.waiting(pairs, "bolt") == [
            ("2", ["alarm"]),
            ("3", ["drawn", "alarm"]),
            ("4", ["drawn"]),
            ("5", ["disagreement", "alarm"]),
            ("6", ["alarm"]),
            ("10", ["disagreement", "alarm"]),
        ]
        assert [number for number, _ in self.waiting(pairs, None, 3)] == ["2", "3", "4"]
        assert self.waiting(pairs)[-1] == ("11", ["alarm"])

    def test_a_part_waits_once_until_it_is_labelled(self, pairs: PairStore) -> None:
        again = [judged(1, LOUD, QUIET, captured_at=START + timedelta(hours=n)) for n in range(3)]
        pairs.record([*again, judged(1, LOUD, QUIET, candidate="v2")])
        assert self.waiting(pairs) == [("1", ["disagreement", "alarm"])]
        pairs.label("bolt", image_id(1), Label.NORMAL, "Ada", NOW)
        assert self.waiting(pairs) == []
        pairs.record([judged(1, LOUD, QUIET, candidate="v3")])
        assert self.waiting(pairs) == []

    def test_the_command_lists_them_and_takes_a_label(
        self, command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(ROOT / name, tmp_path)
        monkeypatch.chdir(tmp_path)
        assert command("review", "list", "--json")[:2] == (0, "[]\n")
        open_records().pairs.record([judged(1, LOUD, QUIET, trace_id="line-7")])
        kept = Layout().inspected / "bolt" / f"{image_id(1)}.png"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"an image")
        (part,) = json.loads(command("review", "list", "bolt", "--json")[1])
        assert (part["image_id"], part["trace_id"], part["reasons"]) == (
            image_id(1),
            "line-7",
            ["disagreement", "alarm"],
        )
        assert Path(part["image_path"]).read_bytes() == b"an image"
        assert "line-7" in command("review", "list")[1]
        code, _, err = command("review", "list", "nut", "--json")
        assert (code, "'nut'" in err) == (2, True)
        assert command("review", "label", "bolt", image_id(1), "normal", "--by", "Ada")[0] == 0
        assert json.loads(command("review", "list", "--json")[1]) == []
