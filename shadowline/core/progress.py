"""Progress of long work: a bar on a terminal, plain lines elsewhere, JSON lines for the flow above a stage.

    with progress.task("features solar_mono", total=300) as task:
        task.advance(8)
        progress.metric("train/loss", 0.41, step=120)

The JSON lines (`{"event": "progress", …}`, `{"event": "metric", …}`) are how a stage that runs below DVC reaches
the flow above it: tasks/integrations/dvc_pipeline.py asks for them by SHADOWLINE_PROGRESS=json, and forwards them to
Prefect and MLflow while the stage runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

from shadowline.core.printable import printable

WANTED = "SHADOWLINE_PROGRESS"  # the variable that asks for JSON lines
JSON = "json"
_PLAIN_EVERY_S = 20.0  # at most, but for the first and the last line of a task


class Task(Protocol):
    def advance(self, amount: int = 1, note: str = "") -> None: ...


class Progress:
    """Reports nothing; the base class of the others."""

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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        with RichBars(*columns, console=self._console) as bars:
            yield _BarTask(bars, printable(description), total)

    def message(self, text: str) -> None:
        self._console.print(printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


class _BarTask:
    def __init__(self, bars: RichBars, description: str, total: int) -> None:
        self._bars, self._done, self._start = bars, 0, time.monotonic()
        self._id = bars.add_task(description, total=total, rate="", note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        self._bars.update(self._id, advance=amount, rate=f"{rate:.1f}/s", note=printable(note))


class PlainProgress(Progress):
    """Lines for people who read a log: the first and the last of each task, and one now and then between them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        yield _PlainTask(self.message, description, total)

    def message(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


class _PlainTask:
    def __init__(self, write: Callable[[str], None], description: str, total: int) -> None:
        self._write, self._description, self._total = write, description, total
        self._done, self._start = 0, time.monotonic()
        self._last = self._start
        write(f"{description}: 0 of {total}")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= _PLAIN_EVERY_S or self._done >= self._total:
            self._last = now
            line = f"{self._description}: {self._done} of {self._total}, {now - self._start:.0f} s {note}"
            self._write(line.rstrip())


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
    """Bars on a terminal, plain lines anywhere else; JSON lines where SHADOWLINE_PROGRESS asks for them."""
    if os.environ.get(WANTED) == JSON:
        return JsonProgress()
    return BarProgress() if sys.stderr.isatty() and sys.stdout.isatty() else PlainProgress()
