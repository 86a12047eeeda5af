"""The manifest of a backup: manifest.json, written last. A folder without it is not a backup.

manifest = read_backup_manifest(folder)         # ValueError for an incomplete backup
check_files(folder, manifest, progress)         # ValueError for a missing or changed file

<time>/manifest.json
<time>/records.db  tracking.db                  or .dump: PostgreSQL's own format
<time>/repository.bundle                        all of git
<time>/keys/…                                   the audit log's, and the entry that it ended with
<time>/artifacts/<experiment>/…                 what MLflow keeps beside its database
<time>/models/<fingerprint>/…                   models that the records name by their folder
<time>/objects/<xx>/<…>                         what DVC keeps, by md5
<time>/folders/<name>/…                         archive, inspected images, inbox, additions, decisions, reproductions, …
<time>/project/…                                files of the project that neither git nor DVC keeps
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from shadowline.core.hashing import file_sha256
from shadowline.core.progress import Progress
from shadowline.records.audit_log.keys import ChainHead

MANIFEST = "manifest.json"
_FORMAT = 1


class DatabaseKind(StrEnum):
    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@dataclass(frozen=True)
class BackedUpFile:
    """One file of a backup."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class DatabaseDump:
    kind: DatabaseKind
    file: str  # in the backup
    place: str  # of an SQLite file, in the project


@dataclass(frozen=True)
class BackupManifest:
    """All that a restore needs to know. Places are relative to the project's root."""

    made_at: str  # UTC, ISO 8601
    versions: Mapping[str, str]  # of Shadowline, Python, MLflow, DVC
    branch: str  # checked out; the commit itself where none was
    commit: str
    records: DatabaseDump
    tracking: DatabaseDump
    head: ChainHead | None  # the last entry of the audit log in the records; None: it has none yet
    inspector: str  # models:/… of the champion, else of the challenger, else of the newest; "" where there is none
    registered: tuple[str, ...]  # models:/… of every version
    experiments: Mapping[str, str]  # id → where its files were; only those whose files are in the backup
    models: Mapping[str, str]  # fingerprint → the folder that the records name
    folders: Mapping[str, str]  # name → place
    keys: str  # place
    remote: str  # place of DVC's remote, "" where it is no folder of the project
    left_out: tuple[str, ...]  # what is not here, and where it is
    problems: tuple[str, ...]  # references between the parts that do not resolve
    files: Mapping[str, BackedUpFile]  # path in the backup

    @property
    def num_bytes(self) -> int:
        return sum(kept.num_bytes for kept in self.files.values())

    def to_text(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> BackupManifest:
        """Raises ValueError, TypeError, KeyError or AttributeError for text that is not a manifest."""
        raw: dict[str, Any] = json.loads(text)
        if raw.pop("format") != _FORMAT:
            raise ValueError(f"another format than {_FORMAT}")
        for name in ("records", "tracking"):
            raw[name] = DatabaseDump(**{**raw[name], "kind": DatabaseKind(raw[name]["kind"])})
        for name in ("registered", "left_out", "problems"):
            raw[name] = tuple(raw[name])
        raw["head"] = ChainHead(**raw["head"]) if raw["head"] else None
        raw["files"] = {name: BackedUpFile(**kept) for name, kept in raw["files"].items()}
        return cls(**raw)


def read_backup_manifest(folder: Path) -> BackupManifest:
    """Raises ValueError where the backup was never completed, or its manifest is invalid."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder}: no {MANIFEST}, so no complete backup; name another one")
    try:
        manifest = BackupManifest.from_text(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not the manifest of a backup ({error}); name another one") from None
    if outside := names_outside(manifest):
        raise ValueError(f"{path}: {outside[:3]} would lie outside of the project; do not trust this backup")
    return manifest


def check_files(folder: Path, manifest: BackupManifest, progress: Progress) -> None:
    """Raises ValueError with the first file that is missing or has changed."""
    with progress.task("verify", total=len(manifest.files)) as task:
        for name, kept in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise ValueError(f"{path}: not there, the manifest names it; name another backup")
            if path.stat().st_size != kept.num_bytes or file_sha256(path) != kept.sha256:
                raise ValueError(f"{path}: not what was kept, {kept.sha256[:12]}…; name another backup")
            task.advance()


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def names_outside(manifest: BackupManifest) -> list[str]:
    """The files and places that are not below the project's root: a restore writes nowhere else."""
    databases = (manifest.records, manifest.tracking)
    names = [*manifest.files, *manifest.folders.values(), manifest.keys, *(database.place for database in databases)]
    names += [*manifest.experiments, *manifest.models, *(database.file for database in databases)]
    return [name for name in (*names, *filter(None, [manifest.remote])) if not _is_below(name)]


def _is_below(name: str) -> bool:
    """Allows any POSIX name, also with `:` and `\\`, which trace ids and image names may hold."""
    return "\0" not in name and not any(part in {"", ".", ".."} for part in name.split("/"))
