"""Evidence packs that tests make: a chain in a real database, records beside it, a real model store, and attackers.

plant = Plant.found(folder, url)       # a chain with a rotated key, registrations, a reproduction, pairs, moves
pack = plant.export(folder / "pack.zip")
answer = verify(pack)                  # the verifier of the pack, in a process of its own
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shadowline.audit.pack import VERIFIER, new_pack, to_json
from shadowline.core.progress import Progress
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.chain_range import Period, Stretch, place, to_line
from shadowline.records.audit_log.entry import Entry, Kind, Record
from shadowline.records.audit_log.keys import Key, KeyFolder
from shadowline.records.database import open_database

START = datetime(2026, 7, 1, tzinfo=UTC)
FINGERPRINT = {"inspector/1": "a" * 64, "inspector/2": "b" * 64}
COMMIT = {"inspector/1": "c" * 40, "inspector/2": "d" * 40}
RESULT = json.dumps({"version": "models:/inspector/1", "finding": "identical"})

# Refuses what is neither of the standard library nor of `cryptography` and what that needs, then runs the script.
_ALONE = """
import runpy, sys
class Door:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {"cryptography", "cffi", "_cffi_backend"}:
            raise ImportError(f"{name} is none of the verifier's business")
sys.meta_path.insert(0, Door())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def build_chain(folder: Path, url: str) -> Chain:
    """Eleven entries, an entry a day: keys at 1, 4 and 8, registrations at 3 and 6, a reproduction at 7."""
    chain = Chain(open_database(url), KeyFolder(folder / "keys"))

    def say(kind: Kind, subject: str, body: Mapping[str, Any], at: float) -> None:
        chain.append(Record(kind, subject, body, "Ada", day(at)))

    say(Kind.ENROLMENT, "bolt", {"phase": "zero_shot"}, 0)
    say(Kind.REGISTRATION, "models:/inspector/1", registration("inspector/1"), 1)
    chain.rotate("key-2", "Ada")
    say(Kind.ENROLMENT, "nut", {"phase": "zero_shot"}, 3)
    say(Kind.REGISTRATION, "models:/inspector/2", registration("inspector/2"), 4)
    say(Kind.REPRODUCTION, "models:/inspector/1", reproduction(), 5)
    chain.rotate("key-3", "Bob")
    say(Kind.PROMOTION, "inspector", {"version": "2", "replaces": "1"}, 7)
    say(Kind.BACKUP, "nightly", {"num_files": 12}, 8)
    say(Kind.DELETION, "bolt", {"archive": "file:///archive/bolt.zip"}, 9)
    return chain


def registration(version: str) -> dict[str, Any]:
    return {"fingerprint": FINGERPRINT[version], "git_commit": COMMIT[version], "verdict": "passed"}


def reproduction() -> dict[str, Any]:
    digest = hashlib.sha256(RESULT.encode()).hexdigest()
    file = "data/audit/reproductions/inspector-1.json"
    return {"finding": "identical", "result": file, "result_sha256": digest}


def pack_chain(chain: Chain, period: Period, target: Path) -> Path:
    """A pack by the library alone: the chain's files, the versions and results that its entries speak of."""
    stretch = Stretch.of(chain, period)
    keys = stretch.keys()
    versions = {name: {"tags": registration(name)} for name in FINGERPRINT}
    with new_pack(target) as pack:
        pack.add_lines("chain.jsonl", stretch.lines(Progress()))
        pack.add_lines("keys.jsonl", map(to_line, keys))
        pack.add("anchor.json", to_json(stretch.before.to_dict() if stretch.before else place(None)))
        pack.add("versions.json", to_json(versions))
        pack.add("reproductions/inspector-1.json", RESULT)
        pack.add("index.html", "<p>evidence</p>")
        facts = {"head": place(stretch.head), "last": place(stretch.end), "until": period.until.isoformat()}
        since = period.since.isoformat() if period.since else ""
        pack.sign(
            {**facts, "since": since, "registered_after": stretch.registered_after()},
            chain.keys.load(keys[-1].subject),
        )
    return target


def unpack(pack: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(folder)
    return folder


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def faults(self) -> dict[str, str]:
        """Check → what it found wrong."""
        lines = [line.removeprefix("FAILED").strip() for line in self.out.splitlines() if line.startswith("FAILED")]
        return {name: reason.strip() for name, _, reason in (line.partition(":") for line in lines)}


def verify(pack: Path, *options: str, script: Path = VERIFIER) -> Answer:
    """The verifier in a process of its own that can import nothing else."""
    command = [sys.executable, "-I", "-c", _ALONE, str(script), str(pack), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


def rehash(folder: Path, signer: Key | None = None, **facts: Any) -> None:
    """What one does who knows how a pack is made: contents.json fits again; with a key, so does its signature."""
    contents = json.loads((folder / "contents.json").read_text())
    own = {"contents.json", "contents.sig"}
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in own]
    files = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    text = to_json({**contents, **facts, "files": files})
    (folder / "contents.json").write_text(text)
    if signer:
        signature = {"key": signer.name, "signature": signer.sign(text.encode()).hex()}
        (folder / "contents.sig").write_text(to_json(signature))


def edit_lines(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Rewrite a file of entries."""
    entries = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))


def as_entry(raw: Mapping[str, Any]) -> Entry:
    return Entry(**raw)
