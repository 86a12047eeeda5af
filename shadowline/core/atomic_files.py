"""Atomic writes: a file has either its old or its new content, never a part of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on an error it is removed.

    The name is always the same, so that what a kill leaves behind is overwritten by the next attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Where `replace_file` writes before the new file takes its place; a kill leaves it behind."""
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def replace_private_file(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """`replace_file`, opened for writing, and with its mode from the first byte on."""
    with replace_file(path) as temporary:
        temporary.unlink(missing_ok=True)  # what a kill left behind
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file


def write_json(path: Path, value: Any) -> None:
    """Sorted, indented JSON with a final newline: equal values give equal bytes. NaN is refused with ValueError."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replace_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote, or any other JSON file in UTF-8. Raises ValueError, with the path, for another file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); restore the file") from error


def copy_file(source: Path, target: Path) -> None:
    """Copy the content alone; an existing target is replaced in one step."""
    with replace_file(target) as temporary:
        shutil.copyfile(source, temporary)


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """A hard link, or a copy with the same mode and times where the file system has none; the folder is made.

    Raises FileExistsError where `target` is there already. Both names share their bytes: only for files that are
    replaced and never written into.
    """
    place = Path(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(source, place)
