"""Reproduce a registered version, and report what came out the same.

shadowline audit reproduce 3                        # computes everything anew
shadowline audit reproduce 3 --verify-only          # computes nothing: reads every byte that is on record
prefect deployment run 'audit/on-demand' -p version=3
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow

from shadowline.audit.comparison import ReproductionResult
from shadowline.audit.environment import THREADS, describe_environment, environment_differences
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from tasks.audit.reproduction import Checkout, check_out, compare_package, compare_results, recompute
from tasks.audit.verification import keep_result, verify_registered, verify_remote
from tasks.integrations.prefect_api import cancel_interrupted
from tasks.integrations.registered_version import find_registered


@flow(name="audit", on_crashed=[cancel_interrupted])
def audit(
    version: str, root: Path = Path(), verify_only: bool = False, keep: Path | None = None
) -> tuple[ReproductionResult, Path]:
    """Compare a version with its record; returns what was found, and the file that says so.

    `keep`: a folder that does not exist yet, for the clean place; without it the place is gone afterwards. Raises
    ValueError where the version cannot be tried: its commit is gone, its lock is another one, the remote is away.
    """
    started_at, started = datetime.now(UTC), time.monotonic()
    registered = find_registered(load_params(Layout(root).params).registry.model_name, version)
    with _folder(keep) as folder:
        place = check_out(registered, root, folder)
        model = registered.download(folder)
        result = ReproductionResult(
            version=registered.uri,
            git_commit=registered.tag("git_commit"),
            verify_only=verify_only,
            environment=_moved(place),
            environment_known=bool(registered.environment),
            stages=verify_remote(place) if verify_only else recompute(place),
            artifact=verify_registered(place, model),
            package=() if verify_only else compare_package(place, model),
            metrics=() if verify_only else compare_results(place),
            started_at=started_at.isoformat(timespec="seconds"),
            seconds=time.monotonic() - started,
        )
    return result, keep_result(result, root, started_at)


def _moved(place: Checkout) -> tuple[str, ...]:
    """Differences from the recorded environment that remain once the stages run under the same settings."""
    made_with = place.registered.environment
    same = {THREADS: made_with[THREADS]} if THREADS in made_with else {}
    return environment_differences(made_with, {**describe_environment(), **same})


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with TemporaryDirectory(prefix="shadowline-audit-") as folder:
            yield Path(folder)
        return
    if keep.exists():
        raise ValueError(f"{keep}: is there already; name a folder that is not")
    keep.mkdir(parents=True)
    yield keep
