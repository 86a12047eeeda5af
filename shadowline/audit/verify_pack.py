"""Verifies an evidence pack, offline: `python verify.py [PACK.zip | FOLDER] [--root PUBLICHEX]`.

Without a path it verifies the folder that it lies in. It needs Python 3.11 and the package `cryptography`, nothing
else, prints one line for each check, and ends with 0 where all hold, with 1 otherwise:

    files          every file has the sha256 that contents.json states; none is missing, none was added
    keys           the first key is introduced by the first entry of the chain, each later one by the key before it
    signature      contents.sig is made over contents.json with the newest key
    chain          chain.jsonl follows anchor.json, entry after entry, by the rules in `hold`
    versions       versions that the chain registers or reproduces are in versions.json, with the same hashes
    reproductions  the results that the chain names are in the pack, with the hashes that it states
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    sys.exit("verify.py needs the package `cryptography`: pip install cryptography")

SIGNED = ("number", "at", "by", "kind", "subject", "body", "previous", "key")
FIELDS = {*SIGNED, "hash", "signature"}
BEGINNING = {"number": 0, "hash": "0" * 64}
LATEST = (  # another registration may change them
    "git_commit", "dvc_lock_sha256", "params_hash", "encoder_fingerprint", "encoder_source_sha256", "files_sha256",
    "environment", "verdict", "results_run", "class_fingerprints",
)  # fmt: skip
METRICS = ("test/", "gate/")  # beginnings of the names of the numbers that a registration signs
MAX_LINE = 1 << 24  # bytes; no entry is as long
GARBAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Fault(Exception):  # noqa: N818 - of the pack, not of this program
    """What is wrong, as text."""


class Pack:
    """Each check returns what it found or raises Fault; later checks use the results of earlier ones."""

    def __init__(self, path: Path, root: str) -> None:
        self.folder, self.zip = path, None if path.is_dir() else zipfile.ZipFile(path)
        self.root = root
        self.publics: dict[str, str] = {}  # name of a key → its public half, hex; the newest last
        self.introduced: dict[int, Any] = {}  # number of an entry → that entry, which introduces a key
        self.registered: list[tuple[int, str, Any]] = []  # number of an entry, version, body
        self.hashes: dict[int, str] = {}  # of these entries, by number
        self.reproduced: list[tuple[int, str, Any]] = []  # likewise

    def open(self, name: str) -> IO[bytes]:
        return self.zip.open(name) if self.zip else (self.folder / name).open("rb")

    def json(self, name: str) -> Any:
        with self.open(name) as file:
            return json.load(file)

    def files(self) -> str:
        listed, there = self.json("contents.json")["files"], Counter(self.names())
        for name in sorted({*listed, *there, "contents.json", "contents.sig"}):
            if there[name] != 1:
                raise Fault(f"{name!a} is missing" if not there[name] else f"{name!a} is there twice")
            if name not in {*listed, "contents.json", "contents.sig"}:
                raise Fault(f"{name!a} was added: contents.json does not list it")
            if name in listed and self.sha256(name) != listed[name]:
                raise Fault(f"{name!a} was changed: its sha256 is not the one in contents.json")
        return f"all {len(listed)} are as contents.json lists them"

    def names(self) -> Iterator[str]:
        if self.zip:
            yield from (member.filename for member in self.zip.infolist() if not member.is_dir())
            return
        for path in self.folder.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise Fault(f"{path.name!a} is neither a file nor a folder")
            if path.is_file():
                yield path.relative_to(self.folder).as_posix()

    def sha256(self, name: str) -> str:
        try:
            with self.open(name) as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except GARBAGE as error:
            raise Fault(f"{name!a} cannot be read: {str(error)!a}") from None
        return digest.hexdigest()

    def keys(self) -> str:
        for entry in self.entries("keys.jsonl"):
            number, name, public = entry["number"], entry["subject"], json.loads(entry["body"])["public_key"]
            if entry["kind"] != "key" or name in self.publics or number <= max(self.introduced, default=0):
                raise Fault(f"keys.jsonl: entry {number} introduces no new key")
            if not self.publics and (number, entry["previous"]) != (1, BEGINNING["hash"]):
                raise Fault("keys.jsonl does not begin with the first entry of the chain")
            if not self.publics:
                self.publics[name] = public  # the first key signs its own entry
            self.hold(entry)
            self.publics[name], self.introduced[number] = public, entry
        first = next(iter(self.publics.values()), None)
        if first is None or (self.root and first != self.root.lower()):
            raise Fault(f"the first key is {first!a}, and not the one of --root")
        names = f"{', '.join(map(ascii, self.publics))}, followed from the first one"
        if self.root:
            return f"{names}, which is the one of --root"
        return (
            f"{names}, {first!a};\n        whose that is, a pack cannot tell: compare it by other means, or give --root"
        )

    def signature(self) -> str:
        signed, newest = self.json("contents.sig"), next(reversed(self.publics), "")
        if signed["key"] != newest:
            raise Fault(f"contents.json is signed with key {signed['key']!a}, where {newest!a} has to sign")
        with self.open("contents.json") as file:
            if not is_signed(file.read(), signed["signature"], self.publics[newest]):
                raise Fault(f"contents.json was changed: contents.sig is no signature of it by key {newest!a}")
        return f"contents.json is signed with key {newest!a}"

    def chain(self) -> str:
        last, contents = self.json("anchor.json"), self.json("contents.json")
        if last != BEGINNING:
            self.hold(checked(last, "anchor.json"))
            if is_within(last["at"], contents):
                raise Fault(f"entry {last['number']} is of the period, and chain.jsonl begins after it")
        first = last["number"] + 1
        for entry in self.entries("chain.jsonl"):
            due, number = last["number"] + 1, entry["number"]
            if number != due:
                raise Fault(f"entry {due} is missing; entry {number} stands in its place")
            if entry["previous"] != last["hash"]:
                raise Fault(f"entry {number} does not follow the entry before it")
            self.hold(entry)
            if self.introduced.get(number) != (entry if entry["kind"] == "key" else None):
                raise Fault(f"entry {number} is not the same in keys.jsonl")
            if entry["kind"] == "registration":
                self.registered.append((number, entry["subject"].removeprefix("models:/"), json.loads(entry["body"])))
                self.hashes[number] = entry["hash"]
            if entry["kind"] == "reproduction":
                self.reproduced.append((number, entry["subject"].removeprefix("models:/"), json.loads(entry["body"])))
            last = entry
        if contents["last"] != {"number": last["number"], "hash": last["hash"]}:
            raise Fault(f"chain.jsonl ends with entry {last['number']}, and contents.json names another end")
        return f"entries {first} to {last['number']} hold" if last["number"] >= first else "no entry in this period"

    def hold(self, entry: Any) -> None:
        """Check one entry: its hash, its key, its signature.

        Its hash is the sha256 of its first eight fields as a JSON list without blanks. It is signed over the 32 bytes
        of the hash, with the key that was introduced last before it; the first entry introduces its own. An entry of
        kind `key` introduces the next one.
        """
        if not self.publics:
            raise Fault("no key is known that could have signed it")
        number, before = entry["number"], sum(key_number < entry["number"] for key_number in self.introduced)
        signer = [*self.publics][max(before, 1) - 1]
        text = json.dumps([entry[name] for name in SIGNED], separators=(",", ":"))
        if entry["hash"] != hashlib.sha256(text.encode()).hexdigest():
            raise Fault(f"entry {number} was edited: its hash is not that of its content")
        if entry["key"] != signer:
            raise Fault(f"entry {number} is signed with key {entry['key']!a}, where {signer!a} has to sign")
        if not is_signed(bytes.fromhex(entry["hash"]), entry["signature"], self.publics[signer]):
            raise Fault(f"entry {number}: its signature is not one of key {signer!a}")

    def versions(self) -> str:
        contents, packed = self.json("contents.json"), self.json("versions.json")
        latest = {version: number for number, version, _ in self.registered}
        for version, details in packed.items():
            self.witness(version, details["tags"].get("audit_entry", "0:"), contents["head"]["number"])
        for number, version, body in self.registered:
            if version not in packed:
                raise Fault(f"version {version!a}, registered by entry {number}, is not in versions.json")
            is_now = version not in contents["registered_after"] and latest[version] == number
            for name in ("fingerprint", *(LATEST if is_now else ())):
                stated = json.dumps(body[name], sort_keys=True) if isinstance(body.get(name), dict) else body.get(name)
                if name in body and stated != packed[version]["tags"].get(name):
                    raise Fault(f"version {version!a}: its {name} is not the one of entry {number}")
            if is_now and "metrics" in body:
                self.metrics(version, number, body["metrics"], packed[version]["metrics"])
        for number, version, _ in self.reproduced:
            if version not in packed:
                raise Fault(f"version {version!a}, made again by entry {number}, is not in versions.json")
        return f"{len(latest)} registered in this period, {len(packed)} in the pack"

    def metrics(self, version: str, number: int, signed: Any, found: Any) -> None:
        """Check that the numbers of a version's results are the signed ones, all of them and no others."""
        numbers = {name: value for name, value in found.items() if name.startswith(METRICS)}
        for name in sorted({*signed, *numbers}):
            if signed.get(name) != numbers.get(name):
                raise Fault(
                    f"version {version!a}: metric {name!a} is {numbers.get(name)!a}, "
                    f"and entry {number} signs {signed.get(name)!a}"
                )

    def witness(self, version: str, tag: str, end: int) -> None:
        """Check the tag of a version that names number and hash of its registration entry."""
        number, _, digest = tag.partition(":")
        if int(number) > end:
            raise Fault(f"version {version!a} knows of entry {number}, and the chain ends with entry {end}")
        if self.hashes.get(int(number), digest) != digest:
            raise Fault(f"version {version!a} knows of another entry {number}")

    def reproductions(self) -> str:
        listed = self.json("contents.json")["files"]
        for number, _, body in self.reproduced:
            name = f"reproductions/{body['result'].rpartition('/')[2]}"
            if listed.get(name) != body["result_sha256"]:
                raise Fault(f"{name!a} is missing, or not what entry {number} states")
        return f"{len(self.reproduced)} in this period"

    def entries(self, name: str) -> Iterator[Any]:
        with self.open(name) as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                try:
                    entry = json.loads(line)
                except GARBAGE:
                    raise Fault(f"{name}, line {number}: is no JSON") from None
                yield checked(entry, f"{name}, line {number}")


def checked(entry: Any, where: str) -> Any:
    """The entry, where it has exactly the fields of one: a number, and nine texts; raises Fault otherwise."""
    if not isinstance(entry, dict) or set(entry) != FIELDS:
        raise Fault(f"{where}: has not the fields of an entry")
    if any(type(value) is not (int if name == "number" else str) for name, value in entry.items()):
        raise Fault(f"{where}: a field is of the wrong type")
    return entry


def is_within(at: str, contents: Any) -> bool:
    """Whether a time lies in the period that contents.json states; `since` is empty where it has no beginning."""
    moment, since = datetime.fromisoformat(at), contents["since"]
    is_late_enough = not since or datetime.fromisoformat(since) <= moment
    return is_late_enough and moment < datetime.fromisoformat(contents["until"])


def is_signed(data: bytes, signature: str, public: str) -> bool:
    """Whether the signature is the key's own, written in small hex digits."""
    try:
        raw = bytes.fromhex(signature)
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(raw, data)
    except (InvalidSignature, ValueError):
        return False
    return signature == raw.hex()


def verify(path: Path, root: str) -> int:
    """Print one line for each check; returns how many failed."""
    faults = 0
    for name, reason, holds in outcomes(path, root):
        faults += not holds
        print(f"ok      {name}: {reason}" if holds else f"FAILED  {name}: {reason}")
    print(f"{faults} of 6 checks failed: do not trust this pack." if faults else "All 6 checks hold.")
    return faults


def outcomes(path: Path, root: str) -> Iterator[tuple[str, str, bool]]:
    """Name, finding and success of each check."""
    try:
        pack = Pack(path, root)
    except GARBAGE as error:
        yield "pack", f"{str(path)!a} cannot be opened: {str(error)!a}", False
        return
    for check in (pack.files, pack.keys, pack.signature, pack.chain, pack.versions, pack.reproductions):
        try:
            yield check.__name__, check(), True
        except (Fault, *GARBAGE) as error:
            yield check.__name__, str(error) if isinstance(error, Fault) else f"not readable: {error!a}", False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Verify an evidence pack, offline.")
    parser.add_argument("path", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--root", default="", help="public half (hex) of the chain's first key, from whom you trust")
    chosen = parser.parse_args()
    sys.exit(1 if verify(chosen.path, chosen.root) else 0)
