"""Pack a model's directory into one file: the same files give the same bytes on every machine.

    pack(directory, path, "bolt", fingerprint)      # → sha256 of the archive
    unpack(path, folder)                            # → ArchiveContents, every file verified

A zip, stored and not compressed (compression differs between machines), with contents.json first: class,
fingerprint, and the sha256 of each file.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from shadowline.core.atomic_files import replace_file
from shadowline.core.hashing import file_sha256
from shadowline.models.external.pyfunc import parts

CONTENTS = "contents.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class ArchiveContents:
    """The contents.json of an archive."""

    class_name: str
    fingerprint: str
    files: dict[str, str]  # path in the model's directory → sha256


def pack(directory: Path, target: Path, class_name: str, fingerprint: str) -> str:
    """Write the archive; returns its sha256. Raises ValueError for a directory without files."""
    files = {path.relative_to(directory).as_posix(): path for path in parts(directory)}
    if not files:
        raise ValueError(f"{directory}: no files to archive; name a model's directory")
    contents = ArchiveContents(class_name, fingerprint, {name: file_sha256(path) for name, path in files.items()})
    with replace_file(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(zip_entry(CONTENTS), json.dumps(asdict(contents), indent=2, sort_keys=True) + "\n")
        for name, path in files.items():
            with path.open("rb") as source, archive.open(zip_entry(f"model/{name}"), "w", force_zip64=True) as out:
                shutil.copyfileobj(source, out, _CHUNK)
    return file_sha256(target)


def unpack(path: Path, folder: Path) -> ArchiveContents:
    """Write the model's files into `folder`, which must be empty or missing; returns the archive's contents.json.

    Raises ValueError for a file that is damaged, missing, not declared, or would lie outside `folder`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: not empty; name a new folder to restore into")
    try:
        with zipfile.ZipFile(path) as archive:
            contents = ArchiveContents(**json.loads(archive.read(CONTENTS)))
            _check_names(path, archive, contents)
            for name in contents.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(f"model/{name}") as source, (folder / name).open("wb") as out:
                    shutil.copyfileobj(source, out, _CHUNK)
    except (zipfile.BadZipFile, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not an archive of a model, or a damaged one ({error})") from None
    damaged = [name for name, sha256 in contents.files.items() if file_sha256(folder / name) != sha256]
    if damaged:
        raise ValueError(f"{path}: {damaged} differ from what was archived; fetch the archive again")
    return contents


def zip_entry(name: str) -> zipfile.ZipInfo:
    """An entry without the time and platform of packing; stored uncompressed, unless the caller changes that."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, wherever it is packed
    return entry


def _check_names(path: Path, archive: zipfile.ZipFile, contents: ArchiveContents) -> None:
    outside = [name for name in contents.files if not is_inside(name)]
    if outside:
        raise ValueError(f"{path}: {outside} would lie outside of the model's folder; do not trust this archive")
    undeclared = set(archive.namelist()) ^ {CONTENTS, *(f"model/{name}" for name in contents.files)}
    if undeclared:
        raise ValueError(f"{path}: {sorted(undeclared)} are not both declared and there; fetch the archive again")


def is_inside(name: str) -> bool:
    """Whether a relative path stays inside its folder: no root, no drive, no `..`, no empty part."""
    plain = bool(name) and "\\" not in name and "\0" not in name and ":" not in name
    return (
        plain and all(part not in {"", ".", ".."} for part in name.split("/")) and not PurePosixPath(name).is_absolute()
    )
