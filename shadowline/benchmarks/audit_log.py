"""How fast the audit log grows and is verified, compared with the same rows without a chain: `shadowline bench audit`.

bench_audit(url, folder, num_writers=8, num_entries=1_000_000, default_progress())
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, delete, insert

from shadowline.core.progress import Progress
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.database import open_database
from shadowline.records.tables import AuditNoteRow

_APPENDS = 100  # of each writer, one transaction each
_BATCH = 1_000  # records that are noted in one transaction
_START = datetime(2026, 1, 5, tzinfo=UTC)

Put = Callable[[Chain, list[Record]], object]


@dataclass(frozen=True)
class AuditSpeed:
    """Records per second; `plain`: the same rows in a table without hashes, signatures and order."""

    database: str  # sqlite | postgresql
    num_writers: int
    num_entries: int  # that were verified
    appends_per_s: float  # of all writers at once, each record in a transaction of its own
    plain_appends_per_s: float
    batched_per_s: float  # of one writer, noted a thousand at a time and sealed
    plain_batched_per_s: float
    verify_s: float  # every hash, link and signature


def bench_audit(url: str, folder: Path, num_writers: int, num_entries: int, progress: Progress) -> AuditSpeed:
    """Fill the chain of an empty database, with keys in an empty folder, up to `num_entries`, and verify it.

    Raises ValueError for a database whose chain has begun.
    """
    engine = open_database(url)
    chain = Chain(engine, KeyFolder(folder))
    if next(chain.entries(), None) is not None:
        raise ValueError(f"database {engine.url.database}: its audit chain has begun; give an empty one")
    chain.rotate("bench", "bench")
    plain_appends = _all_at_once(_keep_plain, url, folder, num_writers)
    plain_batched = _filled(_keep_plain, chain, min(num_entries, 20 * _BATCH), Progress())
    _forget_plain(engine)
    appends = _all_at_once(_append, url, folder, num_writers)
    batched = _filled(_append, chain, max(_BATCH, num_entries - num_writers * _APPENDS - 1), progress)
    started = time.perf_counter()
    verification = chain.verify(progress)
    verify_s = time.perf_counter() - started
    if not verification.sound:
        raise ValueError(
            f"database {engine.url.database}: {verification.reason}; nobody else may write to it meanwhile"
        )
    speeds = (appends, plain_appends, batched, plain_batched)
    engine.dispose()
    return AuditSpeed(engine.dialect.name, num_writers, verification.num_entries, *speeds, verify_s)


def _all_at_once(put: Put, url: str, folder: Path, num_writers: int) -> float:
    """Records per second of `num_writers` processes, which begin together when the last is ready."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(num_writers, context) as pool:
        barrier = manager.Barrier(num_writers)
        waiting = [pool.submit(_write, put, url, folder, number, barrier.wait) for number in range(num_writers)]
        spans = [future.result() for future in waiting]
    return num_writers * _APPENDS / (max(end for _, end in spans) - min(start for start, _ in spans))


def _write(
    put: Put, url: str, folder: Path, number: int, wait_for_the_others: Callable[[], int]
) -> tuple[float, float]:
    """When the first record was begun and the last one done, on the clock that all processes share."""
    engine = open_database(url)
    chain = Chain(engine, KeyFolder(folder))
    wait_for_the_others()
    start = time.monotonic()
    for turn in range(_APPENDS):
        put(chain, [_record(number * _APPENDS + turn)])
    end = time.monotonic()
    engine.dispose()
    return start, end


def _filled(put: Put, chain: Chain, number: int, progress: Progress) -> float:
    """Records per second, a batch at a time."""
    started = time.perf_counter()
    with progress.task("entries", total=number) as task:
        for first in range(0, number, _BATCH):
            batch = [_record(index) for index in range(first, min(first + _BATCH, number))]
            put(chain, batch)
            task.advance(len(batch))
    return number / (time.perf_counter() - started)


def _append(chain: Chain, records: list[Record]) -> None:
    chain.append(*records)


def _keep_plain(chain: Chain, records: list[Record]) -> None:
    """The baseline: the same rows, without hashes, signatures and order."""
    with chain.engine.begin() as connection:
        connection.execute(insert(AuditNoteRow), [asdict(record.noted) for record in records])


def _forget_plain(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(delete(AuditNoteRow))


def _record(number: int) -> Record:
    body = {"image": f"{number:064x}", "from": "normal", "to": "anomalous", "note": "scratch"}
    return Record(EntryKind.FEEDBACK, f"class_{number % 15:02d}", body, "bench", _START)
