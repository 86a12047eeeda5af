"""The law of the audit chain: whatever is done to it but adding at its end is found, where it begins."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from shadowline.core.differences import differences
from shadowline.records.audit_log.entry import (
    BEGINNING,
    FIELDS,
    ChainVerification,
    ChainVerifier,
    Entry,
    EntryKind,
    PendingEntry,
    Record,
    next_entry,
)
from shadowline.records.audit_log.keys import KeyFolder, SigningKey

NOW = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
SECRET = "correct horse battery staple"


def key(name: str, seed: str = "") -> SigningKey:
    return SigningKey(name, Ed25519PrivateKey.from_private_bytes(hashlib.sha256((name + seed).encode()).digest()))


FIRST, SECOND, STRANGER = key("key-1"), key("key-2"), key("key-1", "of somebody else")
TRUSTED = {FIRST.name: FIRST.public}


def introduction(new: SigningKey) -> PendingEntry:
    return Record(EntryKind.KEY, new.name, {"public_key": new.public}, "Ada", NOW).noted


def note(text: str = "said") -> PendingEntry:
    return Record(EntryKind.ORDER, "bolt", {"why": text}, "Ada", NOW).noted


def linked(*signed: tuple[PendingEntry, SigningKey], after: Entry | None = None) -> list[Entry]:
    made: list[Entry] = []
    for pending, signer in signed:
        made.append(next_entry(pending, made[-1] if made else after, signer))
    return made


def walk(entries: Sequence[Entry], trusted: dict[str, str] = TRUSTED) -> ChainVerification:
    return ChainVerifier(trusted).check(entries)


@st.composite
def chains(draw: st.DrawFn) -> list[Entry]:
    """Two to a dozen entries about anything, with a new key somewhere or not."""
    texts = draw(st.lists(st.text(max_size=8), min_size=1, max_size=10))
    rotated = draw(st.integers(0, len(texts)))
    signed = [(introduction(FIRST), FIRST), *((note(text), FIRST) for text in texts[:rotated])]
    signed += [(introduction(SECOND), FIRST)] if rotated < len(texts) else []
    return linked(*signed, *((note(text), SECOND) for text in texts[rotated:]))


WHATEVER = st.one_of(st.text(max_size=70), st.integers(), st.none(), st.binary(max_size=4), st.floats())


class TestWhateverIsDoneToASoundChainIsFoundWhereItBegins:
    @given(chains())
    def test_untouched_it_is_sound(self, entries: list[Entry]) -> None:
        assert walk(entries) == ChainVerification(len(entries), entries[-1])

    @given(chains(), st.data(), st.sampled_from(FIELDS), WHATEVER)
    def test_an_edit_of_any_field(self, entries: list[Entry], data: st.DataObject, field: str, value: object) -> None:
        place = data.draw(st.integers(0, len(entries) - 1))
        assume(value != getattr(entries[place], field))
        entries[place] = replace(entries[place], **{field: value})
        found = walk(entries)
        assert (found.sound, found.first_bad, found.num_entries) == (False, place + 1, place)
        assert found.reason.isprintable()

    @given(chains(), st.data(), st.sampled_from(FIELDS))
    def test_another_letter_of_any_field(self, entries: list[Entry], data: st.DataObject, field: str) -> None:
        place = data.draw(st.integers(0, len(entries) - 1))
        before = str(getattr(entries[place], field))
        letter = data.draw(st.integers(0, max(len(before) - 1, 0)))
        after = before[:letter] + data.draw(st.sampled_from("0aA \n")) + before[letter + 1 :]
        assume(after != before)
        entries[place] = replace(entries[place], **{field: after})
        assert walk(entries).first_bad == place + 1

    @given(chains(), st.data())
    def test_a_removal(self, entries: list[Entry], data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(entries) - 2))
        assert walk(entries[:place] + entries[place + 1 :]).first_bad == place + 1

    @given(chains(), st.data())
    def test_a_swap(self, entries: list[Entry], data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(entries) - 2))
        second = data.draw(st.integers(first + 1, len(entries) - 1))
        entries[first], entries[second] = entries[second], entries[first]
        assert walk(entries).first_bad == first + 1

    @given(chains(), st.data())
    def test_a_duplicate(self, entries: list[Entry], data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(entries) - 1))
        to = data.draw(st.integers(place + 1, len(entries)))
        assert walk([*entries[:to], entries[place], *entries[to:]]).first_bad == to + 1

    @given(chains(), st.data())
    def test_an_insertion_by_who_has_no_key(self, entries: list[Entry], data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(entries)))
        forged = next_entry(note("forged"), entries[place - 1] if place else None, STRANGER)
        assert walk([*entries[:place], forged, *entries[place:]]).first_bad == place + 1

    @given(chains(), st.data())
    def test_a_tail_that_was_written_anew_by_who_has_no_key(self, entries: list[Entry], data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(entries) - 1))
        notes = [PendingEntry(entry.at, entry.by, entry.kind, entry.subject, entry.body) for entry in entries[place:]]
        after = entries[place - 1] if place else None
        signer = replace(STRANGER, name=after.key if after else "key-1")
        if after is not None and after.kind == EntryKind.KEY:
            signer = replace(STRANGER, name=after.subject)
        assert (
            walk([*entries[:place], *linked(*((pending, signer) for pending in notes), after=after)]).first_bad
            == place + 1
        )

    @given(chains(), st.data())
    def test_walked_in_pieces_it_is_the_same(self, entries: list[Entry], data: st.DataObject) -> None:
        cut = data.draw(st.integers(1, len(entries)))
        pieces = ChainVerifier(TRUSTED)
        pieces.check(entries[:cut])
        assert pieces.check(entries[cut:]) == walk(entries)
        later = ChainVerifier({**TRUSTED, SECOND.name: SECOND.public}, after=entries[cut - 1])
        assert later.check(entries[cut:]) == ChainVerification(len(entries) - cut, entries[-1])


class TestKeysFollowOneAnother:
    ROTATED = linked((introduction(FIRST), FIRST), (note(), FIRST), (introduction(SECOND), FIRST))

    def test_the_new_one_signs_and_the_old_one_no_more(self) -> None:
        assert walk([*self.ROTATED, *linked((note(), SECOND), after=self.ROTATED[-1])]).sound
        found = walk([*self.ROTATED, *linked((note(), FIRST), after=self.ROTATED[-1])])
        assert (found.first_bad, found.reason) == (4, "entry 4: is signed with key 'key-1', where 'key-2' has to sign")

    def test_under_the_name_of_the_new_one_the_old_one_signs_nothing_either(self) -> None:
        masked = replace(FIRST, name="key-2")
        assert walk([*self.ROTATED, *linked((note(), masked), after=self.ROTATED[-1])]).first_bad == 4

    def test_an_old_one_never_comes_back(self) -> None:
        back = linked((introduction(FIRST), SECOND), (note(), FIRST), after=self.ROTATED[-1])
        found = walk([*self.ROTATED, *back])
        assert (found.first_bad, found.reason) == (4, "entry 4: introduces key 'key-1' again")

    def test_a_new_one_that_is_trusted_is_the_one_that_is_introduced(self) -> None:
        found = walk(self.ROTATED, {**TRUSTED, "key-2": STRANGER.public})
        assert (found.first_bad, "than the one that is trusted" in found.reason) == (3, True)

    def test_a_chain_of_somebody_else_is_found_whatever_it_calls_its_key(self) -> None:
        for name in ("key-1", "key-7"):
            own = replace(STRANGER, name=name)
            entries = linked((introduction(own), own), (note(), own))
            assert walk(entries).first_bad == 1
            assert walk(entries, {}).sound, "where nobody is trusted, it is a chain, but nobody knows whose"

    def test_a_chain_begins_with_the_key_that_signs_it(self) -> None:
        assert walk(linked((note(), FIRST))).reason == "entry 1: does not introduce the key that signs it"
        assert walk(linked((introduction(SECOND), FIRST))).first_bad == 1
        assert self.ROTATED[0].previous == BEGINNING


class TestNothingMakesTheWalkFall:
    @given(st.one_of(st.text(), st.sampled_from(["[" * 100_000, "1" * 5_000, "{", '"', "null", "NaN", "[]", "{}"])))
    def test_a_body_that_is_none_is_a_fault_of_a_key_and_of_nothing_else(self, body: str) -> None:
        said, named = (
            PendingEntry(note().at, "Ada", str(kind), "key-2", body) for kind in (EntryKind.ORDER, EntryKind.KEY)
        )
        first = linked((introduction(FIRST), FIRST))
        assert walk([*first, *linked((said, FIRST), after=first[0])]).sound
        assert walk([*first, *linked((named, FIRST), after=first[0])]).first_bad == 2

    @given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
    def test_a_public_half_that_is_none_is_a_fault(self, public: Any) -> None:
        body = json.dumps({"public_key": public})
        alone = linked((PendingEntry(note().at, "Ada", "key", "key-1", body), FIRST))
        assert walk(alone, {}).first_bad == walk(alone).first_bad == 1
        first = linked((introduction(FIRST), FIRST))
        second = linked((PendingEntry(note().at, "Ada", "key", "key-2", body), FIRST), after=first[0])
        third = linked((note(), SECOND), after=second[0])
        assert walk([*first, *second, *third]).first_bad in {2, 3}

    @given(st.lists(WHATEVER, min_size=10, max_size=10))
    def test_an_entry_of_anything_is_a_fault(self, values: list[Any]) -> None:
        for trusted in (TRUSTED, {}, {"key-1": "no hex"}):
            found = walk([Entry(*values)], trusted)
            assert found.first_bad == 1 and found.reason.isprintable() and len(found.reason) < 300

    def test_a_signature_is_written_in_one_way(self) -> None:
        first = linked((introduction(FIRST), FIRST))[0]
        for other in (first.signature.upper(), f" {first.signature}", first.signature[:-2]):
            assert walk([replace(first, signature=other)]).first_bad == 1


class TestARecord:
    def test_equal_bodies_are_equal_texts(self) -> None:
        one, two = ({"b": 1, "a": [None, "ü"]}, {"a": [None, "ü"], "b": 1})
        assert (
            Record(EntryKind.ORDER, "x", one, "Ada", NOW).noted == Record(EntryKind.ORDER, "x", two, "Ada", NOW).noted
        )

    @pytest.mark.parametrize(
        ("change", "words"),
        [({"at": datetime(2026, 1, 5)}, "no time zone; give UTC"), ({"body": {"a": float("nan")}}, "JSON compliant")],
    )
    def test_what_cannot_be_told_again_is_refused(self, change: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            _ = replace(Record(EntryKind.ORDER, "x", {}, "Ada", NOW), **change).noted

    def test_a_difference_names_both_values_and_what_came_and_went(self) -> None:
        before = {"train": {"lr": 1, "steps": 10}, "classes": {"bolt": {"at": "a"}}, "same": [1]}
        after = {"train": {"lr": 2, "steps": 10}, "classes": {"nut": {"at": "b"}}, "same": [1]}
        assert differences(before, after) == {
            "train.lr": {"from": 1, "to": 2},
            "classes.bolt.at": {"from": "a", "to": None},
            "classes.nut.at": {"from": None, "to": "b"},
        }
        assert differences(before, before) == {}


# --- the folder of keys ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys", SecretStr(SECRET))


def test_a_private_half_is_its_owners_alone_and_comes_back_with_its_passphrase_only(folder: KeyFolder) -> None:
    made = folder.create("key-1")
    assert stat.S_IMODE((folder.folder / "key-1.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700
    assert KeyFolder(folder.folder, SecretStr(SECRET)).load("key-1").public == made.public
    assert folder.public() == {"key-1": made.public}
    for other in (None, SecretStr(""), SecretStr("wrong")):
        with pytest.raises(ValueError, match=r"key-1\.pem: does not open; check SHADOWLINE_AUDIT_PASSPHRASE$"):
            KeyFolder(folder.folder, other).load("key-1")


def test_no_secret_is_in_what_is_shown_of_a_key_or_a_folder(folder: KeyFolder) -> None:
    made = folder.create("key-1")
    private = made.private.private_bytes_raw().hex()
    shown = f"{made!r} {made} {folder!r} {[*folder.folder.iterdir()]}"
    assert SECRET not in shown and private not in shown
    everything = b"".join(path.read_bytes() for path in folder.folder.iterdir())
    assert SECRET.encode() not in everything and made.private.private_bytes_raw() not in everything


def test_a_key_is_never_written_over(folder: KeyFolder) -> None:
    made = folder.create("key-1")
    for lost in (None, folder.folder / "key-1.pub"):
        if lost:
            lost.unlink()
        with pytest.raises(ValueError, match="is there already"):
            folder.create("key-1")
    assert folder.obtain("key-1").public == made.public == folder.public()["key-1"]


def test_a_key_whose_private_half_is_lost_is_not_made_again(folder: KeyFolder) -> None:
    folder.create("key-1")
    (folder.folder / "key-1.pem").unlink()
    fresh = KeyFolder(folder.folder, SecretStr(SECRET))
    for ask in (fresh.load, fresh.obtain):
        with pytest.raises(ValueError, match=r"key-1\.pem is not there; restore it from a backup$"):
            ask("key-1")


@pytest.mark.parametrize("name", ["", "Key", "../key", "a/b", "-a", "a" * 64, "ü", "a\n"])
def test_a_name_that_is_none_is_refused(folder: KeyFolder, name: str) -> None:
    with pytest.raises(ValueError, match="small letters, digits"):
        folder.create(name)


def test_what_is_no_key_and_what_is_no_folder_are_named_in_one_line(tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "rsa.pem").write_bytes(rsa)
    (tmp_path / "half.pem").write_bytes(rsa[:100])
    (tmp_path / "head.json").write_text("{")
    keys, nowhere = KeyFolder(tmp_path), KeyFolder(tmp_path / "rsa.pem")
    failing: list[tuple[Callable[[], object], str]] = [
        (lambda: keys.load("rsa"), "rsa.pem: holds no Ed25519 key"),
        (lambda: keys.load("half"), "half.pem: does not open"),
        (lambda: keys.head, "head.json: does not say which entry was the last"),
        (lambda: nowhere.create("key-1"), "rsa.pem.*; check SHADOWLINE_AUDIT_KEYS"),
    ]
    for work, words in failing:
        with pytest.raises(ValueError, match=words) as refused:
            work()
        assert "\n" not in str(refused.value)


def test_the_last_entry_is_remembered_whoever_comes_late(folder: KeyFolder) -> None:
    entries = linked((introduction(FIRST), FIRST), (note(), FIRST))
    assert folder.head is None
    folder.create("key-1")
    folder.remember(entries[1])
    folder.remember(entries[0])
    head = folder.head
    assert head is not None and (head.number, head.hash) == (2, entries[1].hash)
