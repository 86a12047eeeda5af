"""The audit chain on real databases, SQLite and PostgreSQL: nothing is lost or doubled, and tampering is found."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr
from sqlalchemy import Engine, delete, insert, select, text
from sqlalchemy.exc import DBAPIError

from fixtures.kills import Acknowledged, kill_after, opened
from fixtures.learning import ROOT
from fixtures.records import (
    CANDIDATE,
    LEGACY,
    START,
    first_events,
    image_id,
    made_pair,
    stores_on,
    tick,
    together,
)
from fixtures.s3 import s3_server
from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.records.audit_log.chain import Chain, ChainAnchor, TruncatedChainError
from shadowline.records.audit_log.chain_heads import AwayError, HeadPlace, open_heads
from shadowline.records.audit_log.entry import FIELDS, Entry, EntryKind, PendingEntry, Record, next_entry
from shadowline.records.audit_log.keys import ChainHead, KeyFolder, SigningKey
from shadowline.records.database import open_database, reading
from shadowline.records.model_locations import KnownModels
from shadowline.records.rollout_store import ConcurrentUpdateError
from shadowline.records.stores import Records, open_records, records_on
from shadowline.records.tables import AuditEntryRow, AuditNoteRow
from shadowline.rollout.observation import Approval, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import Phase

if TYPE_CHECKING:
    from fixtures.postgres import Postgres
    from fixtures.tiny_project import Project
    from tasks.integrations.model_version import ModelVersion

Command = Callable[..., tuple[int, str, str]]
Rows = list[dict[str, Any]]
SECRET = "pass-phrase-of-ada"


@pytest.fixture
def records(engine: Engine) -> Records:
    return stores_on(engine)


@pytest.fixture
def chain(records: Records) -> Chain:
    return records.chain


def record(number: int = 0) -> Record:
    return Record(EntryKind.BACKUP, f"backup-{number}", {"files": number, "where": "ü\n[b]"}, "Ada", START)


def check(chain: Chain) -> list[Entry]:
    """Every entry of a sound chain."""
    found, entries = chain.verify(Progress()), list(chain.entries())
    assert (found.sound, found.num_entries) == (True, len(entries)), found
    return entries


def said(chain: Chain) -> list[tuple[str, str]]:
    return [(entry.kind, entry.subject) for entry in check(chain) if entry.kind != EntryKind.KEY]


class TestWhatIsAppended:
    def test_the_first_makes_a_key_and_everything_comes_back_as_it_was(self, chain: Chain) -> None:
        sealed = chain.append(record(1), record(2))
        assert sealed == tuple(check(chain))
        assert [entry.kind for entry in sealed] == ["key", "backup", "backup"]
        assert sealed[1].facts == record(1).body and sealed[1].at.startswith("2026-01-05T06:00:00.000000+00:00")
        assert (chain.num_noted(), chain.pending_since()) == (0, None)

    def test_without_anything_there_is_nothing(self, chain: Chain) -> None:
        assert (chain.append(), chain.seal(), check(chain)) == ((), (), [])
        assert chain.keys.public() == {}

    def test_a_note_lives_and_dies_with_its_transaction(self, chain: Chain) -> None:
        with pytest.raises(RuntimeError), chain.engine.begin() as connection:
            chain.note(connection, [record()])
            raise RuntimeError("what it is about did not happen")
        with chain.engine.begin() as connection:
            chain.note(connection, [record(7)])
        assert (chain.num_noted(), chain.pending_since()) == (1, record().noted.at)
        assert [entry.subject for entry in chain.seal()][1:] == ["backup-7"]

    def test_only_rotation_introduces_a_key(self, chain: Chain) -> None:
        with pytest.raises(ValueError, match="noted by nobody else"):
            chain.append(Record(EntryKind.KEY, "key-9", {"public_key": "00" * 32}, "Eve", START))
        assert check(chain) == []

    def test_a_key_that_somebody_wrote_among_the_notes_is_never_signed(self, chain: Chain) -> None:
        chain.append(record(1))
        own = {"kind": "key", "subject": "evil", "body": json.dumps({"public_key": "00" * 32, "replaces": "key-1"})}
        with chain.engine.begin() as connection:
            connection.execute(insert(AuditNoteRow), [{**vars(record(2).noted), **own}])
        for seal in (chain.seal, lambda: chain.append(record(3))):
            with pytest.raises(ValueError, match=r"note \d+ does: find out who wrote it"):
                seal()
        assert [entry.subject for entry in check(chain)] == ["key-1", "backup-1"]

    def test_a_new_key_signs_what_follows_and_the_last_is_found_sealed_or_not(self, chain: Chain) -> None:
        chain.rotate("plant-1", "Ada")
        chain.append(record(1))
        chain.rotate("plant-2", "Grace")
        with chain.engine.begin() as connection:
            chain.note(connection, [record(2)])
        latest = chain.latest(EntryKind.BACKUP)
        assert latest is not None and latest.subject == "backup-2"
        chain.seal()
        assert [entry.key for entry in check(chain)] == ["plant-1", "plant-1", "plant-1", "plant-2"]
        assert chain.latest(EntryKind.BACKUP, "backup-1") == record(1).noted
        assert chain.latest(EntryKind.ORDER) is None
        for name in ("plant-1", "plant-2"):
            with pytest.raises(ValueError, match="choose another name"):
                chain.rotate(name, "Ada")

    def test_entries_are_chosen_by_time_kind_and_subject(self, chain: Chain) -> None:
        moments = [replace(record(number), at=START + timedelta(days=number)) for number in range(4)]
        chain.append(*moments, Record(EntryKind.ORDER, "bolt", {}, "Ada", START))
        between = chain.entries(
            since=START + timedelta(days=1), until=START + timedelta(days=3), kinds=[EntryKind.BACKUP]
        )
        assert [entry.subject for entry in between] == ["backup-1", "backup-2"]
        assert [entry.kind for entry in chain.entries(subject="bolt")] == ["order"]


class TestManyAtOnce:
    def test_eight_processes_append_without_a_gap_and_each_record_once(self, database_url: str) -> None:
        open_database(database_url).dispose()
        together(_append_many, [(database_url, number) for number in range(8)])
        with opened(database_url) as engine:
            found = said(stores_on(engine).chain)
            assert Counter(found) == Counter(("backup", f"backup-{number}") for number in range(8 * 15))
            assert list(stores_on(engine).chain.keys.public()) == ["key-1"]

    @pytest.mark.parametrize("seed", range(2))
    def test_killed_between_note_and_seal_it_loses_nothing_and_doubles_nothing(
        self, database_url: str, tmp_path: Path, seed: int
    ) -> None:
        """Eight kills at random moments; the first while the schema and the key are made."""
        done, dice = Acknowledged(tmp_path / "done"), random.Random(seed)
        for more in (0, *(dice.randrange(1, 12) for _ in range(7))):
            kill_after(done, more, dice.uniform(0, 0.02 if more else 0.2), _note_and_seal, database_url)
        with opened(database_url) as engine:
            chain = stores_on(engine).chain
            chain.seal()
            found = Counter(subject for _, subject in said(chain))
        assert max(found.values()) == 1
        assert {f"backup-{number}" for number in done.all()} <= set(found)
        assert len(found) <= len(done.all()) + 8, "one that was noted, and not acknowledged, for each kill"


def _append_many(url: str, number: int) -> None:
    chain = stores_on(open_database(url)).chain
    for turn in range(15):
        chain.append(record(number * 15 + turn))


def _note_and_seal(url: str, done: Acknowledged) -> None:
    """Acknowledged is what was noted, whether or not it came to be sealed."""
    chain = stores_on(open_database(url)).chain
    number = (
        max((int(entry.subject.partition("-")[2]) for entry in chain.entries(kinds=[EntryKind.BACKUP])), default=-1) + 1
    )
    number = max([number, *(noted + 1 for noted in done.all())]) + 1  # past one that was noted and not acknowledged
    while True:
        with chain.engine.begin() as connection:
            chain.note(connection, [record(number)])
        done.add(number)
        chain.seal()
        number += 1


# --- what an attacker can do who owns the database ------------------------------------------------------------------


class TestTamperingIsFound:
    """Triggers dropped, every row at the attacker's command; but the keys and what they remember are elsewhere."""

    LENGTH = 12  # entries; the seventh introduces another key

    @pytest.fixture
    def rows(self, chain: Chain) -> Rows:
        chain.append(*(record(number) for number in range(5)))
        chain.rotate("key-2", "Ada")
        chain.append(*(record(number) for number in range(5, 10)))
        drop_triggers(chain.engine)
        rows = [entry.to_dict() for entry in check(chain)]
        assert len(rows) == self.LENGTH
        return rows

    def test_every_column_of_the_first_a_middle_and_the_last_entry(self, chain: Chain, rows: Rows) -> None:
        tried = [(column, place) for column in FIELDS for place in (0, 6, 11)]
        for column, place in tried:
            edited = [dict(row) for row in rows]
            edited[place][column] = other_value(rows[place][column])
            assert first_bad(chain, edited) == place + 1, (column, place)
        report(chain, "a column edited", len(tried))

    def test_removed_swapped_doubled_inserted_or_cut(self, chain: Chain, rows: Rows) -> None:
        kinds: dict[str, list[tuple[Rows, int]]] = {
            "an entry removed": [(rows[:n] + rows[n + 1 :], n + 1) for n in range(self.LENGTH)],
            "removed, and numbers closed up": [(renumbered(rows[:n] + rows[n + 1 :]), n + 1) for n in range(12)],
            "two swapped": [(swapped(rows, n, m), n + 1) for n, m in ((0, 1), (0, 11), (5, 6), (4, 9), (10, 11))],
            "one inserted": [(renumbered([*rows[:n], forged(rows, n), *rows[n:]]), n + 1) for n in (0, 5, 7, 12)],
            "one doubled": [(renumbered([*rows[:n], rows[n], *rows[n:]]), n + 2) for n in range(self.LENGTH)],
            "the tail cut": [(rows[:n], n + 1) for n in range(self.LENGTH)],
        }
        for what, attacks in kinds.items():
            for number, (attacked, bad) in enumerate(attacks):
                assert first_bad(chain, attacked) == bad, (what, number)
            report(chain, what, len(attacks))

    def test_signed_anew_with_another_key_or_with_a_former_one(self, chain: Chain, rows: Rows) -> None:
        stranger, leaked = Ed25519PrivateKey.generate(), chain.keys.load("key-1").private
        attacks = [
            *((signed_anew(rows, n, stranger), n + 1) for n in range(self.LENGTH)),
            (signed_anew(rows, 0, stranger, {"key-1": "key-8", "key-2": "key-9"}), 1),
            *((signed_anew(rows, n, leaked), n + 1) for n in (7, 9, 11)),
            (signed_anew(without_rotation(rows), 3, leaked, {"key-2": "key-1"}), 12),  # which only `head.json` can tell
        ]
        for number, (attacked, bad) in enumerate(attacks):
            assert first_bad(chain, attacked) == bad, number
        report(chain, "signed anew", len(attacks))

    def test_what_another_witness_knows_and_what_nobody_trusts(self, chain: Chain, rows: Rows) -> None:
        last, keys = check(chain)[-1], chain.keys.public()
        right, wrong = ChainAnchor(last.number, last.hash, "version 3"), ChainAnchor(4, last.hash, "version 2")
        assert chain.verify(Progress(), witnesses=[right]).sound
        found = chain.verify(Progress(), witnesses=[right, wrong])
        assert (found.first_bad, "as version 2 knows" in found.reason) == (4, True)
        assert chain.verify(Progress(), {"key-1": keys["key-1"]}).sound
        assert chain.verify(Progress(), {**keys, "key-3": keys["key-1"]}).reason.startswith("key 'key-3' is trusted")
        assert chain.verify(Progress(), {"key-1": keys["key-2"]}).first_bad == 1
        assert chain.verify(Progress(), {"key-2": keys["key-2"]}).first_bad == 1

    def test_to_a_chain_that_was_cut_nothing_is_added(self, chain: Chain, rows: Rows) -> None:
        for attacked in (rows[:-1], []):
            write(chain.engine, attacked)
            with pytest.raises(TruncatedChainError, match=r"entry 12 was written .* restore it from a backup"):
                chain.append(record(99))
            assert stored(chain.engine) == attacked
        write(chain.engine, rows)
        assert chain.num_noted() == 0, "noted and sealed, or neither"
        write(chain.engine, rows[:-1])
        assert chain.append_if_possible(record(98)) == ()
        write(chain.engine, rows)
        assert [entry.subject for entry in chain.append(record(99))] == ["backup-98", "backup-99"], (
            "what waited comes first"
        )


def first_bad(chain: Chain, rows: Rows) -> int | None:
    write(chain.engine, rows)
    return chain.verify(Progress()).first_bad


def report(chain: Chain, what: str, number: int) -> None:
    print(f"{chain.engine.dialect.name:12} {what:32} tried {number:3}, found {number:3}")


def write(engine: Engine, rows: Rows) -> None:
    with engine.begin() as connection:
        connection.execute(delete(AuditEntryRow))
        if rows:
            connection.execute(insert(AuditEntryRow), rows)


def stored(engine: Engine) -> Rows:
    with reading(engine) as connection:
        return [dict(row._mapping) for row in connection.execute(select(*AuditEntryRow.__table__.columns))]


def drop_triggers(engine: Engine) -> None:
    with engine.begin() as connection:
        for name in TRIGGERS[engine.dialect.name]:
            on = " ON audit_entries" if engine.dialect.name == "postgresql" else ""
            connection.execute(text(f"DROP TRIGGER {name}{on}"))


TRIGGERS = {
    "sqlite": ("audit_entries_no_update", "audit_entries_no_delete", "audit_entries_at_the_end"),
    "postgresql": ("audit_entries_append_only", "audit_entries_at_the_end"),
}


def other_value(value: Any) -> Any:
    """As little different as can be; of the same length."""
    if isinstance(value, int):
        return value + 1_000_000
    middle = len(value) // 2
    return value[:middle] + ("1" if value[middle] == "0" else "0") + value[middle + 1 :]


def renumbered(rows: Rows) -> Rows:
    return [{**row, "number": number} for number, row in enumerate(rows, start=1)]


def swapped(rows: Rows, first: int, second: int) -> Rows:
    changed = list(rows)
    changed[first], changed[second] = changed[second], changed[first]
    return renumbered(changed)


def forged(rows: Rows, place: int) -> dict[str, Any]:
    """An entry with a right hash and link, whose signature is a stranger's."""
    before = Entry(**rows[place - 1]) if place else None
    signer = SigningKey(rows[min(place, len(rows) - 1)]["key"], Ed25519PrivateKey.generate())
    return next_entry(record(66).noted, before, signer).to_dict()


def without_rotation(rows: Rows) -> Rows:
    return [row for row in rows if row["subject"] != "key-2"]


def signed_anew(rows: Rows, start: int, private: Ed25519PrivateKey, names: dict[str, str] | None = None) -> Rows:
    """Everything from `start` on by one private key: hashes, links and introductions are right."""
    made = [Entry(**row) for row in rows[:start]]
    for row in rows[start:]:
        signer = SigningKey((names or {}).get(row["key"], row["key"]), private)
        subject, body = row["subject"], row["body"]
        if row["kind"] == EntryKind.KEY:
            subject = (names or {}).get(subject, subject)
            body = json.dumps({**json.loads(body), "public_key": signer.public})
        note = PendingEntry(row["at"], row["by"], row["kind"], subject, body)
        made.append(next_entry(note, made[-1] if made else None, signer))
    return [entry.to_dict() for entry in made]


@pytest.mark.parametrize("value", ["x'ff'", "CAST(x'ff' AS TEXT)", "CAST(x'00' AS TEXT)", "7", "1.5", "''"])
@pytest.mark.parametrize("column", [name for name in FIELDS if name != "number"])
def test_whatever_sqlite_keeps_in_a_column_is_a_fault_and_no_crash(tmp_path: Path, column: str, value: str) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'records.db'}")
    chain = stores_on(engine).chain
    chain.append(record(1), record(2))
    drop_triggers(engine)
    with engine.begin() as connection:
        connection.execute(text(f'UPDATE audit_entries SET "{column}" = {value} WHERE number = 2'))
    assert chain.verify(Progress()).first_bad == 2


# --- what the database itself refuses -------------------------------------------------------------------------------


class TestTheDatabaseRefuses:
    COMMON = (
        "UPDATE audit_entries SET body = '{}' WHERE number = 2",
        "UPDATE audit_entries SET number = 9 WHERE number = 3",
        "DELETE FROM audit_entries WHERE number = 3",
        "DELETE FROM audit_entries",
        "INSERT INTO audit_entries SELECT * FROM audit_entries WHERE number = 3",
        f"INSERT INTO audit_entries SELECT 9, {', '.join(FIELDS[1:])} FROM audit_entries WHERE number = 3".replace(
            " by,", ' "by",'
        ),
        f"INSERT INTO audit_entries SELECT 0, {', '.join(FIELDS[1:])} FROM audit_entries WHERE number = 3".replace(
            " by,", ' "by",'
        ),
        "INSERT INTO audit_entries SELECT * FROM audit_entries WHERE number = 3 "
        "ON CONFLICT (number) DO UPDATE SET body = '{}'",
    )
    OWN: ClassVar = {
        "sqlite": (
            "INSERT OR REPLACE INTO audit_entries SELECT * FROM audit_entries WHERE number = 2",
            "REPLACE INTO audit_entries SELECT * FROM audit_entries WHERE number = 3",
            "UPDATE OR REPLACE audit_entries SET number = 1 WHERE number = 3",
            "UPDATE OR IGNORE audit_entries SET body = '{}'",
        ),
        "postgresql": ("TRUNCATE audit_entries", "TRUNCATE audit_entries, audit_notes CASCADE"),
    }

    def test_to_change_delete_replace_or_misplace_an_entry(self, chain: Chain) -> None:
        chain.append(record(1), record(2))
        before = stored(chain.engine)
        for statement in (*self.COMMON, *self.OWN[chain.engine.dialect.name]):
            with pytest.raises(DBAPIError, match="entries of the audit chain are"), chain.engine.begin() as connection:
                connection.execute(text(statement))
            assert stored(chain.engine) == before, statement
        chain.append(record(3))
        assert len(check(chain)) == 4

    def test_postgresql_refuses_the_service_what_only_an_owner_may(self, postgres: Postgres, params: Params) -> None:
        """docs/postgresql-role.sql as it is; with that role everything works but what would rewrite the chain."""
        url = postgres.create_database()
        owner = open_database(url)
        with owner.begin() as connection:
            connection.exec_driver_sql((ROOT / "docs/postgresql-role.sql").read_text(encoding="utf-8"))
        service = open_database(url.replace("shadowline:a-secret-of-tests", "shadowline_service:change-me"))
        try:
            records = stores_on(service)
            work(records, params)
            assert records.chain.num_noted() == 0
            check(records.chain)
            for statement in (
                "UPDATE audit_entries SET body = '{}'",
                "DELETE FROM audit_entries",
                "TRUNCATE audit_entries",
                "DROP TABLE audit_entries",
                "DROP TRIGGER audit_entries_append_only ON audit_entries",
                "ALTER TABLE audit_entries DISABLE TRIGGER ALL",
                "ALTER TABLE audit_entries DISABLE TRIGGER audit_entries_at_the_end",
                "CREATE OR REPLACE FUNCTION audit_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN END $$",
                "SET session_replication_role = replica",
                "UPDATE audit_notes SET body = '{}'",
            ):
                refused = r"permission denied|must be owner|denied"
                with pytest.raises(DBAPIError, match=refused), service.begin() as connection:
                    connection.execute(text(statement))
        finally:
            service.dispose()
            with owner.begin() as connection:
                connection.exec_driver_sql("DROP OWNED BY shadowline_service; DROP ROLE shadowline_service")
            owner.dispose()
            postgres.drop_database(url)


# --- what the stores put on record ----------------------------------------------------------------------------------

GOOD = Approval("bolt", Phase.CANARY, LEGACY["bolt"], CANDIDATE["bolt"], "Ada")


def work(records: Records, params: Params) -> None:
    """Every store does what it puts on record, once."""
    store = records.rollout
    store.begin(first_events())
    store.commit(tick(store, START + timedelta(days=1), params))
    records.approvals.order(Order(OrderKind.HOLD, ("bolt", "nut"), "Ada", "cleaning"), START)
    records.approvals.approve(GOOD, START)
    records.approvals.record_evidence("bolt", LEGACY["bolt"], ChecklistItem.TRAINED, "Ada", START, "https://wiki/1")
    records.pairs.record([made_pair(1)])
    records.pairs.label("bolt", image_id(1), Label.NORMAL, "Grace", START)
    records.chain.seal()


class TestWhatTheStoresPutOnRecord:
    def test_everything_with_who_did_it(self, records: Records, params: Params) -> None:
        work(records, params)
        entries = [entry for entry in check(records.chain) if entry.kind != EntryKind.KEY]
        assert [(entry.kind, entry.subject, entry.by) for entry in entries] == [
            *(("phase", name, "Ada") for name in ("bolt", "nut", "gear")),
            *(("phase", name, "engine") for name in ("bolt", "nut")),
            *(("order", name, "Ada") for name in ("bolt", "nut")),
            ("approval", "bolt", "Ada"),
            ("evidence", "bolt", "Ada"),
            ("feedback", "bolt", "Grace"),
        ]
        assert (entries[3].facts["from"], entries[3].facts["to"], entries[3].facts["revision"]) == (
            "legacy",
            "shadow",
            4,
        )
        assert entries[5].facts == {"id": 1, "order": "hold", "why": "cleaning", "classes": ["bolt", "nut"]}
        assert entries[7].facts == {"id": 1, "target": "canary", "candidate": "v1-bolt", "legacy": "legacy-bolt"}
        assert entries[8].facts["link"] == "https://wiki/1"
        assert entries[9].facts == {"id": 1, "image": image_id(1), "from": None, "to": "normal", "note": ""}

    def test_every_word_on_an_image_also_one_that_changes_no_label(self, records: Records) -> None:
        records.pairs.record([made_pair(1), made_pair(1, class_name="nut")])
        for label in (Label.NORMAL, Label.NORMAL, Label.ANOMALOUS, Label.ANOMALOUS, Label.NORMAL):
            records.pairs.label("bolt", image_id(1), label, "Ada", START)
        records.pairs.label("nut", image_id(1), Label.NORMAL, "Ada", START)
        assert records.chain.num_noted() == 6, "noted with the label, and sealed by the next tick"
        sealed = records.chain.seal()
        assert [(entry.facts["from"], entry.facts["to"]) for entry in sealed if entry.subject == "bolt"] == [
            (None, "normal"),
            ("normal", "normal"),
            ("normal", "anomalous"),
            ("anomalous", "anomalous"),
            ("anomalous", "normal"),
        ]

    def test_nothing_where_nothing_was_written(self, records: Records, params: Params) -> None:
        store = records.rollout
        store.begin(first_events())
        records.approvals.approve(GOOD, START)
        stale = tick(store, START + timedelta(days=1), params)
        store.commit(stale)
        before = said(records.chain)
        with pytest.raises(ConcurrentUpdateError):
            store.commit(stale)
        with pytest.raises(ValueError, match="is now about"):
            records.approvals.approve(replace(GOOD, candidate="v2"), START)
        with pytest.raises(ValueError, match="no time zone"):
            records.approvals.record_evidence(
                "bolt", "x", ChecklistItem.TRAINED, "Ada", START.replace(tzinfo=None), "link"
            )
        records.approvals.approve(replace(GOOD, by="Bob"), START)
        assert said(records.chain) == before
        assert records.chain.num_noted() == 0

    def test_a_rollback_waits_for_no_key(
        self, engine: Engine, tmp_path: Path, params: Params, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The private half is away, then it opens with another passphrase only: all goes on, and is sealed later."""
        secret = SecretStr(SECRET)
        folder = KeyFolder(tmp_path / "keys", secret)
        records_on(engine, folder).rollout.begin(first_events())
        private = folder.folder / "key-1.pem"
        content = private.read_bytes()
        private.unlink()
        rollout = records_on(engine, KeyFolder(folder.folder, secret)).rollout
        rollout.commit(tick(rollout, START + timedelta(days=1), params))
        private.write_bytes(content)
        records = records_on(engine, KeyFolder(folder.folder, SecretStr("wrong")))
        records.approvals.order(Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "complaint"), START)
        order = records.approvals.next_order()
        records.rollout.commit(tick(records.rollout, START + timedelta(days=2), params, order), order)
        assert records.rollout.state().of("bolt").phase is Phase.ROLLED_BACK
        assert "is not there; restore it" in caplog.text and "check SHADOWLINE_AUDIT_PASSPHRASE" in caplog.text
        assert SECRET not in caplog.text and content.decode() not in caplog.text
        right = records_on(engine, KeyFolder(folder.folder, secret)).chain
        waiting = right.num_noted()
        assert waiting and len(right.seal()) == waiting
        check(right)


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without any records, on a wide terminal."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chain_here() -> Chain:
    from shadowline.records.stores import open_records

    return open_records().chain


class TestCommands:
    def test_verify_says_sound_or_where_not_or_that_nobody_can_tell(self, plant: Path, command: Command) -> None:
        assert command("audit", "verify")[:2] == (0, "sound: nothing is on record yet\n")
        chain_here().append(record(1), record(2))
        code, out, _ = command("audit", "verify", "--json")
        assert (code, json.loads(out)["sound"], json.loads(out)["num_entries"]) == (0, True, 3)
        public = chain_here().keys.public()["key-1"]
        assert command("audit", "verify", "--trust", f"key-1={public}", "--json")[0] == 0
        assert command("audit", "verify", "--trust", f"key-1={'0' * 64}", "--json")[0] == 1
        engine = chain_here().engine
        drop_triggers(engine)
        write(engine, stored(engine)[:2])
        code, out, _ = command("audit", "verify")
        assert code == 1 and "not sound from entry 3 on: entry 3 was written, as " in out

    @pytest.mark.parametrize("trust", ["key-1", "key-1=", "=00", "key-1=zz", "key-1=00"])
    def test_what_is_no_key_to_trust_is_unusable(self, plant: Path, command: Command, trust: str) -> None:
        code, _, err = command("audit", "verify", "--trust", trust)
        assert code == 2 and "need NAME=HEX" in err

    def test_without_a_key_to_trust_nobody_can_tell(
        self, plant: Path, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain_here().append(record(1))
        monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(plant / "elsewhere"))
        code, _, err = command("audit", "verify")
        assert code == 2 and err.count("\n") == 1 and "give --trust NAME=HEX" in err

    def test_it_says_how_many_notes_wait_and_since_when(self, plant: Path, command: Command) -> None:
        chain = chain_here()
        with chain.engine.begin() as connection:
            chain.note(connection, [record(1), record(2)])
        code, out, _ = command("audit", "verify")
        assert code == 0 and f"2 notes wait to be sealed, since {record().noted.at}" in out

    def test_keys_are_made_changed_and_listed(self, plant: Path, command: Command) -> None:
        assert command("audit", "keys", "rotate", "plant-2", "--by", "Ada")[0] == 2, "there is none to introduce it"
        code, out, _ = command("audit", "keys", "create", "plant-1", "--by", "Ada")
        assert code == 0 and "plant-1=" in out
        assert command("audit", "keys", "create", "plant-2", "--by", "Ada")[0] == 2
        assert command("audit", "keys", "rotate", "plant-1", "--by", "Ada")[0] == 2
        assert command("audit", "keys", "rotate", "plant-2", "--by", "Grace")[0] == 0
        rows = json.loads(command("audit", "keys", "list", "--json")[1])
        assert [(row["name"], row["from_entry"], row["to_entry"], row["by"]) for row in rows] == [
            ("plant-1", 1, 2, "Ada"),
            ("plant-2", 2, None, "Grace"),
        ]
        table = command("audit", "keys", "list")[1]
        assert all(row["public_key"] in table for row in rows)

    def test_the_log_shows_what_was_asked_for(self, plant: Path, command: Command) -> None:
        chain_here().append(record(1), Record(EntryKind.ORDER, "bolt", {"why": "[red]complaint[/]"}, "Ada", START))
        code, out, _ = command("audit", "log", "--class", "bolt")
        assert code == 0 and "[red]complaint[/]" in out and "backup" not in out
        lines = command("audit", "log", "--kind", "backup", "--json")[1].splitlines()
        assert [json.loads(line)["subject"] for line in lines] == ["backup-1"]
        assert command("audit", "log", "--until", "2026-01-05", "--json")[1] == ""
        assert command("audit", "log", "--kind", "nonsense")[0] == 2


# --- flows and tasks ------------------------------------------------------------------------------------------------


def bodies(kind: EntryKind, subject: str = "") -> list[dict[str, Any]]:
    return [entry.facts for entry in chain_here().entries(kinds=[kind], subject=subject)]


def test_a_retraining_leaves_its_configuration_version_thresholds_and_end(
    in_finished: Project, command: Command
) -> None:
    from tasks.integrations.mlflow_registry import client, list_versions

    entries = check(chain_here())
    kinds = ["key", "configuration", "location", "location", "registration", "threshold", "threshold", "training"]
    assert [entry.kind for entry in entries] == kinds
    version = list_versions("inspector")[0]
    registration, training = entries[4], entries[-1]
    assert {entry.facts["fingerprint"] for entry in entries[2:4]} == set(version.class_fingerprints.values())
    metrics = client().get_run(version.tags["results_run"]).data.metrics
    signed = {name: value for name, value in metrics.items() if name.startswith(("test/", "gate/"))}
    assert registration.facts["metrics"] == signed and "test/auroc" in signed
    assert registration.subject == version.uri
    assert all(registration.facts[name] == version.tags[name] for name in ("fingerprint", "git_commit", "verdict"))
    assert registration.facts["class_fingerprints"] == version.class_fingerprints
    assert version.tags["audit_entry"] == f"{registration.number}:{registration.hash}"
    assert entries[5].facts["changed"]["threshold"]["from"] is None
    run = client().get_model_version("inspector", version.version).run_id
    assert (training.facts["run"], training.facts["succeeded"]) == (run, True)
    assert "train" in training.facts["stages"] and len(training.facts["decoder_sha256"]) == 64
    assert command("audit", "verify", "--json")[0] == 0


@pytest.fixture
def registry(plant: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelVersion]:
    """`registry(bolt=0.5)` is a new version that decides on bolts above 0.5; its package lies where a run leaves it."""
    from tasks.integrations.mlflow_registry import client, describe_version, new_version

    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", f"sqlite:///{plant}/mlflow.db")
    made = count(1)

    def register(**thresholds: float) -> ModelVersion:
        calibrations = {name: _calibration(value) for name, value in thresholds.items()}
        write_json(Layout().package / "calibration.json", calibrations)
        fingerprint = f"{next(made):064x}"
        tracking, logged = client(), SimpleNamespace(model_uri=str(Layout().package.resolve()), model_id=None)
        return describe_version(
            tracking, "inspector", new_version(tracking, "inspector", None, logged, fingerprint, "")
        )

    return register


def _calibration(threshold: float) -> dict[str, Any]:
    recipe = {"weights": [0.5, 0.5], "pools": [{"share": 0.01, "scale": {"median": 0.0, "sigma": 1.0}}]}
    return {"threshold": threshold, "target_fpr": 0.05, "recipe": recipe, "num_calibrating": 40}


def test_a_version_is_on_record_once_with_the_thresholds_that_changed_and_is_told_its_entry(
    registry: Callable[..., ModelVersion], command: Command
) -> None:
    from tasks.integrations.audit_log import note_promotion, note_registration, operator
    from tasks.integrations.mlflow_registry import client

    first = registry(bolt=0.5, nut=0.7)
    note_registration.fn(first, Layout())
    second = registry(bolt=0.6, nut=0.7, gear=0.9)
    for _ in range(2):  # as after a kill
        note_registration.fn(second, Layout())
    for version in (first, first, second, first):
        note_promotion(version, operator())
    for alias, leading in (("champion", "1"), ("previous", "2")):
        client().set_registered_model_alias("inspector", alias, leading)
    entries = [entry for entry in check(chain_here()) if entry.kind != EntryKind.KEY]
    assert [(entry.kind, entry.subject) for entry in entries] == [
        ("registration", "models:/inspector/1"),
        ("threshold", "bolt"),
        ("threshold", "nut"),
        ("registration", "models:/inspector/2"),
        ("threshold", "bolt"),
        ("threshold", "gear"),
        *[("promotion", "inspector")] * 3,
    ]
    assert entries[4].facts["changed"] == {"threshold": {"from": 0.5, "to": 0.6}}
    assert [(entry.facts["version"], entry.facts["replaces"]) for entry in entries[6:]] == [
        ("1", None),
        ("2", "1"),
        ("1", "2"),
    ]
    code, out, _ = command("audit", "verify", "--json")
    assert code == 0, out
    _forget_the_end(chain_here())
    code, out, _ = command("audit", "verify", "--json")
    assert code == 1 and "as models:/inspector/2 knows" in json.loads(out)["reason"]


def test_who_promotes_a_version_tells_the_gateway_which_models_lead(registry: Callable[..., ModelVersion]) -> None:
    from tasks.integrations.audit_log import note_promotion
    from tasks.integrations.model_version import ModelVersion

    def promoted(version: str, **models: str) -> dict[str, KnownModels]:
        tags = {"fingerprint": version, "class_fingerprints": json.dumps(models)}
        note_promotion(ModelVersion("inspector", version, (), tags), "Ada")
        return open_records().locations.known_models()

    assert promoted("3", bolt="b3", nut="n3") == {"bolt": KnownModels(None, "b3"), "nut": KnownModels(None, "n3")}
    assert promoted("4", bolt="b4") == {"bolt": KnownModels(None, "b4")}
    assert open_records().locations.model("b4").location == "models:/inspector/4"


def test_a_version_that_was_registered_without_a_key_is_told_its_entry_later(
    registry: Callable[..., ModelVersion],
) -> None:
    from tasks.integrations.audit_log import note_registration
    from tasks.integrations.mlflow_registry import client

    chain, version = chain_here(), registry(bolt=0.5)
    chain.append(record(1))
    (chain.keys.folder / "key-1.pem").rename(chain.keys.folder / "away.pem")
    note_registration.fn(version, Layout())
    (chain.keys.folder / "away.pem").rename(chain.keys.folder / "key-1.pem")
    assert "audit_entry" not in client().get_model_version("inspector", version.version).tags
    chain.seal()
    note_registration.fn(version, Layout())
    (entry,) = chain.entries(kinds=[EntryKind.REGISTRATION])
    assert client().get_model_version("inspector", version.version).tags["audit_entry"] == f"3:{entry.hash}"


# --- witnesses ------------------------------------------------------------------------------------------------------


def verified(command: Command, *options: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = command("audit", "verify", "--json", *options)
    return code, json.loads(out)


class TestWitnesses:
    def test_a_head_that_is_gone_is_named(self, plant: Path, command: Command) -> None:
        chain = chain_here()
        chain.append(record(1), record(2))
        assert verified(command)[1]["unwitnessed_since"] is None
        (chain.keys.folder / "head.json").unlink()
        code, found = verified(command)
        assert (code, found["unwitnessed_since"], found["first_bad"]) == (1, 1, None)
        assert "head.json is gone, and there are 3 entries" in found["absent"][0]
        out = command("audit", "verify")[1]
        assert "witness absent" in out and "unwitnessed since entry 1" in out

    def test_a_chain_that_nothing_can_know_yet_is_freshly_begun_and_says_so(
        self, plant: Path, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An auditor's machine without the key folder, and no version is registered."""
        chain_here().append(record(1))
        trust = ("--trust", f"key-1={chain_here().keys.public()['key-1']}")
        chain = chain_here()
        monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(plant / "elsewhere"))
        code, found = verified(command, *trust)
        assert (code, found["sound"], found["unwitnessed_since"]) == (0, True, 1)
        assert "freshly begun" in command("audit", "verify", *trust)[1]
        chain.append(Record(EntryKind.REGISTRATION, "models:/inspector/1", {}, "Ada", START))
        assert verified(command, *trust)[0] == 1

    def test_fifty_entries_cut_with_the_head_are_found_by_the_registry_or_unwitnessed(
        self, registry: Callable[..., ModelVersion], command: Command
    ) -> None:
        """And a version whose tag is gone, or that is gone itself, is a witness that is named."""
        from tasks.integrations.audit_log import note_registration
        from tasks.integrations.mlflow_registry import client

        chain, version = chain_here(), registry(bolt=0.5)
        note_registration.fn(version, Layout())
        registered = next(chain.entries(kinds=[EntryKind.REGISTRATION])).number
        chain.append(*(record(number) for number in range(60)))
        assert verified(command)[0] == 0
        rows, head = stored(chain.engine), chain.keys.folder / "head.json"
        drop_triggers(chain.engine)
        head.unlink()
        write(chain.engine, rows[:-50])
        code, found = verified(command)
        assert (code, found["first_bad"], found["unwitnessed_since"]) == (1, None, registered + 1)
        write(chain.engine, rows[: registered - 1])
        code, found = verified(command)
        assert code == 1 and "as models:/inspector/1 knows" in found["reason"]
        write(chain.engine, rows)
        client().delete_model_version_tag("inspector", "1", "audit_entry")
        code, found = verified(command)
        assert code == 1 and any(
            "models:/inspector/1" in line and "audit_entry is gone" in line for line in found["absent"]
        )
        client().delete_model_version("inspector", "1")
        code, found = verified(command)
        assert code == 1 and any("is gone from the registry" in line for line in found["absent"])

    def test_a_version_that_no_entry_signs_and_a_champion_moved_by_hand_are_named(
        self, registry: Callable[..., ModelVersion], command: Command
    ) -> None:
        from tasks.integrations.audit_log import note_promotion, note_registration
        from tasks.integrations.mlflow_registry import client

        first, second = registry(bolt=0.5), registry(bolt=0.6)
        note_registration.fn(first, Layout())
        client().set_registered_model_alias("inspector", "champion", "1")
        note_promotion(first, "Ada")
        code, found = verified(command)
        assert code == 1
        assert [(difference["column"], difference["key"]) for difference in found["differences"]] == [
            ("version", second.uri)
        ]
        client().set_registered_model_alias("inspector", "champion", "2")
        named = {
            (difference["column"], difference["signed"], difference["found"])
            for difference in verified(command)[1]["differences"]
        }
        assert ("alias.champion", "1", "2") in named

    def test_tampering_is_named_and_ends_with_1(self, plant: Path, command: Command) -> None:
        from shadowline.records.stores import open_records

        open_records().rollout.begin(first_events())
        assert command("audit", "verify")[0] == 0
        with chain_here().engine.begin() as connection:
            connection.exec_driver_sql("UPDATE rollout_classes SET revision = 9 WHERE class_name = 'bolt'")
        code, out, _ = command("audit", "verify")
        assert code == 1 and "rollout_classes.revision of bolt: signed by entry 2 is 1, found is 9" in out


class TestTheSecondPlaceForHeads:
    @pytest.fixture(params=["folder", "s3"])
    def place(
        self, request: pytest.FixtureRequest, plant: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[[], list[str]]]:
        """SHADOWLINE_AUDIT_WITNESS names it; what it holds, by name."""
        if request.param == "folder":
            (plant / "share").mkdir()
            monkeypatch.setenv("SHADOWLINE_AUDIT_WITNESS", str(plant / "share"))
            yield lambda: sorted(path.name for path in (plant / "share").iterdir())
            return
        with s3_server("evidence") as address:
            monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", address)
            monkeypatch.setenv("SHADOWLINE_AUDIT_WITNESS", "s3://evidence/plant-1/heads")
            client = boto3.client("s3", endpoint_url=address)
            yield lambda: [
                entry["Key"].rpartition("/")[2]
                for entry in client.list_objects_v2(Bucket="evidence").get("Contents", ())
            ]

    def test_it_tells_a_chain_that_was_cut_with_its_head(
        self, place: Callable[[], list[str]], command: Command
    ) -> None:
        chain = chain_here()
        for number in range(3):
            chain.append(record(number))
        chain.tell_heads()  # again: nothing is written twice
        entries = list(chain.entries())
        assert place() == [f"{entry.number:012d}-{entry.hash}.json" for entry in entries[1:]]
        (chain.keys.folder / "head.json").unlink()
        code, found = verified(command)
        assert (code, found["unwitnessed_since"], len(found["absent"])) == (1, None, 1)
        drop_triggers(chain.engine)
        write(chain.engine, stored(chain.engine)[:3])
        code, found = verified(command)
        assert code == 1 and found["first_bad"] == 4 and "entry 4 was written, as " in found["reason"]

    def test_away_it_holds_up_nothing_and_that_is_said(
        self, plant: Path, command: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("SHADOWLINE_AUDIT_WITNESS", str(plant / "not mounted"))
        chain = chain_here()
        assert len(chain.append(record(1))) == 2
        assert "the last entry is not copied" in caplog.text and "check SHADOWLINE_AUDIT_WITNESS" in caplog.text
        assert not (plant / "not mounted").exists(), "what is not mounted is not made"
        code, found = verified(command)
        assert code == 1 and "No such file" in found["absent"][0]
        (plant / "not mounted").mkdir()
        code, found = verified(command)
        assert code == 1 and "holds no head of this chain" in found["absent"][0]
        chain.tell_heads()
        assert verified(command)[0] == 0

    def test_a_place_that_hangs_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shadowline.records.audit_log.chain_heads._PATIENCE_S", 0.05)
        hangs = threading.Event()

        class Hanging:
            def create(self, name: str, content: bytes) -> None:
                hangs.wait()

            def names(self) -> list[str]:
                return []

        with pytest.raises(AwayError, match=r"share: no answer within 0\.05 s"):
            HeadPlace("share", Hanging()).keep(ChainHead(1, "0" * 64))
        hangs.set()

    def test_s3_without_a_bucket_is_no_place(self) -> None:
        with pytest.raises(ValueError, match="need a folder or s3://BUCKET/PREFIX"):
            open_heads("s3://")

    def test_a_seal_alone_tells_nobody(self, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A rollback is sealed right after it is written, and waits for no other machine."""
        (plant / "share").mkdir()
        monkeypatch.setenv("SHADOWLINE_AUDIT_WITNESS", str(plant / "share"))
        chain = chain_here()
        with chain.engine.begin() as connection:
            chain.note(connection, [record(1)])
        assert chain.seal() and not list((plant / "share").iterdir())


def test_the_configuration_is_on_record_key_by_key_where_it_changes(plant: Path, params: Params) -> None:
    from tasks.integrations.audit_log import note_configuration, note_deletion, note_enrolment

    other = params.model_copy(update={"train": params.train.model_copy(update={"steps": 7})})
    for configuration in (params, params, other, other):
        note_configuration.fn(configuration)
    first, second = bodies(EntryKind.CONFIGURATION)
    assert first["params"] == params.model_dump(mode="json") and first["params_hash"] == params.hash()
    assert second["changed"] == {"train.steps": {"from": params.train.steps, "to": 7}}
    note_enrolment.fn("bolt", "few_shot", 12, None)
    for _ in range(2):
        note_deletion("bolt", "f1", ["3"], "s3://archive/bolt.zip#sha256=00")
    note_deletion("bolt", "f1", [], "s3://archive/bolt.zip#sha256=00")
    assert [kind for kind, _ in said(chain_here())] == ["configuration", "configuration", "enrolment", "deletion"]


def _forget_the_end(chain: Chain) -> None:
    """Cut the chain before its second version, and its memory with it."""
    drop_triggers(chain.engine)
    rows = stored(chain.engine)
    second = [row["number"] for row in rows if row["kind"] == EntryKind.REGISTRATION][1]
    write(chain.engine, [row for row in rows if row["number"] < second])
    (chain.keys.folder / "head.json").unlink()
