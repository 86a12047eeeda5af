"""Progress of long work: a bar for people, JSON lines for machines, nothing for tests.

    with progress.task("features solar_mono", total=300) as task:
        task.advance(8)
        progress.metric("train/loss", 0.41, step=120)

The JSON lines (`{"event": "progress", …}`, `{"event": "metric", …}`) are how a stage that runs below DVC reaches
the flow above it: tasks/integrations/dvc_pipeline.py reads them and forwards them to Prefect and MLflow while the stage
runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars


class Task(Protocol):
    def advance(self, amount: int = 1, note: str = "") -> None: ...


class Progress:
    """Reports nothing; the base class of `BarProgress` and `JsonProgress`."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        yield _SilentTask()

    def metric(self, name: str, value: float, step: int) -> None:
        """One point of a curve, e.g. the loss at an optimiser step."""

    def message(self, text: str) -> None:
        """One line of plain text."""


class _SilentTask:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class BarProgress(Progress):
    """A Rich progress bar with rate and time left, on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with RichBars(*columns, console=self._console) as bars:
            yield _BarTask(bars, description, total)

    def message(self, text: str) -> None:
        self._console.print(text)


class _BarTask:
    def __init__(self, bars: RichBars, description: str, total: int) -> None:
        self._bars, self._done, self._start = bars, 0, time.monotonic()
        self._id = bars.add_task(description, total=total, rate="", note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        self._bars.update(self._id, advance=amount, rate=f"{rate:.1f}/s", note=note)


class JsonProgress(Progress):
    """One JSON object a line, on stderr: stdout is for results. Progress at most once a second, metrics always."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def _write(self, record: dict[str, object]) -> None:
        print(json.dumps(record), file=self._stream, flush=True)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        yield _JsonTask(self._write, description, total)

    def metric(self, name: str, value: float, step: int) -> None:
        self._write({"event": "metric", "name": name, "value": value, "step": step})

    def message(self, text: str) -> None:
        self._write({"event": "message", "text": text})


class _JsonTask:
    def __init__(self, write: Callable[[dict[str, object]], None], description: str, total: int) -> None:
        self._write, self._description, self._total = write, description, total
        self._done, self._last = 0, 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= 1.0 or self._done >= self._total:
            self._last = now
            record = {
                "event": "progress",
                "task": self._description,
                "done": self._done,
                "total": self._total,
                "note": note,
            }
            self._write(record)


def default_progress() -> Progress:
    """Bars on a terminal, JSON lines anywhere else."""
    return BarProgress() if sys.stderr.isatty() and sys.stdout.isatty() else JsonProgress()
