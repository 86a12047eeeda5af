"""How a command starts a flow: what can be known before is checked first, then Prefect is there, then the flow runs.

with running(check_training):
    from flows.retrain import retrain

    retrain()
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from shadowline.cli.errors import INTERRUPTED, STOPPED, TERMINATED
from shadowline.cli.output import say
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from tasks.integrations.prefect_api import prefect_api, prepare_prefect

_MIN_FREE_MB = 200  # a run of the smallest project writes more than this


@contextmanager
def running(check: Callable[[Path, Params], None], root: Path = Path()) -> Iterator[None]:
    """A Prefect API around a flow; nothing is started before `check` has passed. Raises ValueError, with one line to
    print, where it does not pass, and where a stage of the flow fails."""
    params = load_params(Layout(root).params)
    prepare_prefect(root)
    check(root, params)
    with prefect_api(root):
        from prefect.exceptions import TerminationSignal

        from tasks.integrations.dvc_pipeline import StageFailedError

        try:
            yield
        except KeyboardInterrupt:
            _leave(INTERRUPTED)
        except TerminationSignal:
            _leave(TERMINATED)
        except StageFailedError as error:
            raise ValueError(error.summary) from None  # its other lines are in the log


def _leave(code: int) -> NoReturn:
    """End the process at once: Prefect's threads would hold it for up to a minute, to deliver what nobody waits for.

    The flow has ended by its own rules before: its run is closed, and what it started has ended.
    """
    say(STOPPED, colour="yellow", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_training(root: Path, params: Params) -> None:
    """A run that trains: no other run is at work, and all of `check_change`."""
    from tasks.integrations.git import project_lock

    with project_lock(root):
        check_change(root, params)


def check_change(root: Path, params: Params) -> None:
    """A run that commits and registers: git, DVC, encoder weights, disk, database and model registry are there."""
    from tasks.integrations.git import check_repository

    check_repository.fn(root)
    _check_dvc(root)
    _check_weights(root, params)
    _check_disk(root)
    check_registry(root, params)


def check_registry(root: Path, params: Params) -> None:
    """A run that registers: the database and the model registry are there."""
    from tasks.integrations.mlflow_registry import client

    check_records(root, params)
    client()


def check_records(root: Path, params: Params) -> None:
    """A run that moves classes: the database is there."""
    from shadowline.records.stores import open_records

    open_records()


def _check_dvc(root: Path) -> None:
    if not (root / ".dvc").is_dir():
        raise ValueError(f"{root.resolve()}: not a DVC project; run `dvc init` and commit what it writes")


def _check_weights(root: Path, params: Params) -> None:
    path = root / params.encoder.location
    if params.encoder.weights != "hub" and not Layout(root).encoder.is_dir() and not path.is_file():
        raise ValueError(f"encoder.location: {path} is missing; run `shadowline data fetch` or place the file there")


def _check_disk(root: Path) -> None:
    free_mb = shutil.disk_usage(root).free / 1e6
    if free_mb < _MIN_FREE_MB:
        raise ValueError(
            f"{root.resolve()}: {free_mb:.0f} MB free on the disk, need {_MIN_FREE_MB} MB; free some first"
        )
