"""Log the curves of a running stage to MLflow, point by point.

    with live_metrics(run_id) as add:
        add("train/loss", 0.41, 120)        # name, value, step; never raises and never waits for the store

While the store is away, points wait in memory and are written with a later point, or at the end. Points that are lost
then are counted in the log: a lost point of a curve is no reason to stop a training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlflow
from mlflow.entities import Metric
from prefect.logging import get_logger
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shadowline.core.secrets import mask
from tasks.integrations.mlflow_registry import STORE_ERRORS, client

_PAUSE_S = 2.0  # between two attempts while the store is away
_PATIENCE_S = 60.0  # at the end
_MAX_POINTS = 1000  # in one request, as MLflow allows

log = get_logger(__name__)


@contextmanager
def live_metrics(run_id: str) -> Iterator[Callable[[str, float, int], None]]:
    """A function that writes one point of a curve into a run while a stage is running."""
    curves = _Curves(run_id, client())
    try:
        yield curves.add
    finally:
        curves.finish()


class _Curves:
    """Each point is made once, with its time, so that sending it again after a lost answer makes no second point."""

    def __init__(self, run_id: str, tracking: mlflow.MlflowClient) -> None:
        self._run_id, self._tracking = run_id, tracking
        self._waiting: list[Metric] = []
        self._next_try = 0.0  # monotonic

    def add(self, name: str, value: float, step: int) -> None:
        self._waiting.append(Metric(name, value, int(1000 * time.time()), step))
        if time.monotonic() < self._next_try:
            return
        try:
            self._write()
        except STORE_ERRORS as error:
            self._next_try = time.monotonic() + _PAUSE_S
            log.warning("%s: points of its curves wait: %s", self._run_id, _first_line(error))

    def finish(self) -> None:
        again = Retrying(
            retry=retry_if_exception_type(STORE_ERRORS),
            stop=stop_after_delay(_PATIENCE_S),
            wait=wait_random_exponential(max=5),
            reraise=True,
        )
        try:
            again(self._write)
        except STORE_ERRORS as error:
            log.error("%s: %d points of its curves are lost: %s", self._run_id, len(self._waiting), _first_line(error))

    def _write(self) -> None:
        while self._waiting:
            self._tracking.log_batch(self._run_id, metrics=self._waiting[:_MAX_POINTS])
            del self._waiting[:_MAX_POINTS]


def _first_line(error: Exception) -> str:
    return mask(str(error)).partition("\n")[0]
