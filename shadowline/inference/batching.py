"""Micro-batching: requests that arrive together for one model are scored together, by one thread."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from shadowline.inference.scoring import InspectionRequest, Result, Scorer, ScoringError, ScoringTimeoutError, score_all

_LOWEST_PRIORITY = 19  # of a thread, as `nice` counts
_LOOK_S = 0.05  # between two checks whether a model hangs


@dataclass(frozen=True, eq=False)
class _Waiting:
    question: InspectionRequest
    future: Future[Result] = field(default_factory=Future)


class Batcher:
    """One thread in front of one model.

    A thread cannot be ended from outside: while one batch takes longer than a caller's patience, `submit` refuses that
    caller at once, and serves again when the model comes back. A caller that has another model to turn to is less
    patient. A `background` thread runs at the lowest priority (Linux).
    """

    def __init__(self, scorer: Scorer, *, batch_size: int, window_ms: float, background: bool = False) -> None:
        self.scorer = scorer
        self._batch_size, self._window_s = batch_size, window_ms / 1000
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._closed = False
        self._background = background
        threading.Thread(target=self._run, daemon=True, name="batcher").start()

    def hangs(self, patience_ms: float) -> bool:
        """Whether the batch in work has taken longer than `patience_ms`."""
        since = self._busy_since
        return since is not None and 1000 * (time.monotonic() - since) > patience_ms

    def submit(self, question: InspectionRequest, patience_ms: float) -> Future[Result]:
        """The future raises ScoringError where the model fails. Raises it at once where the model hangs."""
        if self._closed:
            raise ScoringError("the model was put away")
        if self.hangs(patience_ms):
            raise _batch_too_slow(patience_ms)
        waiting = _Waiting(question)
        self._queue.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Accept no more questions; those that wait are still scored."""
        self._closed = True
        self._queue.put(None)

    def _run(self) -> None:
        if self._background and sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (first := self._queue.get()) is not None:
            batch, is_last = self._gather(first)
            live = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if live:
                self._score(live)
            if is_last:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """A batch: `first`, and what joins it until the batch is full or the window closes; whether it is the last."""
        batch, end = [first], time.monotonic() + self._window_s
        while len(batch) < self._batch_size:
            try:
                following = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

    def _score(self, batch: list[_Waiting]) -> None:
        self._busy_since = time.monotonic()
        results = score_all(self.scorer, [waiting.question for waiting in batch])
        self._busy_since = None
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, ScoringError):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)


def _batch_too_slow(patience_ms: float) -> ScoringTimeoutError:
    return ScoringTimeoutError(f"timeout: one batch took longer than {patience_ms:g} ms")


async def ask(batcher: Batcher, question: InspectionRequest, limit_ms: float, patience_ms: float) -> Result:
    """The model's answer; raises ScoringError where it fails or hangs, and after `limit_ms` at the latest.

    Time in the queue of a model that works is no failure of the model: only a batch that takes longer than
    `patience_ms` ends the wait early.
    """
    future = asyncio.wrap_future(batcher.submit(question, patience_ms))
    end = time.monotonic() + limit_ms / 1000
    while not (await asyncio.wait({future}, timeout=_LOOK_S))[0]:
        if batcher.hangs(patience_ms):
            future.cancel()
            raise _batch_too_slow(patience_ms)
        if time.monotonic() > end:
            future.cancel()
            raise ScoringTimeoutError(f"timeout: no answer within {limit_ms:g} ms")
    return future.result()


def ask_and_wait(batcher: Batcher, question: InspectionRequest, limit_ms: float) -> Result:
    """`ask` for a thread; waits for `limit_ms` whatever the model does. Raises ScoringError."""
    future = batcher.submit(question, patience_ms=limit_ms)
    try:
        return future.result(limit_ms / 1000)
    except TimeoutError:
        future.cancel()
        raise ScoringTimeoutError(f"timeout: no answer within {limit_ms:g} ms") from None
