"""Latency and throughput of the gateway, on this machine, with this project's models: `shadowline bench gateway`.

Servers are real processes on the loopback with a database of their own; what is compared runs interleaved.
"""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np

from shadowline.core.layout import Layout
from shadowline.core.network import free_port
from shadowline.core.progress import Progress
from shadowline.models.loader import load_detector, place_of
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.database import open_database
from shadowline.records.model_locations import ModelLocation
from shadowline.records.rollout_store import RolloutStore
from shadowline.records.stores import records_on
from shadowline.rollout.engine import RolloutStep, begin
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import Event

CLIENTS = (1, 8, 32)
_BLOCKS = 10  # of each kind, interleaved
_WORKERS, _ROLLBACKS, _ASKING = 2, 5, 4
_START_S, _SETTLE_S = 180.0, 60.0
_UP = (Phase.SHADOW, Phase.CANARY, Phase.LIVE)


@dataclass(frozen=True)
class GatewayLatency:
    """Latency of sequential requests, as their caller measures it."""

    p50_ms: float
    p95_ms: float
    num_requests: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> GatewayLatency:
        p50, p95 = np.percentile(seconds, [50, 95]) * 1000
        return cls(float(p50), float(p95), len(seconds))


@dataclass(frozen=True)
class AddedLatency:
    """Latency of the legacy model's answers with the candidate in shadow mode, and without."""

    pause_ms: float  # of the caller between two requests; 0: the shadow never has the processor to itself
    off: GatewayLatency
    on: GatewayLatency
    num_dropped: int  # images that the shadow did not judge


@dataclass(frozen=True)
class Rollback:
    """Times of a rollback, from its commit to the slowest worker."""

    in_force_ms: float  # the worker follows it: from here on no new image goes to the candidate
    answered_ms: float  # the first legacy answer, behind what was in its queues


@dataclass(frozen=True)
class GatewaySpeed:
    added: tuple[AddedLatency, ...]
    images_per_s: dict[int, float]  # number of clients → answers of the legacy model, one worker, no shadow
    rollbacks: tuple[Rollback, ...]  # two workers


@dataclass(frozen=True)
class _Bench:
    """One class, its images, and the rollout that the servers follow."""

    class_name: str
    images: tuple[bytes, ...]
    url: str
    store: RolloutStore
    key: str

    def move(self, phase: Phase, share: float = 0.0) -> int:
        """One event, as a tick would write it; returns its revision."""
        state = self.store.state()
        before = state.of(self.class_name)
        after = replace(before, phase=phase, share=share)
        event = Event(state.revision + 1, datetime.now(UTC), "bench", before.phase, after)
        self.store.commit(
            RolloutStep(replace(state.with_classes([after]), revision=event.revision), (event,), (), "", (), {})
        )
        return event.revision


def bench_gateway(
    layout: Layout, class_name: str, progress: Progress, *, database_url: str, num_requests: int
) -> GatewaySpeed:
    """Needs the packaged inspector, the legacy model and some images of the class.

    Raises ValueError for a database that holds a rollout already, and where there are no images.
    """
    with tempfile.TemporaryDirectory() as scratch:
        url = database_url or f"sqlite:///{Path(scratch) / 'records.db'}"
        bench = _prepare(layout, class_name, url, KeyFolder(Path(scratch) / "keys"))
        with _serving(bench, Path(scratch), workers=1) as client:
            bench.move(Phase.SHADOW)
            added = tuple(_added(bench, client, pause_ms, num_requests, progress) for pause_ms in (0.0, 250.0))
            throughput = {number: _throughput(bench, client, number, num_requests) for number in CLIENTS}
        with _serving(bench, Path(scratch), workers=_WORKERS) as client:
            rollbacks = tuple(_roll_back(bench, client) for _ in range(_ROLLBACKS))
        bench.store.engine.dispose()
    return GatewaySpeed(added, throughput, rollbacks)


def _prepare(layout: Layout, class_name: str, url: str, keys: KeyFolder) -> _Bench:
    records, now = records_on(open_database(url), keys), datetime.now(UTC)
    places = {}
    for role, folder in (("legacy", layout.legacy(class_name)), ("candidate", layout.package)):
        location = place_of(folder)
        fingerprint = load_detector(location, class_name).fingerprint
        places[role] = ModelLocation(fingerprint, class_name, role, location, "bench")
    records.locations.upsert_model(places.values(), now)
    fingerprints = {role: {class_name: place.fingerprint} for role, place in places.items()}
    _, events = begin([[class_name]], fingerprints["legacy"], fingerprints["candidate"], now, "bench")
    records.rollout.begin(events)
    paths = sorted(path for path in layout.images(class_name).rglob("*") if path.is_file())[:64]
    if not paths:
        raise ValueError(f"{layout.images(class_name)}: no images; run `shadowline demo` first")
    return _Bench(class_name, tuple(p.read_bytes() for p in paths), url, records.rollout, secrets.token_hex(8))


# --- a server -------------------------------------------------------------------------------------------------------


@contextmanager
def _serving(bench: _Bench, scratch: Path, workers: int) -> Iterator[httpx.Client]:
    """`shadowline serve` in this working directory, ended by SIGTERM."""
    port = free_port()
    own = {"DATABASE_URL": bench.url, "GATEWAY_KEYS": bench.key, "SPOOL_DIR": str(scratch / "spool")}
    environment = {**os.environ, **{f"SHADOWLINE_{name}": value for name, value in own.items()}}
    start = "from shadowline.cli import main; main()"
    command = [sys.executable, "-c", start, "serve", "--port", str(port), "--workers", str(workers)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": bench.key}, timeout=60)
    try:
        with client:
            _wait(lambda: _is_ready(client, server), _START_S, "the server did not become ready")
            yield client
    finally:
        server.terminate()
        server.wait()


def _is_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> bool:
    if server.poll() is not None:
        raise ValueError(f"`shadowline serve` ended with {server.returncode}; run it here to see why")
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _wait(happened: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > end:
            raise ValueError(f"{otherwise} within {limit_s:g} s; is the machine busy?")
        time.sleep(0.02)


def _inspect(client: httpx.Client, bench: _Bench, image: bytes) -> httpx.Response:
    answer = client.post("/v1/inspect", files={"image": image}, data={"class_name": bench.class_name})
    answer.raise_for_status()
    return answer


def _metric(client: httpx.Client, name: str) -> float:
    """Sum over all labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


# --- measurements ---------------------------------------------------------------------------------------------------


def _added(bench: _Bench, client: httpx.Client, pause_ms: float, num_requests: int, progress: Progress) -> AddedLatency:
    """Blocks with and without the shadow, one after the other; the first of each warms up and does not count."""
    seconds: dict[Phase, list[float]] = {Phase.SHADOW: [], Phase.ROLLED_BACK: []}
    dropped = _metric(client, "shadowline_shadow_dropped_total")
    size = max(1, num_requests // _BLOCKS)
    with progress.task(f"shadow on and off, pause {pause_ms:g} ms", total=2 * (_BLOCKS + 1)) as task:
        for number, phase in itertools.product(range(_BLOCKS + 1), (Phase.ROLLED_BACK, Phase.SHADOW)):
            _settle(bench, client, bench.move(phase))
            measured = [_timed(client, bench, index, pause_ms) for index in range(size)]
            seconds[phase] += measured if number else []
            task.advance()
    off, on = GatewayLatency.of(seconds[Phase.ROLLED_BACK]), GatewayLatency.of(seconds[Phase.SHADOW])
    _settle(bench, client, bench.move(Phase.ROLLED_BACK))
    return AddedLatency(pause_ms, off, on, int(_metric(client, "shadowline_shadow_dropped_total") - dropped))


def _settle(bench: _Bench, client: httpx.Client, revision: int) -> None:
    """Until the revision is in force and nothing is left in the shadow queue."""
    followed = lambda: _metric(client, "shadowline_rollout_revision") == revision  # noqa: E731
    _wait(followed, _SETTLE_S, "the server did not follow the rollout")
    _wait(lambda: _metric(client, "shadowline_shadow_queue") == 0, _SETTLE_S, "the shadow queue did not empty")


def _timed(client: httpx.Client, bench: _Bench, index: int, pause_ms: float) -> float:
    time.sleep(pause_ms / 1000)
    started = time.perf_counter()
    _inspect(client, bench, bench.images[index % len(bench.images)])
    return time.perf_counter() - started


def _throughput(bench: _Bench, client: httpx.Client, num_clients: int, num_requests: int) -> float:
    """Answers per second while every client always has one request in work."""
    images = [bench.images[index % len(bench.images)] for index in range(num_requests)]
    with ThreadPoolExecutor(num_clients) as clients:
        list(clients.map(lambda image: _inspect(client, bench, image), images[:num_clients]))  # opens the connections
        started = time.perf_counter()
        list(clients.map(lambda image: _inspect(client, bench, image), images))
        return num_requests / (time.perf_counter() - started)


def _roll_back(bench: _Bench, client: httpx.Client) -> Rollback:
    """From LIVE, while callers wait at both workers all the time."""
    for phase in _UP:
        revision = bench.move(phase, share=0.0 if phase is Phase.SHADOW else 1.0)
    _settle(bench, client, revision)
    images = itertools.cycle(bench.images)

    def answers_with(side: str) -> Callable[[httpx.Client], tuple[httpx.Response, bool]]:
        def ask(fresh: httpx.Client) -> tuple[httpx.Response, bool]:
            answer = _inspect(fresh, bench, next(images))
            return answer, answer.json()["answered_by"] == side

        return ask

    def follows(fresh: httpx.Client) -> tuple[httpx.Response, bool]:
        answer = fresh.get("/v1/rollout")
        return answer, answer.json()["revision"] == revision

    _first_of_each_worker(client, answers_with("candidate"))
    with ThreadPoolExecutor(2) as watchers:
        revision = bench.move(Phase.ROLLED_BACK)
        committed = time.monotonic()
        first_answers = list(
            watchers.map(lambda ask: _first_of_each_worker(client, ask), (follows, answers_with("legacy")))
        )
    in_force, answered = (1000 * (max(first.values()) - committed) for first in first_answers)
    return Rollback(in_force, answered)


def _first_of_each_worker(
    client: httpx.Client, ask: Callable[[httpx.Client], tuple[httpx.Response, bool]]
) -> dict[str, float]:
    """Worker → when it first answered as wanted; several ask at once, on new connections, until all workers did."""
    first: dict[str, float] = {}
    end = time.monotonic() + _SETTLE_S

    def keep_asking(_: int) -> None:
        while len(first) < _WORKERS and time.monotonic() < end:
            with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=60) as fresh:
                answer, is_wanted = ask(fresh)
            if is_wanted:
                first.setdefault(answer.headers["X-Worker"], time.monotonic())

    with ThreadPoolExecutor(_ASKING) as asking:
        list(asking.map(keep_asking, range(_ASKING)))
    if len(first) < _WORKERS:
        raise ValueError(f"{len(first)} of {_WORKERS} workers answered as wanted within {_SETTLE_S:g} s; too busy?")
    return first
