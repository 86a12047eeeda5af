"""State held to the chain: whatever is changed in the tables that decide, the verification names table and column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Boolean, Engine, Float, Integer, delete, insert, select, update

from fixtures.records import CANDIDATE, LEGACY, START, first_events, image_id, made_pair, stores_on, tick
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.audit_log.pair_seals import LEAF_COLUMNS, compare_pairs, seal_pairs
from shadowline.records.audit_log.state import Difference, TableReport, compare_tables
from shadowline.records.database import open_database
from shadowline.records.model_locations import ModelLocation
from shadowline.records.stores import Records
from shadowline.records.tables import AuditNoteRow, Base, PairRow, UtcDateTime
from shadowline.rollout.observation import Approval, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import Phase

if TYPE_CHECKING:
    from fixtures.postgres import Postgres

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
HELD = (
    "rollout_classes", "rollout_events", "rollout_actions", "rollout_approvals", "rollout_refusals",
    "rollout_orders", "rollout_evidence",
    "feedback", "models", "champions", "pairs",
)  # fmt: skip
THE_CHAIN = {"audit_notes", "audit_entries"}
OPERATIONAL = {("rollout_actions", name) for name in ("id", "done_at", "last_error")}  # of work to be done: not signed
OPERATIONAL |= {("pairs", "frame_signature")}  # what it was for, the frame group, is signed


def history(records: Records, params: Params) -> None:
    """A small migration through the stores: planned, in shadow mode, held by an order, approved, labelled, sealed."""
    store = records.rollout
    places = [
        ModelLocation(fingerprint, name, "legacy", f"models:/legacy-{name}/1", "1")
        for name, fingerprint in LEGACY.items()
    ]
    places += [
        ModelLocation(fingerprint, name, "candidate", "models:/inspector/1", "1")
        for name, fingerprint in CANDIDATE.items()
    ]
    records.locations.upsert_model(places, START)
    records.locations.set_champion({"bolt": "v0-bolt", "cap": "v0-cap"}, START)
    records.locations.set_champion(CANDIDATE, START)
    store.begin(first_events())
    store.commit(tick(store, START + DAY, params))
    records.approvals.order(Order(OrderKind.HOLD, ("bolt", "nut"), "Ada", "cleaning"), START + DAY)
    order = records.approvals.next_order()
    store.commit(tick(store, START + 2 * DAY, params, order), order)
    records.approvals.order(Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "complaint"), START + 2 * DAY)
    for name in ("bolt", "nut"):
        records.approvals.approve(Approval(name, Phase.CANARY, LEGACY[name], CANDIDATE[name], "Ada"), START)
        records.approvals.refuse(Approval(name, Phase.LEGACY_OFF, LEGACY[name], CANDIDATE[name], "Ada"), START)
        records.approvals.record_evidence(name, LEGACY[name], ChecklistItem.TRAINED, "Ada", START, "https://wiki/1")
    records.pairs.record([made_pair(number) for number in range(150)])
    for number in range(3):
        records.pairs.label("bolt", image_id(number), Label.NORMAL, "Grace", START)
        records.pairs.label("bolt", image_id(number), Label.NORMAL, "Bob", START + HOUR, "again")
    records.pairs.label("bolt", image_id(0), Label.ANOMALOUS, "Grace", START + 2 * HOUR, "a scratch")
    seal_pairs(records.chain, START + DAY)
    records.chain.seal()


@pytest.fixture(scope="module")
def params_of_project() -> Params:
    from fixtures.learning import ROOT
    from shadowline.core.params import load_params

    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, params_of_project: Params) -> Iterator[Records]:
    """A SQLite file in the hands of somebody who may drop what refuses him."""
    folder = tmp_path_factory.mktemp("plant")
    records = stores_on(open_database(f"sqlite:///{folder}/records.db"))
    history(records, params_of_project)
    with records.chain.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX feedback_that_counts")
    yield records
    records.chain.engine.dispose()


def look(engine: Engine) -> dict[str, TableReport]:
    reports = (*compare_tables(engine), compare_pairs(engine, Progress()).table)
    return {report.table: report for report in reports}


def differences(engine: Engine) -> list[Difference]:
    return [difference for report in look(engine).values() for difference in report.differences]


def rows_of(engine: Engine, table: str) -> list[dict[str, Any]]:
    columns = Base.metadata.tables[table]
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(columns).order_by(*columns.primary_key)).mappings()]


@contextmanager
def tampered(engine: Engine, table: str, rows: list[dict[str, Any]]) -> Iterator[None]:
    """The table holds these rows, and afterwards what it held."""
    before, columns = rows_of(engine, table), Base.metadata.tables[table]

    def write(wanted: list[dict[str, Any]]) -> None:
        with engine.begin() as connection:
            connection.execute(delete(columns))
            if wanted:
                connection.execute(insert(columns), wanted)

    write(rows)
    try:
        yield
    finally:
        write(before)


def other(value: Any, column: Any) -> Any:
    """Another value that the column takes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, datetime):
        return value + HOUR
    if isinstance(value, int | float):
        return value + 1000
    if isinstance(value, list):
        return [*value, "gear"]
    if isinstance(value, str):
        return f"{value[:-1]}#"
    values = ((UtcDateTime, START), (Boolean, True), (Integer, 1), (Float, 0.5))
    return next((another for kind, another in values if isinstance(column.type, kind)), "x")


def edits(table: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Column, and the rows with another value in it: of the first, a middle and the last row."""
    for place in sorted({0, len(rows) // 2, len(rows) - 1}):
        for column in Base.metadata.tables[table].columns:
            for name, value in changed(column, rows[place][column.name]):
                yield name, [*rows[:place], {**rows[place], column.name: value}, *rows[place + 1 :]]


def changed(column: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """A JSON object is changed field by field."""
    if isinstance(value, dict):
        for name in value:
            field = 0.5 if isinstance(value[name], float) else 7 if isinstance(value[name], int) else f"{value[name]}#"
            yield column.name, {**value, name: field}
        yield column.name, {**value, "more": 1}
    else:
        yield column.name, other(value, column)


def names(found: list[Difference], table: str, column: str) -> bool:
    """Whether a difference is in this table and column; pairs are named by class and hour."""
    if table == "pairs":
        return any(
            difference.table == table and "'bolt' in hour '2026-01-05T" in difference.key for difference in found
        )
    return any(difference.table == table and difference.column.partition(".")[0] == column for difference in found)


def try_all(engine: Engine, table: str) -> tuple[int, list[str]]:
    """How many changes of the table were tried, and those that were not found."""
    rows, tried, missed = rows_of(engine, table), 0, []
    key = next(iter(Base.metadata.tables[table].primary_key)).name
    key = "revision" if table == "rollout_actions" else key
    for column, edited in edits(table, rows):
        if (table, column) not in OPERATIONAL:
            tried += 1
            with tampered(engine, table, edited):
                if not names(differences(engine), table, column):
                    missed.append(f"{column} edited")
    for place in sorted({0, len(rows) // 2, len(rows) - 1}):
        tried += 1
        with tampered(engine, table, rows[:place] + rows[place + 1 :]):
            if not names(differences(engine), table, key):
                missed.append(f"row {place} deleted")
    tried += 1
    with tampered(engine, table, [*rows, inserted(table, rows)]):
        if not names(differences(engine), table, key):
            missed.append("a row inserted")
    print(f"{table}: tried {tried}, found {tried - len(missed)}")
    return tried, missed


def inserted(table: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row like the first one; of pairs, among those that are sealed."""
    own: Mapping[str, Any] = {
        "rollout_classes": {"class_name": "screw"},
        "rollout_events": {"revision": 900},
        "rollout_approvals": {"id": 900, "target": "live"},
        "rollout_refusals": {"id": 900, "target": "live"},
        "models": {"fingerprint": "evil"},
        "champions": {"class_name": "screw"},
        "pairs": {"id": 0, "key": "k"},
        "feedback": {"id": 900, "by": "Eve", "superseded": False},
    }.get(table, {"id": 900})
    return {**rows[0], **own}


def test_what_was_made_by_the_stores_is_as_signed(plant: Records) -> None:
    found = look(plant.chain.engine)
    assert set(found) == set(HELD)
    assert [difference for report in found.values() for difference in report.differences] == []
    assert all(report.num_rows and not report.num_older for report in found.values())
    assert {name: report.num_pending for name, report in found.items() if report.num_pending} == {}


@pytest.mark.parametrize("table", HELD)
def test_whatever_is_changed_in_a_table_is_found_and_named(plant: Records, table: str) -> None:
    tried, missed = try_all(plant.chain.engine, table)
    assert tried and missed == []


def test_every_table_is_held_to_the_chain_or_part_of_it() -> None:
    assert set(Base.metadata.tables) == {*HELD, *THE_CHAIN}


def test_a_leaf_covers_every_column_of_a_pair() -> None:
    """But the signature of a frame: what it was for, the frame group, is covered."""
    columns = {column.name for column in PairRow.__table__.columns} - {"frame_signature"}
    assert set(LEAF_COLUMNS[max(LEAF_COLUMNS)]) == columns


def test_it_is_found_on_postgresql_too(postgres: Postgres, params_of_project: Params) -> None:
    url = postgres.create_database()
    records = stores_on(open_database(url))
    history(records, params_of_project)
    engine = records.chain.engine
    assert differences(engine) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX feedback_that_counts")
    for table in ("rollout_orders", "models"):
        assert try_all(engine, table)[1] == []
    for statement, table, column in (
        ("UPDATE pairs SET legacy_score = legacy_score + 1e-9 WHERE id = 7", "pairs", "batch"),
        ("DELETE FROM pairs WHERE id = 3", "pairs", "batch"),
        ("UPDATE feedback SET superseded = NOT superseded WHERE id = 1", "feedback", "superseded"),
        ("UPDATE rollout_classes SET state = jsonb_set(state::jsonb, '{share}', '1')", "rollout_classes", "state"),
        ("UPDATE rollout_approvals SET \"by\" = 'Eve'", "rollout_approvals", "by"),
    ):
        before = rows_of(engine, table)
        with tampered(engine, table, before):
            with engine.begin() as connection:
                connection.exec_driver_sql(statement)
            assert names(differences(engine), table, column), statement
    engine.dispose()
    postgres.drop_database(url)


def test_what_is_named_says_what_is_signed_and_what_is_there(plant: Records) -> None:
    engine = plant.chain.engine
    rows = rows_of(engine, "rollout_classes")
    rows[0] = {**rows[0], "state": {**rows[0]["state"], "share": 1.0}}
    with tampered(engine, "rollout_classes", rows):
        (found,) = differences(engine)
    assert (found.table, found.column, found.key, found.signed, found.found) == (
        "rollout_classes",
        "state.share",
        "bolt",
        "0.0",
        "1.0",
    )
    assert f"signed by entry {found.entry} is 0.0, found is 1.0" in str(found)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("rollout_classes", "state", "no JSON"),
        ("rollout_events", "after", "[1]"),
        ("rollout_events", "at", "yesterday"),
        ("rollout_orders", "classes", "{"),
        ("models", "location", b"\xff\xfe"),
        ("feedback", "superseded", "maybe"),
        ("pairs", "captured_at", ""),
        ("pairs", "candidate_score", b"\x00"),
        ("pairs", "class_name", b"\xff"),
    ],
)
def test_what_is_no_value_of_its_column_is_a_difference_and_no_crash(
    plant: Records, table: str, column: str, value: Any
) -> None:
    engine = plant.chain.engine
    with tampered(engine, table, rows_of(engine, table)):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (value,))
        found = differences(engine)
        assert any(difference.table == table for difference in found)
        assert all(str(difference).isprintable() for difference in found)


# --- pending, older, contradicted ----------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = stores_on(open_database(f"sqlite:///{tmp_path}/records.db"))
    yield records
    records.chain.engine.dispose()


@pytest.fixture
def unsealed(records: Records, monkeypatch: pytest.MonkeyPatch) -> Records:
    """Where no key is at hand, so that everything stays noted."""
    monkeypatch.setattr(records.chain, "keys", _Nothing())
    return records


class _Nothing:
    """A key folder that cannot be read."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("the keys are away")


def test_what_is_noted_and_not_sealed_is_pending(unsealed: Records, params: Params) -> None:
    with pytest.raises(ValueError, match="the keys are away"):
        history(unsealed, params)
    found = look(unsealed.chain.engine)
    assert [difference for report in found.values() for difference in report.differences] == []
    assert all(report.num_pending for report in found.values())


def test_older_entries_are_compared_by_what_they_say_and_counted(
    unsealed: Records, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were before rows were numbered in them, and before a label that changes nothing was noted."""
    with pytest.raises(ValueError, match="the keys are away"):
        history(unsealed, params)
    engine = unsealed.chain.engine
    _make_older(engine)
    found = look(engine)
    assert [
        difference for report in found.values() for difference in report.differences if report.table != "models"
    ] == []
    older = {name: report.num_older for name, report in found.items() if report.num_older}
    assert older == {
        "rollout_classes": 3, "rollout_events": 7, "rollout_actions": 4, "rollout_approvals": 2,
        "rollout_refusals": 2, "rollout_orders": 2, "rollout_evidence": 2, "feedback": 7,
    }  # fmt: skip
    assert {difference.signed for difference in found["models"].differences} == {"no entry"}
    for table, column, value in (("rollout_events", "after", "share"), ("rollout_classes", "state", "candidate")):
        rows = rows_of(engine, table)
        rows[-1] = {**rows[-1], column: {**rows[-1][column], value: "x"}}
        with tampered(engine, table, rows):
            assert f"{column}.{value}" in {difference.column for difference in differences(engine)}
    for table in ("rollout_approvals", "rollout_orders", "rollout_evidence"):
        rows = rows_of(engine, table)
        with tampered(engine, table, [{**rows[0], "by": "Eve"}, *rows[1:]]):
            assert {
                (difference.signed, difference.found)
                for difference in look(engine)[table].differences
                if difference.signed == "no entry"
            }
    rows = rows_of(engine, "feedback")
    with tampered(engine, "feedback", [{**rows[0], "label": "anomalous"}, *rows[1:]]):
        assert names(differences(engine), "feedback", "id")


def _make_older(engine: Engine) -> None:
    notes = Base.metadata.tables["audit_notes"]
    with engine.begin() as connection:
        for note in connection.execute(select(notes)).mappings().all():
            body = json.loads(note["body"])
            gone = (
                note["kind"] == EntryKind.LOCATION
                or body.get("from", "") == body.get("to")
                or "obeyed_at_revision" in body
            )
            if gone:
                connection.execute(delete(notes).where(notes.c.id == note["id"]))
                continue
            for name in ("id", "classes", "after_sha256", "actions"):
                body.pop(name, None)
            connection.execute(update(notes).where(notes.c.id == note["id"]).values(body=json.dumps(body)))


def test_a_second_statement_on_the_same_row_does_not_replace_the_first(plant: Records) -> None:
    """Who can write notes lets the next seal sign them: what was signed before still counts."""
    engine = plant.chain.engine
    rows = rows_of(engine, "rollout_approvals")
    forged = Record(EntryKind.APPROVAL, "bolt", {"id": 1, "target": "live"}, "Ada", START).noted
    with tampered(engine, "rollout_approvals", [{**rows[0], "target": "live"}, *rows[1:]]):
        with engine.begin() as connection:
            connection.execute(insert(AuditNoteRow), [vars(forged)])
        found = look(engine)["rollout_approvals"].differences
        with engine.begin() as connection:
            connection.execute(delete(AuditNoteRow))
    assert {difference.column for difference in found} == {"target", "id"}
    assert any("a note that is not sealed yet" in difference.found for difference in found)


@pytest.mark.parametrize("body", ["", "{", "[1]", "{}", '{"id": [1], "revision": {}, "fingerprint": []}'])
def test_a_note_that_says_nothing_is_a_difference_and_no_crash(plant: Records, body: str) -> None:
    engine = plant.chain.engine
    kinds = [
        EntryKind.PHASE,
        EntryKind.APPROVAL,
        EntryKind.ORDER,
        EntryKind.EVIDENCE,
        EntryKind.FEEDBACK,
        EntryKind.LOCATION,
        EntryKind.PAIRS,
    ]
    with engine.begin() as connection:
        rows = [{**vars(Record(kind, "bolt", {}, "Eve", START).noted), "body": body} for kind in kinds]
        connection.execute(insert(AuditNoteRow), rows)
    try:
        assert {difference.table for difference in differences(engine)} >= {
            "pairs",
            "rollout_approvals",
            "rollout_orders",
        }
    finally:
        with engine.begin() as connection:
            connection.execute(delete(AuditNoteRow))


def test_a_location_that_is_noted_again_unchanged_is_signed_once(records: Records) -> None:
    place = ModelLocation("f1", "bolt", "candidate", "models:/inspector/1", "1")
    for location in ("models:/inspector/1", "models:/inspector/1", "models:/inspector/2"):
        records.locations.upsert_model([replace(place, location=location)], START)
    entries = [entry.facts["location"] for entry in records.chain.entries(kinds=[EntryKind.LOCATION])]
    assert entries == ["models:/inspector/1", "models:/inspector/2"]
    assert differences(records.chain.engine) == []


# --- pairs, hour by hour --------------------------------------------------------------------------------------------


class TestSealingPairs:
    def test_an_hour_is_sealed_once_it_has_settled(self, records: Records) -> None:
        records.pairs.record([made_pair(number) for number in range(70)])  # from six to ten past seven
        assert seal_pairs(records.chain, START + timedelta(minutes=74)) == 0
        assert seal_pairs(records.chain, START + timedelta(minutes=75)) == 60
        assert seal_pairs(records.chain, START + timedelta(minutes=76)) == 0
        (entry,) = records.chain.entries(kinds=[EntryKind.PAIRS])
        assert (entry.subject, entry.facts["hour"], entry.facts["count"]) == ("bolt", "2026-01-05T06", 60)
        found = compare_pairs(records.chain.engine, Progress())
        assert (found.table.num_pending, found.table.differences, found.num_late) == (10, (), 0)

    def test_what_is_recorded_late_gets_a_batch_of_its_own(self, records: Records) -> None:
        records.pairs.record([made_pair(number) for number in range(60)])
        assert seal_pairs(records.chain, START + 2 * HOUR) == 60
        records.pairs.record([made_pair(900, captured_at=START + timedelta(seconds=n)) for n in range(3)])
        assert compare_pairs(records.chain.engine, Progress()).table.num_pending == 3
        assert seal_pairs(records.chain, START + 3 * HOUR) == 3
        found = compare_pairs(records.chain.engine, Progress())
        assert (found.num_batches, found.num_late, found.table.differences) == (2, 3, ())

    def test_what_appears_below_what_is_sealed_is_named(self, records: Records) -> None:
        """A row with the id of one that was removed, in an hour that has no batch."""
        records.pairs.record([made_pair(number) for number in range(5)])
        seal_pairs(records.chain, START + 2 * HOUR)
        with records.chain.engine.begin() as connection:
            row = {**made_pair(900, class_name="nut").to_row(START), "id": 0, "frame_group": "f", "is_first": True}
            connection.execute(insert(PairRow), [row])
        (found,) = compare_pairs(records.chain.engine, Progress()).table.differences
        assert "'nut' in hour '2026-01-05T" in found.key and found.signed == "no entry"

    def test_two_ticks_at_once_seal_a_batch_once(self, engine: Engine) -> None:
        records = stores_on(engine)
        records.pairs.record([made_pair(number) for number in range(200)])
        from fixtures.records import together

        url = engine.url.render_as_string(hide_password=False)
        done = together(_seal, [(url,), (url,), (url,)])
        assert max(done) == 200
        found = compare_pairs(engine, Progress())
        assert (found.num_batches, found.num_late, found.table.differences) == (4, 0, ())

    @pytest.mark.parametrize("body", ["{", "{}", '{"next_id": 9}', "everything is sealed"])
    def test_what_somebody_wrote_among_the_notes_stops_no_sealing(self, records: Records, body: str) -> None:
        records.pairs.record([made_pair(number) for number in range(60)])
        if "everything" in body:
            text = {"hour": "2026-01-05T06", "count": 0, "root": "", "last_id": 0, "next_id": 10**12, "leaf": 1}
            body = json.dumps(text)
        with records.chain.engine.begin() as connection:
            note = {**vars(Record(EntryKind.PAIRS, "bolt", {}, "Eve", START).noted), "body": body}
            connection.execute(insert(AuditNoteRow), [note])
        records.chain.seal()
        assert seal_pairs(records.chain, START + DAY) == 60
        assert compare_pairs(records.chain.engine, Progress()).table.differences, "it is named all the same"

    def test_a_backlog_is_sealed_tick_by_tick(self, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shadowline.records.audit_log.pair_seals._AT_ONCE", 50)
        records.pairs.record([made_pair(number) for number in range(120)])
        assert [seal_pairs(records.chain, START + DAY) for _ in range(4)] == [50, 50, 20, 0]
        assert compare_pairs(records.chain.engine, Progress()).table.differences == ()


def _seal(url: str) -> int:
    from fixtures.records import wait_for_the_others

    records = stores_on(open_database(url))
    wait_for_the_others()
    return seal_pairs(records.chain, START + DAY)
