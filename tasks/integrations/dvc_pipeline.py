"""DVC from Prefect: which stages are stale, and running one with its log, progress and metrics passed on.

A stage's own lines arrive as JSON (shadowline/core/progress.py) or as plain text; text goes to the Prefect log,
progress to a bar, metrics to a callback.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from prefect import get_run_logger, task
from rich.markup import escape
from rich.progress import Progress as RichBars
from rich.progress import TaskID

from shadowline.core.atomic_files import read_json
from shadowline.core.fork_server import ForkServer
from shadowline.core.layout import Layout
from shadowline.core.printable import printable
from shadowline.core.progress import JSON, WANTED
from shadowline.stages.code import write_code_hashes

Metric = Callable[[str, float, int], None]  # name, value, step

_LOG_EVERY_S = 20.0
_GRACE_S = 10  # for DVC and a stage that are interrupted
_ADVICE = ("To track the changes", "git add", "To enable auto staging", "dvc config", "Use `dvc push`")  # of DVC
_ALWAYS_CHANGED = "always changed"  # DVC's status of the stage `code`, whether it has changed or not
_RESTORED = "is cached - skipping run"  # DVC took outputs of an earlier run with the same inputs: they did change
_ANEW = ("--force", "--no-run-cache", "--no-commit")
FORKED_DVC = (  # its entry point, and what it imports in the course of `repro` and `status`
    "dvc.cli:main,dvc.commands.repro,dvc.repo.reproduce,dvc.commands.status,dvc.repo.status,dvc.stage.run,"
    "dvc.cachemgr,dvc.data_cloud,dvc.rwlock,dvc.scm,dvc.analytics,dulwich.repo,dulwich.walk,dvc_render"
)
_NO_SERVER: Mapping[str, str] = {}
_TAIL_LINES = 30  # of a failed stage's output, repeated in the error


class StageFailedError(RuntimeError):
    """A stage of dvc.yaml ended with an error; the message holds the end of its output."""

    @property
    def reason(self) -> str:
        """The line in which the stage itself says what ended it, else the last one that is not DVC's."""
        lines = [line for line in str(self).splitlines() if not line.startswith("ERROR: failed to reproduce")]
        own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return own[-1] if own else lines[-1]

    @property
    def summary(self) -> str:
        """Stage and reason on one line."""
        return f"{str(self).partition(':')[0]}: {self.reason}"


@dataclass(frozen=True)
class StageRun:
    """The run of one stage of dvc.yaml, for all its classes together."""

    name: str
    skipped: bool  # nothing that it depends on has changed
    seconds: float


def stage_server(anew: Mapping[str, str] | None = None) -> ForkServer:
    """A fork server for DVC and the stages; `anew`: the variables that `run_stage` is given."""
    return ForkServer({**_environment(), **(anew or {})})


@task
def find_stale(root: Path, server: Mapping[str, str] = _NO_SERVER) -> frozenset[str]:
    """The stages (`import`, `features`, …, without their class) that `dvc status` says must run again."""
    return frozenset(name.partition("@")[0] for name in stale_targets(root, server))


def stale_targets(root: Path, server: Mapping[str, str] = _NO_SERVER) -> frozenset[str]:
    """Stale stages class by class: `import@bolt`. Updates the code hashes first: changed code makes a stage stale."""
    _mend_lock_file(root)
    write_code_hashes(Layout(root))
    command, environment = _dvc("status", "--json", server=server), {**_environment(), **server}
    answer = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise StageFailedError(f"dvc status: {answer.stderr.strip() or answer.stdout.strip()}")
    reasons: dict[str, list[object]] = json.loads(answer.stdout or "{}")
    return frozenset(name for name, why in reasons.items() if why != [_ALWAYS_CHANGED])


@task(task_run_name="stage {name}")
def run_stage(
    root: Path,
    name: str,
    stale: bool,
    on_metric: Metric | None = None,
    anew: Mapping[str, str] | None = None,
    server: Mapping[str, str] = _NO_SERVER,
) -> StageRun:
    """`dvc repro` of one stage for every class that it is written for; skipped when nothing it reads has changed.

    `anew`: environment variables for a forced run, with nothing taken from or kept in a cache. `server`: the variables
    of a fork server for this environment (`stage_server`).
    Raises StageFailedError with the stage's last lines, which name the rows or values at fault.
    """
    if not stale:
        return StageRun(name, skipped=True, seconds=0.0)
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    ran = False
    command = _dvc("repro", "--single-item", *(_ANEW if anew is not None else ()), name, server=server)
    environment = {**_environment(), **(anew or {}), **server}
    with (
        subprocess.Popen(
            command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
        _bars() as bars,
        _ended_together(process),
    ):
        for line in process.stdout or ():
            ran = ran or line.startswith("Running stage") or _RESTORED in line
            _forward(line.rstrip(), bars, tail, on_metric)
    if process.returncode:
        raise StageFailedError(f"stage {name} failed:\n" + "\n".join(tail))
    return StageRun(name, skipped=not ran, seconds=time.monotonic() - started)


def merge_runs(runs: Sequence[StageRun], again: Sequence[StageRun]) -> list[StageRun]:
    """Each stage of `runs`, with the time of its second run added."""
    seconds = {run.name: run.seconds for run in again}
    return [
        replace(run, skipped=False, seconds=run.seconds + seconds[run.name]) if run.name in seconds else run
        for run in runs
    ]


def _mend_lock_file(root: Path) -> None:
    """Remove DVC's list of path locks where a kill left it half written, or no process in it is alive.

    DVC itself takes a process for alive when a later process has its id, as after a restart of the machine, or when it
    is a zombie, and reports that it is busy until a person removes the list.
    """
    locks = root / ".dvc/tmp/rwlock"
    if not locks.is_file():
        return
    try:
        held, written_at = read_json(locks), locks.stat().st_mtime
    except ValueError:
        locks.unlink()
        return
    holders = [*held.get("write", {}).values(), *chain.from_iterable(held.get("read", {}).values())]
    if holders and not any(_lives(holder["pid"], written_at) for holder in holders):
        locks.unlink()


def _lives(pid: int, since: float) -> bool:
    """Whether the process that had the id at that time is still running."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= since and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _ended_together(process: subprocess.Popen[str]) -> Iterator[None]:
    """Where the block is left by an error or an interrupt, end DVC and the stages that run below it as well.

    A stage is a child of the fork server, and not of the process that stands for it (shadowline/core/fork_server.py).
    """
    try:
        yield
    except BaseException:
        group = os.getpgrp()
        children = [child for child in psutil.Process().children(recursive=True) if _group_of(child) == group]
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGINT)  # which the fork server itself ignores
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        process.kill()  # and with it the command that it stands for
        raise


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


class _Bars:
    """One Rich bar per task that a stage reports; a line in the log now and then where there is no terminal."""

    def __init__(self, rich: RichBars | None) -> None:
        self._rich, self._ids, self._logged = rich, dict[str, TaskID](), time.monotonic()

    def update(self, name: str, done: int, total: int, note: str) -> None:
        if self._rich is None:
            if time.monotonic() - self._logged > _LOG_EVERY_S:
                self._logged = time.monotonic()
                get_run_logger().info("%s: %d of %d %s", name, done, total, note)
            return
        if name not in self._ids:
            self._ids[name] = self._rich.add_task(escape(printable(name)), total=total)
        self._rich.update(self._ids[name], completed=done, description=escape(printable(f"{name} {note}")))


@contextmanager
def _bars() -> Iterator[_Bars]:
    if not sys.stderr.isatty():
        yield _Bars(None)
        return
    with RichBars(transient=True) as rich:
        yield _Bars(rich)


def _forward(line: str, bars: _Bars, tail: deque[str], on_metric: Metric | None) -> None:
    record = _parse(line)
    if record is None:
        if line and not line.strip().startswith(_ADVICE):
            tail.append(line)
            get_run_logger().info(line)
    elif record["event"] == "progress":
        bars.update(record["task"], record["done"], record["total"], record["note"])
    elif record["event"] == "metric" and on_metric is not None:
        on_metric(record["name"], record["value"], record["step"])
    elif record["event"] == "message":
        tail.append(record["text"])
        get_run_logger().info(record["text"])


def _parse(line: str) -> dict[str, Any] | None:
    if not line.startswith('{"event"'):
        return None
    try:
        record: dict[str, Any] = json.loads(line)
        return record
    except json.JSONDecodeError:
        return None


def _environment() -> dict[str, str]:
    """For stages: their commands `shadowline` and `python` are beside this interpreter, and they report in JSON."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, WANTED: JSON}


def _dvc(*arguments: str, server: Mapping[str, str] = _NO_SERVER) -> list[str]:
    program = ["-P", "-m", "shadowline.core.forked", FORKED_DVC] if server else ["-m", "dvc"]
    return [sys.executable, *program, *arguments]
