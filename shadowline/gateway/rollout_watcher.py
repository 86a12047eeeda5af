"""Keeps the routing table in step with the rollout: one thread polls the database, another loads models.

The polling thread never waits for a model. A class whose models are in memory moves at once, a rollback above all;
a class that needs a model from disk keeps its old route until the model is there. While the database is away, the last
table stays in force.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from shadowline.core.params import GatewayParams
from shadowline.gateway.metrics import Metrics
from shadowline.inference.model_pool import ModelPool
from shadowline.inference.routing import (
    EMPTY,
    LEGACY,
    Options,
    RoutingTable,
    required_models,
    route_of,
    unplanned_classes,
    unplanned_state,
)
from shadowline.inference.scoring import describe
from shadowline.records.model_locations import KnownModels
from shadowline.records.pair import Side
from shadowline.records.stores import Records

log = logging.getLogger(__name__)


class RolloutWatcher:
    """`table` is the table in force; read it once per request."""

    def __init__(self, records: Records, pool: ModelPool, params: GatewayParams, metrics: Metrics) -> None:
        self._records, self._pool, self._params, self._metrics = records, pool, params, metrics
        self.table: RoutingTable = EMPTY
        self._state = EMPTY.state
        self._known: dict[str, KnownModels] = {}
        self._problems: dict[str, str] = {}  # fingerprint → why it would not load
        self._answered_at = -float("inf")  # monotonic; when the database last answered
        self._swapping = threading.Lock()
        self._wake, self._stopped = threading.Event(), threading.Event()

    def start(self) -> None:
        """Load everything, then keep in step. Raises SQLAlchemyError where the database does not answer."""
        self._look()
        self._load_missing()
        for work in (self._keep_looking, self._keep_loading):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    @property
    def database_answers(self) -> bool:
        return 1000 * (time.monotonic() - self._answered_at) < self._params.database_timeout_ms

    # --- looking ---

    def _keep_looking(self) -> None:
        complaint = ""  # said once and not at every look
        while not self._stopped.wait(self._params.poll_interval_ms / 1000):
            try:
                self._look()
                complaint = ""
            except (SQLAlchemyError, ValueError) as error:  # ValueError: a row that this version cannot read
                if describe(error) != complaint:
                    complaint = describe(error)
                    log.warning("rollout: %s; the last table stays in force", complaint)
            self._metrics.database_up.set(self.database_answers)

    def _look(self) -> None:
        revision, known_models = self._records.rollout.revision(), self._records.locations.known_models()
        self._answered_at = time.monotonic()
        if revision != self._state.revision or known_models != self._known:
            # The revision is read before the rows: rows may be newer than it, never older, and the next poll sees that.
            self._state = replace(self._records.rollout.state(), revision=revision)
            self._known = known_models
            self._swap()
            self._wake.set()

    def _swap(self) -> None:
        with self._swapping:
            models, before = self._pool.models, self.table.routes
            unplanned = [unplanned_state(name, options, self._problems) for name, options in self._unplanned().items()]
            routes = {
                cls.class_name: route_of(cls, models, self._problems, before.get(cls.class_name))
                for cls in (*self._state.classes, *unplanned)
            }
            self.table = RoutingTable(self._state, routes)
        self._metrics.revision.set(self._state.revision)

    def _unplanned(self) -> dict[str, Options]:
        return unplanned_classes(self._state, self._known, self._params.unplanned)

    def _wanted(self) -> dict[str, Side]:
        """Fingerprint → side of the models to be loaded; a preferred model that is broken is tried again and again."""
        wanted: dict[str, Side] = {}
        for name, options in self._unplanned().items():
            wanted |= {options[0][1]: options[0][0], **required_models(unplanned_state(name, options, self._problems))}
        for cls in self._state.classes:
            wanted |= required_models(cls)
        return wanted

    # --- loading ---

    def _keep_loading(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self._params.reload_interval_ms / 1000)
            self._wake.clear()
            self._load_missing()

    def _load_missing(self) -> None:
        """Load the models that the rollout needs, legacy models first, and retire those that it no longer needs."""
        tried: set[str] = set()
        while missing := self._missing(tried):
            if self._stopped.is_set():
                return
            name = min(missing, key=lambda name: missing[name] != LEGACY)
            tried.add(name)
            self._bring(name)
            self._swap()
        in_force = {m.place.fingerprint for route in self.table.routes.values() for m in route.models.values()}
        self._pool.keep(self._wanted().keys() | in_force)

    def _missing(self, tried: Collection[str]) -> dict[str, Side]:
        there = {*tried, *self._pool.models}
        return {name: side for name, side in self._wanted().items() if name not in there}

    def _bring(self, fingerprint: str) -> None:
        try:
            self._pool.bring(self._records.locations.model(fingerprint))
            self._problems.pop(fingerprint, None)
        except Exception as error:  # noqa: BLE001 - a broken model may fail in any way; the others must still be loaded
            log.warning("model %s…: %s", fingerprint[:12], describe(error))
            self._problems[fingerprint] = describe(error)
