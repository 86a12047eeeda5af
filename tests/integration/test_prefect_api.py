"""The Prefect server that a run starts for itself."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from prefect import flow, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from shadowline.core.network import why_unreachable
from tasks.integrations.prefect_api import cancel_interrupted, own_server


def test_ctrl_c_reaches_the_run_alone_which_is_marked_cancelled_and_the_server_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    interrupted = []

    @flow(on_crashed=[cancel_interrupted], log_prints=False)
    def work() -> None:
        interrupted.append(str(flow_id()))
        raise KeyboardInterrupt

    before = {child.pid for child in psutil.Process().children()}
    with own_server(tmp_path) as address, temporary_settings({PREFECT_API_URL: address}):
        (server,) = [child for child in psutil.Process().children() if child.pid not in before]
        assert os.getpgid(server.pid) == server.pid != os.getpgrp()  # a terminal interrupts the group of its command
        with pytest.raises(KeyboardInterrupt):
            work()
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(interrupted[0]).state
        assert state is not None and state.is_cancelled()
    assert not server.is_running()
    assert why_unreachable(address) == "Connection refused"
    assert (tmp_path / "prefect.db").is_file()


def flow_id() -> str | None:
    from prefect.runtime import flow_run

    identifier: str | None = flow_run.id
    return identifier
