"""Writes pairs to the database, in batches and in the background; to the spool while the database is away."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from shadowline.core.params import GatewayParams
from shadowline.data.near_duplicates import FrameRule
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.spool import Spool
from shadowline.inference.scoring import describe
from shadowline.records.pair import Pair
from shadowline.records.pairs import PairStore

log = logging.getLogger(__name__)


class PairWriter:
    """`offer` never waits. Pairs that neither database nor disk takes are lost and counted; `disk_error` says why."""

    def __init__(
        self, store: PairStore, spool: Spool, params: GatewayParams, frames: FrameRule, metrics: Metrics
    ) -> None:
        self._store, self.spool, self._params, self._metrics = store, spool, params, metrics
        self._frames = frames
        self._queue: queue.Queue[Pair] = queue.Queue(params.pair_queue)
        self._in_hand: list[Pair] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="pair-writer")
        self.num_lost = 0
        self.disk_error: str | None = None  # why pairs were lost, until the database or the disk takes them again

    def start(self) -> None:
        self._thread.start()

    def offer(self, pair: Pair) -> None:
        try:
            self._queue.put_nowait(pair)
        except queue.Full:
            self._lose(1, "the queue of the writer is full")

    def close(self, limit_s: float) -> None:
        """Write what waits; what is left after `limit_s` goes to the disk."""
        self._closing.set()
        self._thread.join(limit_s)
        if self._thread.is_alive():  # the database hangs; recording the pairs in hand twice does no harm
            self._spool([*self._in_hand, *self._drain(self._queue.qsize())])

    def _run(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            self._in_hand = self._next_batch()
            if not self._in_hand or self._write(self._in_hand):
                self._replay()
            self._metrics.spool_bytes.set(self.spool.num_bytes)
        self._in_hand = []

    def _next_batch(self) -> list[Pair]:
        try:
            first = self._queue.get(timeout=self._params.poll_interval_ms / 1000)
        except queue.Empty:
            return []
        return [first, *self._drain(self._params.record_batch - 1)]

    def _drain(self, limit: int) -> list[Pair]:
        pairs: list[Pair] = []
        while len(pairs) < limit:
            try:
                pairs.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return pairs

    def _write(self, pairs: list[Pair]) -> bool:
        """Write to the database, or to the disk; returns whether the database took the pairs."""
        try:
            self._record(pairs)
        except SQLAlchemyError as error:
            log.warning("pairs: %s; %d go to the spool", describe(error), len(pairs))
            self._spool(pairs)
            return False
        return True

    def _spool(self, pairs: list[Pair]) -> None:
        if not pairs:
            return
        try:
            self.spool.append(pairs)
        except OSError as error:
            self.disk_error = describe(error)
            self._lose(len(pairs), self.disk_error)
            return
        self.disk_error = None
        self._metrics.spooled.inc(len(pairs))

    def _replay(self) -> None:
        try:
            num_damaged = self.spool.replay(self._record)
            if self.disk_error is not None:
                self._record([])  # raises while the database is away, that is, while the disk is needed
                self.disk_error = None
        except (SQLAlchemyError, OSError) as error:
            log.warning("spool: %s; tried again later", describe(error))
            return
        if num_damaged:
            self._lose(num_damaged, "lines of the spool are damaged; damaged-*.jsonl beside it holds them")

    def _record(self, pairs: Sequence[Pair]) -> int:
        num_new = self._store.record(pairs, self._frames)
        self._metrics.pairs.inc(num_new)
        return num_new

    def _lose(self, count: int, why: str) -> None:
        self.num_lost += count
        self._metrics.lost.inc(count)
        log.error("%d pairs are lost: %s", count, why)
