"""What a failed stage says, and how an interrupted one ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.integrations import dvc_pipeline
from tasks.integrations.dvc_pipeline import StageFailedError, _ended_together

_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
_PATIENT = "import time; print('ready', flush=True); time.sleep(600)"
_STUBBORN = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {_PATIENT}"


@pytest.mark.parametrize(
    ("output", "summary"),
    [
        (
            ["advisory: x", "error: class 'bolt': no image", "ERROR: failed to reproduce 'import@bolt': failed to run"],
            "stage import failed: class 'bolt': no image",
        ),
        (
            ["bolt: min_normal: 32, expected at least 100", "ERROR: failed to reproduce 'validate'"],
            "stage import failed: bolt: min_normal: 32, expected at least 100",
        ),
        (["ERROR: Unable to acquire lock"], "stage import failed: ERROR: Unable to acquire lock"),
        ([], "stage import failed: stage import failed:"),
    ],
)
def test_a_failed_stage_is_summed_up_by_its_own_words(output: list[str], summary: str) -> None:
    assert StageFailedError("\n".join(["stage import failed:", *output])).summary == summary


@pytest.mark.parametrize("code", [_PATIENT, _STUBBORN], ids=["ends by itself", "ignores the interrupt"])
def test_an_interrupt_ends_what_runs_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(dvc_pipeline, "_GRACE_S", 0.3)
    command, quiet = [sys.executable, "-c", _CHILD, code], subprocess.DEVNULL
    with (
        pytest.raises(KeyboardInterrupt),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet) as process,
        _ended_together(process),
    ):
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        below = psutil.Process(process.pid).children()
        assert len(below) == 1
        raise KeyboardInterrupt
    assert process.returncode is not None
    assert psutil.wait_procs(below, timeout=5)[1] == []
