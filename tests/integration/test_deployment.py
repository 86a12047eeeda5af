"""`shadowline deploy` beside a real Prefect server: the schedule that it installs, and a run that it starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.tiny_project import Project, free_port, kill, wait_until

_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def server(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of a server process that the project's commands find."""
    address = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    host, port = httpx.URL(address).host, str(httpx.URL(address).port)
    process = project.start("prefect", "server", "start", "--host", host, "--port", port)
    try:
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as http:
            wait_until(lambda: _get(http, "/health") is True, process)
            yield http
    finally:
        kill(process)


def test_the_deployment_is_due_every_quarter_and_a_run_of_it_completes(project: Project, server: httpx.Client) -> None:
    serving = project.start("shadowline", "deploy", "--work-dir", str(project.root))
    try:
        path = "/deployments/name/retrain/quarterly"
        wait_until(lambda: _get(server, path) is not None, serving)
        deployment = _get(server, path)["id"]
        run = _post(server, f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        ended = _wait_for(lambda: _ended(server, run["id"]), serving)
        nights = _wait_for(lambda: _nights(server, deployment), serving)
    finally:
        kill(serving)
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert {(night.hour, night.minute) for night in nights} == {(1, 0)}
    assert {night.weekday() for night in nights} == {5}  # Saturday
    assert all(night.day <= 7 for night in nights)
    assert {night.month for night in nights} <= {1, 4, 7, 10}
    assert len({(night.year, night.month) for night in nights}) == len(nights)


def _ended(http: httpx.Client, run_id: str) -> Any:
    run = _get(http, f"/flow_runs/{run_id}")
    return run if run["state_type"] in _ENDED else None


def _nights(http: httpx.Client, deployment: str) -> list[datetime]:
    """When the scheduler will start it, as far as it looks ahead."""
    scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    found = _post(http, "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": scheduled})
    return [datetime.fromisoformat(run["expected_start_time"]).astimezone(UTC) for run in found]


def _wait_for(ask: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first answer that is one; fails with the output of a process that ended, or after three minutes."""
    answers: list[Any] = []
    wait_until(lambda: bool(time.sleep(0.2) or answers.append(ask()) or answers[-1]), process, seconds=180)
    return answers[-1]


def _get(http: httpx.Client, path: str) -> Any:
    """JSON values, None where there is no answer yet."""
    try:
        answer = http.get(path)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def _post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    answer = http.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()
