"""Where backups lie: folders side by side, or an S3 bucket in which equal files are kept once.

    place = new_place("/mnt/backup", now)           # or s3://bucket/prefix
    place.keep(path, "records.db")                  # → BackedUpFile
    place.finish(manifest)                          # last: from here on it is a backup
    with local_copy("/mnt/backup/20260105T060000Z") as folder: …

In a folder, a file equal to a file of this backup or of the backup before is a hard link to it. In S3 a file lies under
its own hash, objects/<sha256>, and the manifests of all backups refer to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from shadowline.core.atomic_files import replace_private_file
from shadowline.core.hashing import file_sha256
from shadowline.core.progress import Progress
from shadowline.core.secrets import mask
from tasks.backup.manifest import MANIFEST, BackedUpFile, BackupManifest, read_backup_manifest
from tasks.integrations.object_storage import FolderStorage, S3Storage, open_storage

log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700  # signing keys are among the files


class BackupTarget(Protocol):
    """One backup that is being written."""

    @property
    def location(self) -> str: ...
    @property
    def num_new_bytes(self) -> int:
        """Bytes that the target did not have."""

    def keep(self, path: Path, name: str) -> BackedUpFile:
        """Raises FileNotFoundError for a file that is gone."""

    def finish(self, manifest: BackupManifest) -> None: ...


def new_place(target: str, at: datetime) -> BackupTarget:
    """A new backup named for its time, below a folder or an s3:// prefix."""
    name = f"{at:%Y%m%dT%H%M%SZ}"
    if target.startswith("s3://"):
        return S3Place(_s3(target), target.rstrip("/"), name)
    return FolderPlace.begin(Path(target.removeprefix("file://")).resolve(), name)


@contextmanager
def local_copy(backup: str, scratch: Path, progress: Progress) -> Iterator[Path]:
    """The backup as a folder; a backup in S3 is fetched into a temporary folder below `scratch`."""
    if not backup.startswith("s3://"):
        yield _existing(Path(backup.removeprefix("file://")))
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".backup-") as fetched:
        _fetch(backup.rstrip("/"), Path(fetched), progress)
        yield Path(fetched)


@contextmanager
def one_line_errors(way_out: str) -> Iterator[None]:
    """Turn an OSError, such as a full disk, into a ValueError of one line; FileNotFoundError passes unchanged."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise ValueError(mask(f"{message}; {way_out}")) from None


# --- folders --------------------------------------------------------------------------------------------------------


@dataclass
class FolderPlace:
    folder: Path
    _known: dict[str, Path]  # sha256 → a file of this backup or the one before
    _sound: set[str] = field(default_factory=set)  # sha256 of the known files that were verified
    num_new_bytes: int = 0

    @classmethod
    def begin(cls, target: Path, name: str) -> FolderPlace:
        files = _files_of(newest(target))
        try:
            (target / name).mkdir(parents=True, mode=_PRIVATE_FOLDER)
        except FileExistsError:
            raise ValueError(f"{target / name}: is there already; another backup began in this second") from None
        return cls(target / name, files)

    @property
    def location(self) -> str:
        return str(self.folder)

    def keep(self, path: Path, name: str) -> BackedUpFile:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
        sha256 = file_sha256(path)
        if not self._link(sha256, target):
            sha256 = _copy(path, target)
            self.num_new_bytes += target.stat().st_size
            self._known[sha256] = target
            self._sound.add(sha256)
        return BackedUpFile(sha256, target.stat().st_size)

    def finish(self, manifest: BackupManifest) -> None:
        os.sync()  # a manifest on the disk must not outlive the files that it names
        with replace_private_file(self.folder / MANIFEST) as file:
            file.write(manifest.to_text().encode())
            file.flush()
            os.fsync(file.fileno())

    def _link(self, sha256: str, target: Path) -> bool:
        """Link a known file with this hash, if there is one; verified first, so that no backup inherits damage."""
        source = self._known.get(sha256)
        if source is None:
            return False
        try:
            if sha256 not in self._sound and file_sha256(source) != sha256:
                return False
            os.link(source, target)
        except OSError:  # the file is gone, is unreadable or has too many links, or the file system has no links
            return False
        self._sound.add(sha256)
        return True


def newest(target: Path) -> Path | None:
    """The last complete backup below a folder."""
    backups = sorted(path.parent for path in target.glob(f"*/{MANIFEST}"))
    return backups[-1] if backups else None


def _files_of(backup: Path | None) -> dict[str, Path]:
    """sha256 → file; empty where the manifest cannot be read, since links only save space."""
    if backup is None:
        return {}
    try:
        return {kept.sha256: backup / name for name, kept in read_backup_manifest(backup).files.items()}
    except (OSError, ValueError) as error:
        log.warning("backup: %s; every file is copied", error)
        return {}


def _existing(folder: Path) -> Path:
    """Raises FileNotFoundError for a missing backup, and ValueError, naming a complete one, for an incomplete one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such backup; name the folder that `shadowline backup` wrote")
    if (folder / MANIFEST).is_file():
        return folder
    complete = newest(folder) or newest(folder.parent)
    way_out = f"the newest complete one is {complete}" if complete else "none is beside it"
    raise ValueError(f"{folder}: no {MANIFEST}, so no complete backup; {way_out}")


def _copy(path: Path, target: Path) -> str:
    """Returns the sha256 of what was written."""
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    with path.open("rb") as source, os.fdopen(descriptor, "wb") as out:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


# --- S3 -------------------------------------------------------------------------------------------------------------


@dataclass
class S3Place:
    storage: S3Storage
    target: str
    name: str
    num_new_bytes: int = 0

    @property
    def location(self) -> str:
        return f"{self.target}/{self.name}"

    def keep(self, path: Path, name: str) -> BackedUpFile:
        sha256, num_bytes = file_sha256(path), path.stat().st_size
        existing = self.storage.find(_object(sha256))
        if existing is None or (existing.sha256, existing.num_bytes) != (sha256, num_bytes):
            stored = self.storage.put(path, _object(sha256))
            self.num_new_bytes += stored.num_bytes
            if stored.sha256 != sha256:
                raise ValueError(f"{path}: changed while it was kept; run the backup again")
        return BackedUpFile(sha256, num_bytes)

    def finish(self, manifest: BackupManifest) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / MANIFEST
            path.write_text(manifest.to_text(), encoding="utf-8")
            self.storage.put(path, f"{self.name}/{MANIFEST}")


def _fetch(backup: str, folder: Path, progress: Progress) -> None:
    """Raises ValueError for a backup that was never completed, or of which an object has changed."""
    target, _, name = backup.rpartition("/")
    storage = _s3(target)
    if storage.find(f"{name}/{MANIFEST}") is None:
        raise ValueError(f"{backup}: no {MANIFEST}, so no complete backup; name another one")
    storage.get(f"{name}/{MANIFEST}", folder / MANIFEST)
    files = read_backup_manifest(folder).files
    with progress.task("fetch", total=len(files)) as task:
        for path, kept in files.items():
            try:
                storage.get(_object(kept.sha256), folder / path)
            except FileNotFoundError as error:
                raise ValueError(f"{backup}: {path} is not there ({error})") from None
            task.advance()


def _object(sha256: str) -> str:
    return f"objects/{sha256}"


def _s3(target: str) -> S3Storage:
    storage = open_storage(target)
    assert not isinstance(storage, FolderStorage)  # of an s3:// location it never is
    return storage
