"""Everything behind the endpoints, started and ended together.

gateway = Gateway(Settings(), load_params(Path("params.yaml")), Layout())
gateway.start()
...
gateway.close()      # what is in the shadow queue and unwritten is finished, or recorded as unfinished
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.settings import Settings
from shadowline.data.near_duplicates import FrameRule
from shadowline.gateway.auth import keys_of
from shadowline.gateway.image_retention import ImageRetention
from shadowline.gateway.inspection_service import InspectionService
from shadowline.gateway.load_limit import LoadLimiter
from shadowline.gateway.metrics import Metrics, forget_dead_workers, forget_this_worker
from shadowline.gateway.pair_writer import PairWriter
from shadowline.gateway.rollout_watcher import RolloutWatcher
from shadowline.gateway.shadow_worker import ShadowWorker
from shadowline.gateway.spool import Spool
from shadowline.inference.model_pool import Load, ModelPool
from shadowline.inference.routing import RoutingTable
from shadowline.models.loader import load_detector
from shadowline.records.pairs import utc_now
from shadowline.records.stores import open_records

_LEAST_FLUSH_S = 1.0  # for the writer, and for the images, however long the shadow took


class Gateway:
    """One process's models, threads and queues. Raises ValueError where the database cannot be reached."""

    def __init__(
        self,
        settings: Settings,
        params: Params,
        layout: Layout,
        load: Load = load_detector,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.layout = layout
        self.params, self.keys, self.clock = params, keys_of(settings), clock
        self.metrics = Metrics()
        self.traffic = LoadLimiter(self.metrics)
        self.records = open_records(settings.database_url)
        bounds = params.gateway
        self._pool = ModelPool(load, bounds)
        self.watcher = RolloutWatcher(self.records, self._pool, bounds, self.metrics)
        spool = Spool(settings.spool_dir, int(bounds.max_spool_mb * 1e6))
        self.writer = PairWriter(self.records.pairs, spool, bounds, FrameRule.of(params.shadow), self.metrics)
        self._keeper = ImageRetention(layout.inspected, bounds, self.metrics)
        self._shadow = ShadowWorker(self.writer, self.traffic, self._keeper.offer, bounds, self.metrics)
        self.answerer = InspectionService(
            lambda: self.table, self._shadow, self.writer, self._keeper, bounds, self.metrics
        )

    @property
    def table(self) -> RoutingTable:
        return self.watcher.table

    def start(self) -> None:
        """Load the models of every class, then begin; takes as long as loading takes."""
        forget_dead_workers()
        self.watcher.start()
        self.writer.start()
        self._keeper.start()
        self._shadow.start()

    def close(self) -> None:
        """Close everything; takes `gateway.drain_ms` and two seconds at most."""
        end = time.monotonic() + self.params.gateway.drain_ms / 1000
        self.watcher.stop()
        self._shadow.close(max(0.0, end - time.monotonic()))
        self.writer.close(max(_LEAST_FLUSH_S, end - time.monotonic()))
        self._keeper.close(max(_LEAST_FLUSH_S, end - time.monotonic()))
        self._pool.close()
        self.records.pairs.engine.dispose()
        forget_this_worker()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the gateway is not ready; empty where it is."""
        problems = list(self.table.problems)
        if not self.table.routes:
            problems.append("no model is on record; promote a version, register a legacy model or begin a rollout")
        if not self.watcher.database_answers:
            problems.append("the database does not answer; the last rollout stays in force")
        if waiting := self.writer.spool.num_bytes:
            problems.append(f"spool: {waiting} bytes of pairs wait for the database")
        problems += [problem for problem in (self.writer.problem, self._keeper.problem) if problem]
        threads = (self.writer.thread, self._shadow.thread, self._keeper.thread)
        problems += [f"{thread.name}: it has ended; restart" for thread in threads if not thread.is_alive()]
        return tuple(problems)
