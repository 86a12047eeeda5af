"""How many requests are in work, and whether background work may run now."""

from __future__ import annotations

import threading

from shadowline.gateway.metrics import Metrics


class LoadLimiter:
    """Entered and left by the event loop alone; any thread may wait for quiet."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._quiet = threading.Event()
        self._quiet.set()
        self.in_flight = 0

    def __enter__(self) -> None:
        self._count(+1)

    def __exit__(self, *_: object) -> None:
        self._count(-1)

    def wait_for_quiet(self, limit_s: float) -> None:
        """Wait until no request is in work, but not longer than `limit_s`."""
        self._quiet.wait(limit_s)

    def _count(self, change: int) -> None:
        self.in_flight += change
        self._metrics.in_flight.set(self.in_flight)
        if self.in_flight:
            self._quiet.clear()
        else:
            self._quiet.set()
