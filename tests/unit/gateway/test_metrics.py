"""Gauges of workers that are gone leave the shared directory; those of workers that live stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shadowline.gateway.metrics import SHARED_DIRECTORY, forget_dead_workers


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
