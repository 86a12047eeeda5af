"""The metrics that Prometheus reads at /metrics, of all workers together.

The directory that workers share must be named by PROMETHEUS_MULTIPROC_DIR before `prometheus_client` is imported.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_FOLDER = "shadowline-metrics-"  # in TMPDIR; followed by the server's process id
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"shadowline_{name}", help_, labels, registry=registry)

        def seconds(name: str, help_: str, *labels: str) -> Histogram:
            return Histogram(f"shadowline_{name}_seconds", help_, labels, buckets=_SECONDS, registry=registry)

        def gauge(name: str, help_: str, mode: str) -> Gauge:
            return Gauge(f"shadowline_{name}", help_, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self.answers = counter("answers", "Images answered", "class_name", "side", "decision")
        self.unknown = counter("unknown_products", "Images sent without a class that no class accepts", "nearest_class")
        self.refusals = counter("refusals", "Requests refused; 499: the caller hung up", "status")
        self.errors = counter("model_errors", "Images on which a model failed", "class_name", "side", "kind")
        self.dropped = counter("shadow_dropped", "Images that no shadow judged", "class_name", "side")
        self.pairs = counter("pairs_recorded", "Pairs written to the database, spooled ones included")
        self.spooled = counter("pairs_spooled", "Pairs put on disk because the database was away")
        self.lost = counter("pairs_lost", "Pairs that neither the database nor the disk took")
        self.kept = counter("images_kept", "Images put on disk so that their decision can be shown again")
        self.not_kept = counter("images_not_kept", "Images that should have been kept and were not", "why")
        self.kept_removed = counter("kept_images_removed", "Kept images that went because of gateway.max_kept_mb")
        self.latency = seconds("answer", "From the whole upload to the answer", "class_name", "side")
        self.shadow_latency = seconds("shadow", "Of a model in the shadow", "class_name", "side")
        self.shadow_queue = gauge("shadow_queue", "Images that wait for their shadow", "livesum")
        self.in_flight = gauge("in_flight", "Requests in work", "livesum")
        self.waiting = gauge("pairs_waiting", "Pairs in memory alone, which a kill would lose", "livesum")
        self.spool_bytes = gauge("spool_bytes", "Pairs on disk", "livemax")
        self.revision = gauge("rollout_revision", "Last event in force, of the slowest worker", "livemin")
        self.database_up = gauge("database_up", "1 while the database answers every worker", "livemin")

    def render(self) -> bytes:
        """The text format, of all workers where there are several."""
        if SHARED_DIRECTORY not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A folder for the metrics of the workers of this process, removed at the end.

    Those that killed servers have left are removed at the start.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        if not any(map(psutil.pid_exists, _processes_of(path))):
            shutil.rmtree(path, ignore_errors=True)  # that of another user stays
    with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-") as folder:
        yield Path(folder)


def _processes_of(folder: Path) -> Iterator[int]:
    """The server that made the folder, and its workers, which may outlive it."""
    server = folder.name.removeprefix(_FOLDER).partition("-")[0]
    workers = (path.stem.rpartition("_")[2] for path in folder.glob("*.db"))
    return (int(number) for number in (server, *workers) if number.isdecimal())


def forget_dead_workers() -> None:
    """Remove the gauges of killed workers from the shared directory; their counts stay."""
    folder = os.environ.get(SHARED_DIRECTORY)
    if folder is None:
        return
    for path in Path(folder).glob("gauge_live*.db"):
        match = re.search(r"_(\d+)\.db$", path.name)
        if match and not psutil.pid_exists(int(match[1])):
            mark_process_dead(int(match[1]))  # type: ignore[no-untyped-call]


def forget_this_worker() -> None:
    if SHARED_DIRECTORY in os.environ:
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
