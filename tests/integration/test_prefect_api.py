"""The Prefect server that a run starts for itself, and Ctrl-C in the terminal of that run."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fixtures.learning import ROOT
from shadowline.core.network import why_unreachable

_RUN = """
import time
from flows.commands.running import running

with running(lambda root, params: None):
    from prefect import flow
    from prefect.settings import PREFECT_API_URL
    from tasks.integrations.prefect_api import cancel_interrupted

    @flow(name="work", on_crashed=[cancel_interrupted])
    def work():
        print(PREFECT_API_URL.value(), flush=True)
        time.sleep(600)

    work()
"""


def test_ctrl_c_in_a_terminal_ends_a_run_which_is_marked_cancelled_and_its_server_ends_with_it(tmp_path: Path) -> None:
    own = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_DATABASE_CONNECTION_URL")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert why_unreachable(address) == "", process.communicate(timeout=60)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.endswith("stopped; run the same command again, it goes on where it was\n")
    assert "Traceback" not in err
    wait_for(lambda: why_unreachable(address) == "Connection refused")
    database = sqlite3.connect(tmp_path / ".shadowline/prefect/prefect.db")
    assert database.execute("select state_type from flow_run").fetchall() == [("CANCELLED",)]
    database.close()
    assert not (tmp_path / ".prefect/prefect.db").exists()


def wait_for(happened: Callable[[], bool]) -> None:
    """The server ends a moment after the process that it belongs to."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
