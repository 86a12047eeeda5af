"""Writes pairs to the database, in batches and in the background; to the spool while the database is away.

What neither of them takes stays in memory and is tried again. Where the queue in memory is full, new pairs are lost,
and that they were is evidence too: once the database takes pairs again, each lost one is recorded as dropped, which
the guard `dropped` counts.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from shadowline.core.params import GatewayParams
from shadowline.data.near_duplicates import FrameRule
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.spool import Spool
from shadowline.inference.scoring import describe
from shadowline.records.pair import DROPPED, ModelDecision, Pair
from shadowline.records.pairs import PairStore

log = logging.getLogger(__name__)


class PairWriter:
    """`offer` never waits; `problem` says why evidence is in danger, or is lost without being on record."""

    def __init__(
        self, store: PairStore, spool: Spool, params: GatewayParams, frames: FrameRule, metrics: Metrics
    ) -> None:
        self._store, self.spool, self._params, self._metrics = store, spool, params, metrics
        self._frames = frames
        self._queue: queue.Queue[Pair] = queue.Queue(params.pair_queue)
        self._in_hand: list[Pair] = []
        self._unrecorded: deque[Pair] = deque(maxlen=params.pair_queue)  # lost, and not on record
        self._refused: str | None = None  # why the disk did not take the pairs in hand
        self._is_away = False  # the database, at the last attempt
        self._closing = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="pair-writer")
        self.num_lost = 0

    def start(self) -> None:
        self.thread.start()

    def offer(self, pair: Pair) -> None:
        try:
            self._queue.put_nowait(pair)
        except queue.Full:
            self._lose([pair], "the queue of the writer is full; raise gateway.pair_queue")

    def close(self, limit_s: float) -> None:
        """Write what waits; what is left after `limit_s` goes to the disk."""
        self._closing.set()
        self.thread.join(limit_s)
        if self.thread.is_alive():  # the database hangs; recording the pairs in hand twice does no harm
            left = [*self._in_hand, *self._drain(self._queue.qsize())]
            if not self._put_on_disk(left):
                self._lose(left, f"the gateway ends, and the disk does not take them: {self._refused}")

    @property
    def num_waiting(self) -> int:
        """Pairs that are in memory alone."""
        return self._queue.qsize() + len(self._in_hand)

    @property
    def problem(self) -> str | None:
        """Why evidence is in danger or lost; None again once the database knows of every pair, or the disk has it."""
        if refused := self._refused:
            return f"pairs: {self.num_waiting} are in memory alone, neither database nor spool takes them ({refused})"
        if self._unrecorded:
            return f"pairs: {self.num_lost} are lost, which is not on record yet"
        return None

    def _run(self) -> None:
        while not (self._closing.is_set() and self._queue.empty() and not self._in_hand):
            self._in_hand = self._in_hand or self._next_batch()
            if self._write(self._in_hand):
                self._in_hand = []
                self._catch_up()
            elif self._put_on_disk(self._in_hand):
                self._in_hand = []
            else:
                time.sleep(self._params.poll_interval_ms / 1000)
            self._metrics.spool_bytes.set(self.spool.num_bytes)
            self._metrics.waiting.set(self.num_waiting)

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
        """Whether the database took the pairs; true of none."""
        if not pairs:
            return True
        try:
            self._record(pairs)
        except SQLAlchemyError as error:
            if not self._is_away:  # each attempt would fill the log
                log.warning("pairs: %s; they go to the spool until the database takes them", describe(error))
            self._is_away = True
            return False
        self._is_away, self._refused = False, None
        return True

    def _put_on_disk(self, pairs: list[Pair]) -> bool:
        """Whether the spool took the pairs."""
        if not pairs:
            return True
        try:
            self.spool.append(pairs)
        except OSError as error:
            self._refused = describe(error)
            return False
        self._refused = None
        self._metrics.spooled.inc(len(pairs))
        return True

    def _catch_up(self) -> None:
        """Record what is in the spool, and which pairs were lost."""
        try:
            num_damaged = self.spool.replay(self._record)
            while self._unrecorded:
                self._record_lost()
        except (SQLAlchemyError, OSError) as error:
            log.warning("spool: %s; tried again later", describe(error))
            return
        if num_damaged:
            log.error("%d lines of the spool are damaged; damaged-*.jsonl beside it holds them", num_damaged)
            self._count_lost(num_damaged)

    def _record_lost(self) -> None:
        lost = [self._unrecorded.popleft() for _ in range(min(len(self._unrecorded), self._params.record_batch))]
        try:
            self._record(lost)
        except SQLAlchemyError:
            self._unrecorded.extendleft(reversed(lost))
            raise

    def _record(self, pairs: Sequence[Pair]) -> int:
        num_new = self._store.record(pairs, self._frames)
        self._metrics.pairs.inc(num_new)
        return num_new

    def _lose(self, pairs: Sequence[Pair], why: str) -> None:
        if not self._unrecorded:  # each one would fill the log
            log.error("pairs are lost from here on: %s", why)
        self._unrecorded.extend(map(_as_dropped, pairs))
        self._count_lost(len(pairs))

    def _count_lost(self, count: int) -> None:
        self.num_lost += count
        self._metrics.lost.inc(count)


def _as_dropped(pair: Pair) -> Pair:
    """The record that a pair existed: without the candidate's decision, and small."""
    said = None if pair.candidate_said is None else ModelDecision(error=DROPPED)
    return replace(pair, candidate_said=said, frame_signature=None)
