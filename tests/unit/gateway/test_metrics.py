"""Gauges of workers that are gone leave the shared directory; those of workers that live stay."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shadowline.gateway.metrics import SHARED_DIRECTORY, forget_dead_workers, shared_directory


def test_the_gauges_of_dead_workers_alone_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARED_DIRECTORY, str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = 1  # of another user, unless the suite runs as root
    names = {pid: [f"gauge_livesum_{pid}.db", f"counter_{pid}.db"] for pid in (dead.pid, living)}
    for name in (*names[dead.pid], *names[living]):
        (tmp_path / name).touch()
    forget_dead_workers()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"counter_{dead.pid}.db", *names[living]}


def test_folders_of_killed_servers_go_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive, dead = os.getpid(), 2**22 + 1  # above the largest process id of Linux
    living, orphaned, killed, older = (
        tmp_path / name
        for name in (f"shadowline-metrics-{alive}-a", f"shadowline-metrics-{dead}-b", f"shadowline-metrics-{dead}-c",
                     "shadowline-metrics-x1y2z3")
    )  # fmt: skip
    for folder in (living, orphaned, killed, older):
        folder.mkdir()
        (folder / f"gauge_livesum_{dead}.db").touch()
    (orphaned / f"counter_{alive}.db").touch()  # its worker has outlived it
    with shared_directory() as own:
        assert set(tmp_path.iterdir()) == {living, orphaned, own}
    assert set(tmp_path.iterdir()) == {living, orphaned}
