"""Pairs on disk while the database is away: append-only JSON lines, replayed later. All workers share one folder.

    spool.append(pairs)             # on disk when it returns
    spool.replay(store.record)      # deletes what was recorded; a crash may repeat it, since recording is idempotent

`pairs.jsonl` grows; a replay renames it to a segment first, so that nothing is appended to what is being read.
Lines that cannot be read stay in `damaged-*.jsonl`, which nothing reads again: they are for people.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from shadowline.data.labels import Label
from shadowline.records.pair import ModelDecision, Pair, PairSource

Record = Callable[[Sequence[Pair]], int]

_GROWING, _SEGMENTS, _LOCK = "pairs.jsonl", "segment-*.jsonl", ".lock"
_LOCK_TIMEOUT_S = 10.0
_CHUNK = 500  # pairs per transaction of a replay


class Spool:
    """One folder; safe for several threads and processes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self._max_bytes = folder, max_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes that wait for the database."""
        total = 0
        for path in self._files():
            with suppress(FileNotFoundError):  # another worker has just replayed it
                total += path.stat().st_size
        return total

    def append(self, pairs: Sequence[Pair]) -> None:
        """Raises OSError where the disk or the bound is full; then none of these pairs is kept."""
        data = b"".join(pair_to_line(pair) for pair in pairs)
        if self.num_bytes + len(data) > self._max_bytes:
            raise OSError(f"{self.folder}: {self._max_bytes} bytes of pairs already; raise gateway.max_spool_mb")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            _append_durably(self.folder / _GROWING, data)

    def replay(self, record: Record) -> int:
        """Give all pairs to `record`, and delete what it took; returns how many damaged lines were put aside.

        Raises what `record` raises; the rest is kept for the next time.
        """
        if not self._files():
            return 0
        with self._locked():
            growing = self.folder / _GROWING
            if growing.is_file():
                growing.rename(self.folder / f"segment-{uuid.uuid4().hex}.jsonl")
        return sum(_replay_segment(path, record) for path in self._files() if path.name != _GROWING)

    def _files(self) -> list[Path]:
        paths = (*self.folder.glob(_GROWING), *self.folder.glob(_SEGMENTS))
        return [path for path in paths if path.is_file()]

    def _locked(self) -> FileLock:
        return FileLock(self.folder / _LOCK, timeout=_LOCK_TIMEOUT_S)


def _append_durably(path: Path, data: bytes) -> None:
    """Append all of the data and sync it to the disk, or append nothing and raise OSError."""
    is_new = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            _write_all(file.fileno(), data if before == 0 or _ends_a_line(path) else b"\n" + data)
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise
    if is_new:
        _sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _ends_a_line(path: Path) -> bool:
    """Whether the file ends with a whole line; a process that was killed may have left half a line."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replay_segment(path: Path, record: Record) -> int:
    damaged: list[bytes] = []
    try:
        with path.open("rb") as lines:
            pairs = _read_pairs(lines, damaged)
            while chunk := list(islice(pairs, _CHUNK)):
                record(chunk)
    except FileNotFoundError:  # another worker was faster
        return 0
    if damaged:
        path.with_name(f"damaged-{path.name}").write_bytes(b"".join(damaged))
    path.unlink(missing_ok=True)
    return len(damaged)


def _read_pairs(lines: Iterator[bytes], damaged: list[bytes]) -> Iterator[Pair]:
    for line in lines:
        try:
            yield pair_from_line(line)
        except (ValueError, KeyError, TypeError):
            damaged.append(line)


def pair_to_line(pair: Pair) -> bytes:
    raw = {**asdict(pair), "captured_at": pair.captured_at.isoformat()}
    if pair.received_at is not None:
        raw["received_at"] = pair.received_at.isoformat()
    if pair.frame_signature is not None:
        raw["frame_signature"] = base64.b64encode(pair.frame_signature).decode()
    return json.dumps(raw, allow_nan=False).encode() + b"\n"


def pair_from_line(line: bytes) -> Pair:
    """Raises ValueError, KeyError or TypeError for a line that is not what `pair_to_line` wrote.

    A line of an earlier version has no time of receipt; the time of its recording is used.
    """
    raw: dict[str, Any] = json.loads(line)
    raw["captured_at"] = datetime.fromisoformat(raw["captured_at"])
    if raw.get("received_at") is not None:
        raw["received_at"] = datetime.fromisoformat(raw["received_at"])
    if raw.get("frame_signature") is not None:
        raw["frame_signature"] = base64.b64decode(raw["frame_signature"], validate=True)
    raw["source"] = PairSource(raw.get("source", PairSource.LINE))
    raw["known_label"] = Label(raw["known_label"]) if raw.get("known_label") else None
    for side in ("candidate_said", "legacy_said"):
        raw[side] = None if raw[side] is None else ModelDecision(**raw[side])
    return Pair(**raw)
