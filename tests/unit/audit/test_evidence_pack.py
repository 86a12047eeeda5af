"""The evidence pack and its verifier: whatever is changed in a pack is found, and named; garbage is harmless."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.evidence_pack import (
    FINGERPRINT,
    START,
    as_entry,
    build_chain,
    day,
    edit_lines,
    pack_chain,
    registration,
    rehash,
    unpack,
    verify,
)
from shadowline.audit import verify_pack
from shadowline.audit.pack import VERIFIER, file_name, new_pack
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.chain_range import BrokenChainError, ChainRange, Period
from shadowline.records.audit_log.entry import EntryKind, PendingEntry, Record, next_entry
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.database import open_database
from shadowline.report.evidence import ChainFacts, EvidenceReport, RecordedStatement, VersionFacts, render_index
from shadowline.report.model_card import Card, CardClass, card_classes, render_card

ALL = Period(None, day(4000))
HOSTILE = "../../<script>alert('x')</script>\x00\u202e\ud800"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Read only."""
    folder = tmp_path_factory.mktemp("chain")
    return build_chain(folder, f"sqlite:///{folder}/records.db")


@pytest.fixture(scope="module")
def pack(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the whole chain, 11 entries. Read only."""
    return pack_chain(chain, ALL, tmp_path_factory.mktemp("pack") / "pack.zip")


@pytest.fixture
def folder(pack: Path, tmp_path: Path) -> Path:
    return unpack(pack, tmp_path / "pack")


def root_of(chain: Chain) -> str:
    return chain.keys.load("key-1").public


def faults(path: Path, root: str = "") -> dict[str, str]:
    """Of the verifier in this process: check → what is wrong."""
    found: dict[str, str] = {}
    try:
        pack = verify_pack.Pack(path, root)
    except verify_pack.GARBAGE as error:
        return {"open": str(error)}
    for check in (pack.files, pack.keys, pack.signature, pack.chain, pack.versions, pack.reproductions):
        try:
            check()
        except (verify_pack.Fault, *verify_pack.GARBAGE) as error:
            found[check.__name__] = str(error)
    return found


# --- what holds


def test_an_untouched_pack_holds_zipped_and_unpacked_with_nothing_but_cryptography(
    chain: Chain, pack: Path, folder: Path
) -> None:
    for path, script in ((pack, VERIFIER), (folder, folder / "verify.py")):
        answer = verify(path, "--root", root_of(chain), script=script)
        assert (answer.code, answer.err, answer.faults) == (0, "", {})
        assert "entries 1 to 11 hold" in answer.out
        assert "is the one of --root" in answer.out


def test_the_verifier_would_not_run_with_an_import_of_ours(folder: Path) -> None:
    script = folder / "verify.py"
    script.write_text(script.read_text().replace("import argparse", "import argparse\nimport shadowline"))
    assert "shadowline is none of the verifier's business" in verify(folder, script=script).err


def test_without_a_root_it_says_that_it_cannot_tell_whose_the_first_key_is(chain: Chain, pack: Path) -> None:
    answer = verify(pack)
    assert answer.code == 0
    assert root_of(chain) in answer.out
    assert "compare it by other means" in answer.out


def test_another_root_is_refused(pack: Path) -> None:
    answer = verify(pack, "--root", "0" * 64)
    assert answer.code == 1
    assert "not the one of --root" in answer.faults["keys"]


@pytest.mark.parametrize(
    ("since", "until", "first", "last"),
    [
        (None, 4000, 1, 11),
        (0, 1, 1, 2),  # the first key is introduced with the first entry
        (3, 5, 5, 6),  # begins in the middle, ends before the last key
        (4, 9, 6, 10),  # the key changes inside
        (7, 9, 9, 10),  # after the last key
        (-5, -1, 1, 0),  # empty, before the chain
        (5.5, 5.9, 8, 7),  # empty, in the middle
        (20, 30, 12, 11),  # empty, after its end
    ],
)
def test_any_period_verifies(tmp_path: Path, since: float | None, until: float, first: int, last: int) -> None:
    chain = timed(build_chain(tmp_path, f"sqlite:///{tmp_path}/records.db"), tmp_path)
    period = Period(None if since is None else day(since), day(until))
    stretch = ChainRange.of(chain, period)
    assert (stretch.first, stretch.last) == (first, last)
    assert faults(pack_chain(chain, period, tmp_path / "pack.zip"), root_of(chain)) == {}


def timed(chain: Chain, folder: Path) -> Chain:
    """The same chain, but for its keys, which really were introduced when they say: a few days after START."""
    days = {"key-1": 0.0, "key-2": 2.0, "key-3": 6.0}
    again = Chain(open_database(f"sqlite:///{folder}/again.db"), chain.keys)
    rebuilt: list[Any] = []
    for entry in chain.entries():
        at = day(days[entry.subject]).isoformat(timespec="microseconds") if entry.kind == EntryKind.KEY else entry.at
        note = PendingEntry(at, entry.by, entry.kind, entry.subject, entry.body)
        rebuilt.append(next_entry(note, rebuilt[-1] if rebuilt else None, chain.keys.load(entry.key)))
    with again.engine.begin() as connection:
        again._insert(connection, rebuilt)
    return again


def test_a_stretch_has_no_gap_where_times_run_backwards(chain: Chain) -> None:
    """The keys of this chain were made today, long after the period that its other entries tell of."""
    stretch = ChainRange.of(chain, Period(day(3), day(9)))
    assert [entry.number for entry in stretch.entries()] == [5, 6, 7, 8, 9, 10]


def test_a_period_begins_before_it_ends() -> None:
    with pytest.raises(ValueError, match="it has to begin before it ends"):
        Period(day(1), day(1))
    assert day(0) in Period(day(0), day(1))
    assert day(1) not in Period(day(0), day(1))


def test_equal_contents_give_equal_bytes(chain: Chain, pack: Path, tmp_path: Path) -> None:
    assert pack_chain(chain, ALL, tmp_path / "again.zip").read_bytes() == pack.read_bytes()


def test_no_pack_is_made_of_a_chain_that_does_not_hold(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, f"sqlite:///{tmp_path}/records.db")
    with chain.engine.begin() as connection:
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql("UPDATE audit_entries SET by = 'Eve' WHERE number = 6")
    with pytest.raises(BrokenChainError, match=r"entry 6.*was edited"):
        pack_chain(chain, ALL, tmp_path / "pack.zip")
    with chain.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE audit_entries SET body = '{}' WHERE number = 4")
    with pytest.raises(BrokenChainError, match="an entry of a key does not hold it"):
        pack_chain(chain, Period(day(4), day(9)), tmp_path / "pack.zip")
    assert [path.suffix for path in tmp_path.iterdir() if "pack" in path.name] == []


# --- what an attacker without a key can do


def test_one_flipped_byte_in_any_file_is_found_and_the_file_is_named(folder: Path, tmp_path: Path) -> None:
    rng, tried = random.Random(7), 0
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name, original = path.relative_to(folder).as_posix(), path.read_bytes()
        for position in rng.sample(range(len(original)), min(25, len(original))):
            flipped = bytearray(original)
            flipped[position] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(flipped))
            found, tried = faults(folder), tried + 1
            if name == "contents.sig":
                assert set(found) == {"signature"} or bytes(flipped).split() == original.split(), (name, position)
            elif name == "contents.json":
                assert {"signature"} <= set(found), (name, position)
            else:
                assert f"'{name}' was changed" in found["files"], (name, position)
        path.write_bytes(original)
    assert tried > 200
    assert faults(folder) == {}


def test_a_file_that_was_added_removed_or_is_there_twice_is_named(folder: Path, pack: Path, tmp_path: Path) -> None:
    (folder / "cards").mkdir()
    (folder / "cards/new.html").write_text("new")
    assert faults(folder) == {"files": "'cards/new.html' was added: contents.json does not list it"}
    (folder / "cards/new.html").unlink()
    (folder / "index.html").rename(tmp_path / "index.html")
    assert faults(folder) == {"files": "'index.html' is missing"}
    (folder / "index.html").symlink_to(tmp_path / "index.html")
    assert faults(folder) == {"files": "'index.html' is neither a file nor a folder"}
    twice = tmp_path / "twice.zip"
    twice.write_bytes(pack.read_bytes())
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("index.html", "another")
    assert faults(twice)["files"] == "'index.html' is there twice"


@pytest.mark.parametrize("name", ["contents.json", "contents.sig"])
def test_a_pack_without_its_signature_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert {"files", "signature"} <= set(faults(folder))


def test_hashing_again_does_not_sign(folder: Path) -> None:
    edit_lines(folder / "chain.jsonl", lambda entries: entries[:-1])
    rehash(folder)
    found = faults(folder)
    assert "files" not in found
    assert "contents.json was changed" in found["signature"]
    assert "contents.json names another end" in found["chain"]


def test_another_key_does_not_sign(folder: Path, tmp_path: Path, chain: Chain) -> None:
    stranger = KeyFolder(tmp_path / "keys").create("key-3")  # even under the name of the right one
    rehash(folder, stranger)
    assert "is no signature of it by key 'key-3'" in faults(folder)["signature"]
    rehash(folder, chain.keys.load("key-1"))  # retired
    assert "is signed with key 'key-1', where 'key-3' has to sign" in faults(folder)["signature"]


def test_a_stranger_who_introduces_a_key_of_his_own_is_named(folder: Path, tmp_path: Path, chain: Chain) -> None:
    stranger = KeyFolder(tmp_path / "keys").create("key-4")
    body = json.dumps({"public_key": stranger.public, "replaces": "key-3"})

    def introduce(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        note = PendingEntry("2026-07-09T00:00:00.000000+00:00", "Eve", "key", "key-4", body)
        signer = type("Signer", (), {"name": "key-3", "sign": staticmethod(stranger.sign)})()
        return [*entries, next_entry(note, as_entry(entries[-1]), signer).to_dict()]

    edit_lines(folder / "keys.jsonl", introduce)
    rehash(folder, stranger)
    assert "its signature is not one of key 'key-3'" in faults(folder)["keys"]


# --- what one with the newest key can do: nothing to what other keys signed, nothing to the chain


Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def without(number: int) -> Change:
    return lambda entries: [entry for entry in entries if entry["number"] != number]


def edited(where: int, /, **fields: Any) -> Change:
    return lambda entries: [{**entry, **fields} if entry["number"] == where else entry for entry in entries]


def swapped(first: int, second: int) -> Change:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        order = {first: second, second: first}
        return sorted(entries, key=lambda entry: order.get(entry["number"], entry["number"]))

    return change


CHANGES: list[tuple[str, Change, str]] = [
    *((f"without {n}", without(n), f"entry {n} is missing") for n in range(2, 11)),
    ("without 1", without(1), "entry 1 is missing"),
    ("without 11", without(11), "names another end"),
    *((f"{n} by Eve", edited(n, by="Eve"), f"entry {n} was edited") for n in range(1, 12)),
    *((f"{n} earlier", edited(n, at="2025-01-01T00:00:00.000000+00:00"), f"entry {n} was edited") for n in (2, 6, 11)),
    *((f"{n} body", edited(n, body='{"target":"live"}'), f"entry {n} was edited") for n in (2, 6, 11)),
    *((f"swap {n}", swapped(n, n + 1), f"entry {n} is missing; entry {n + 1} stands") for n in range(1, 11)),
    ("swap far", swapped(2, 10), "entry 2 is missing"),
    ("twice", lambda entries: [*entries[:5], entries[4], *entries[5:]], "entry 6 is missing; entry 5 stands"),
    ("renumbered", edited(3, number=4), "entry 3 is missing"),
    ("number as text", edited(3, number="3"), "line 3: a field is of the wrong type"),
    ("a field more", edited(3, note="read me"), "line 3: has not the fields of an entry"),
    ("other key named", edited(3, key="key-2"), "entry 3 was edited"),
    ("signature of another", edited(3, signature="ab" * 64), "entry 3: its signature is not one of key 'key-1'"),
    ("signature empty", edited(3, signature=""), "entry 3: its signature is not one of key 'key-1'"),
    ("none at all", lambda entries: [], "names another end"),
]


@pytest.mark.parametrize(("change", "named"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_changed_chain_is_found_even_with_contents_hashed_and_signed_again(
    folder: Path, chain: Chain, change: Change, named: str
) -> None:
    edit_lines(folder / "chain.jsonl", change)
    rehash(folder, chain.keys.load("key-3"))
    found = faults(folder, root_of(chain))
    assert set(found) <= {"chain", "versions", "reproductions"}
    assert named in found["chain"]


def test_capital_digits_of_a_signature_are_another_text(folder: Path, chain: Chain) -> None:
    edit_lines(
        folder / "chain.jsonl",
        lambda entries: [
            {**entry, "signature": entry["signature"].upper()} if entry["number"] == 3 else entry for entry in entries
        ],
    )
    rehash(folder, chain.keys.load("key-3"))
    assert "entry 3: its signature" in faults(folder)["chain"]


def test_the_newest_key_cannot_rewrite_what_an_older_one_signed(folder: Path, chain: Chain) -> None:
    """Hash and number fit again; only the key does not."""

    def rewrite(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [as_entry(entry) for entry in entries]
        note = PendingEntry(kept[1].at, "Eve", kept[1].kind, kept[1].subject, kept[1].body)
        new = [kept[0], next_entry(note, kept[0], chain.keys.load("key-3"))]
        for old in kept[2:]:
            note = PendingEntry(old.at, old.by, old.kind, old.subject, old.body)
            new.append(next_entry(note, new[-1], chain.keys.load("key-3")))
        return [entry.to_dict() for entry in new]

    edit_lines(folder / "chain.jsonl", rewrite)
    rehash(folder, chain.keys.load("key-3"))
    assert "entry 2 is signed with key 'key-3', where 'key-1' has to sign" in faults(folder)["chain"]


@pytest.mark.parametrize("number", [1, 4, 8])
def test_the_keys_have_to_be_the_same_in_chain_and_keys(folder: Path, chain: Chain, number: int) -> None:
    edit_lines(folder / "keys.jsonl", without(number))
    rehash(folder, chain.keys.load("key-3"))
    assert {"keys", "signature", "chain"} & set(faults(folder))


def test_an_anchor_that_was_exchanged_is_found(chain: Chain, tmp_path: Path) -> None:
    folder = unpack(pack_chain(chain, Period(day(3), day(9)), tmp_path / "pack.zip"), tmp_path / "pack")
    anchor = json.loads((folder / "anchor.json").read_text())
    for changed in ({**anchor, "by": "Eve"}, {"number": 0, "hash": "0" * 64}, {**anchor, "number": 3}, {}, [], "x"):
        (folder / "anchor.json").write_text(json.dumps(changed))
        rehash(folder, chain.keys.load("key-3"))
        assert "chain" in faults(folder), changed


# --- what the chain says of other files


def set_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_versions_and_results_have_the_hashes_that_the_chain_states(folder: Path, chain: Chain) -> None:
    key, versions = chain.keys.load("key-3"), folder / "versions.json"
    original = versions.read_text()
    for name, text, named in (
        (
            "fingerprint",
            original.replace(FINGERPRINT["inspector/1"], "e" * 64),
            "fingerprint is not the one of entry 3",
        ),
        ("git_commit", original.replace("d" * 40, "e" * 40), "git_commit is not the one of entry 6"),
        ("missing", original.replace("inspector/2", "inspector/7"), "registered by entry 6, is not in versions.json"),
    ):
        versions.write_text(text)
        rehash(folder, key)
        assert named in faults(folder)["versions"], name
    versions.write_text(original)
    (folder / "reproductions/inspector-1.json").write_text('{"identical": false}')
    rehash(folder, key)
    assert faults(folder) == {
        "reproductions": "'reproductions/inspector-1.json' is missing, or not what entry 7 states"
    }
    (folder / "reproductions/inspector-1.json").unlink()
    rehash(folder, key)
    assert "reproductions" in faults(folder)


def test_a_version_registered_again_after_the_period_keeps_its_fingerprint_alone(tmp_path: Path) -> None:
    chain, period = build_chain(tmp_path, f"sqlite:///{tmp_path}/records.db"), Period(day(0), day(2))

    def with_other_tags() -> Path:
        folder = unpack(pack_chain(chain, period, tmp_path / "pack.zip"), tmp_path / "pack")
        set_json(folder / "versions.json", lambda found: {**found, "inspector/1": later(found["inspector/1"])})
        rehash(folder, chain.keys.load("key-3"))
        return folder

    assert "its git_commit is not the one of entry 3" in faults(with_other_tags())["versions"]
    chain.append(Record(EntryKind.REGISTRATION, "models:/inspector/1", registration("inspector/1"), "Ada", day(10)))
    assert faults(with_other_tags()) == {}


def test_the_entry_that_a_version_knows_is_in_the_chain(folder: Path, chain: Chain) -> None:
    entry = next(recorded for recorded in chain.entries(kinds=[EntryKind.REGISTRATION]))
    for tag, reason in (
        (f"{entry.number}:{entry.hash}", ""),
        (f"{entry.number}:{'0' * 64}", "knows of another entry 3"),
        ("99:" + "0" * 64, "knows of entry 99, and the chain ends with entry 11"),
    ):
        set_json(folder / "versions.json", lambda found, tag=tag: {**found, "inspector/1": told(found, tag)})
        rehash(folder, chain.keys.load("key-3"))
        assert reason in faults(folder).get("versions", ""), tag
        assert bool(reason) == bool(faults(folder)), tag


def told(found: Any, tag: str) -> dict[str, Any]:
    return {"tags": {**found["inspector/1"]["tags"], "audit_entry": tag}}


def test_leaving_out_the_first_entries_of_the_period_is_found(tmp_path: Path) -> None:
    chain = timed(build_chain(tmp_path, f"sqlite:///{tmp_path}/records.db"), tmp_path)
    folder = unpack(pack_chain(chain, Period(day(4), day(9)), tmp_path / "pack.zip"), tmp_path / "pack")
    assert faults(folder) == {}
    rehash(folder, chain.keys.load("key-3"), since=day(3).isoformat())
    assert faults(folder) == {"chain": "entry 5 is of the period, and chain.jsonl begins after it"}


def later(version: dict[str, Any]) -> dict[str, Any]:
    return {"tags": {**version["tags"], "git_commit": "f" * 40}}


# --- garbage


def test_the_verifier_ends_with_1_and_no_traceback_on_garbage(folder: Path, pack: Path, tmp_path: Path) -> None:
    bomb = "[" * 200_000
    texts = ("", "{}", "[]", "null", '"x"', "\x00\xff", "1e999", bomb, '{"files": [1]}', '{"number": NaN}', "[1,2]\n")
    for name in ("contents.json", "contents.sig", "keys.jsonl", "anchor.json", "chain.jsonl", "versions.json"):
        original = (folder / name).read_bytes()
        for text in texts:
            (folder / name).write_text(text)
            assert faults(folder), (name, text[:20])
            rehash_if_possible(folder)
            assert faults(folder), (name, text[:20])
            unpack(pack, folder)
        assert (folder / name).read_bytes() == original
    whole = pack.read_bytes()
    for number, data in enumerate((b"", b"PK", whole[: len(whole) // 2], whole[::-1], b"\x00" * 1000)):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data)
        answer = verify(path)
        assert (answer.code, answer.err) == (1, "")
    assert verify(tmp_path / "nothing.zip").code == 1


def rehash_if_possible(folder: Path) -> None:
    try:
        rehash(folder)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return


def test_hostile_names_in_a_pack_are_printed_harmlessly_and_read_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    contents = json.loads((folder / "contents.json").read_text())
    contents["files"] |= {"../secret": "0" * 64, "/etc/passwd": "0" * 64, "\x1b[2J\ud800": "0" * 64}
    (folder / "contents.json").write_text(json.dumps(contents))
    answer = verify(folder)
    assert answer.code == 1
    assert answer.err == ""
    assert "\x1b" not in answer.out
    assert "is missing" in answer.faults["files"]


def test_random_damage_to_a_zip_never_ends_in_a_traceback(pack: Path, tmp_path: Path) -> None:
    rng, whole = random.Random(3), pack.read_bytes()
    path = tmp_path / "damaged.zip"
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data))
        faults(path)  # may be harmless, as in a date of the zip's own directory; must not raise


# --- writing


def test_names_that_would_lie_outside_or_are_taken_are_refused(tmp_path: Path, chain: Chain) -> None:
    with new_pack(tmp_path / "pack.zip") as pack:
        pack.add("versions.json", "{}")
        for name in ("../up", "/etc/passwd", "a//b", "", "C:\\x", "versions.json", "a/../b"):
            with pytest.raises(ValueError, match="cannot be added"):
                pack.add(name, "x")
        pack.sign({}, chain.keys.load("key-3"))
        with pytest.raises(ValueError, match="sign last"):
            pack.add("late.txt", "x")


def test_a_pack_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power"), new_pack(tmp_path / "pack.zip") as pack:
        pack.add("versions.json", "{}")
        raise RuntimeError("power")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [HOSTILE, "..", ".", "", "Inspector", "con/aux", "ä", "x" * 500, "a\nb"])
def test_any_text_gives_a_harmless_name(text: str) -> None:
    name = file_name(text)
    assert name == name.lower()
    assert 0 < len(name) < 120
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not name.startswith(".")
    assert name not in {file_name(other) for other in ("inspector", "con_aux", "_", "x" * 80, "a_b")}


# --- pages


def hostile_version() -> VersionFacts:
    html = "<img src=x onerror=alert(1)>"
    tags = {"verdict": html, "num_images": json.dumps({html: {"train": 1}}), html: html}
    return VersionFacts(html, "1", "2026-07-01T00:00:00+00:00", (html,), tags, {"encoder.name": html}, {}, None)


def test_html_in_names_notes_and_tags_is_text_on_every_page(chain: Chain) -> None:
    version, html = hostile_version(), "<img src=x onerror=alert(1)>"
    card = render_card(Card(version, (CardClass(html, {"train": 1}, None, None),)))
    entry = replace(next(chain.entries(kinds=[EntryKind.BACKUP])), by=html, subject=html, body=json.dumps({html: html}))
    facts = ChainFacts(1, 2, {"number": 2, "hash": html}, html, (html,), {html: 1})
    page = render_index(
        EvidenceReport(
            since="",
            until=START.isoformat(),
            made_by=html,
            made_at=html,
            chain=facts,
            versions=(version,),
            cards=frozenset({version.id}),
            events=(),
            words=(RecordedStatement(html, html, html, html, html),),
            agreement=(),
            reproductions=(),
            entries=(entry,),
        )
    )
    for text in (card, page):
        assert html not in text
        assert "&lt;img" in text
        assert "<script" not in text
        assert "default-src 'none'" in text


def test_a_card_of_which_nothing_is_at_hand_says_so() -> None:
    version = VersionFacts("inspector", "3", "2026-07-01T00:00:00+00:00", (), {}, {}, {}, None)
    assert card_classes(version) == {}
    page = render_card(Card(version, ()))
    for said in ("no verdict on record", "classes are not on record", "not at hand", "It was made for no class"):
        assert said in page
