"""What `shadowline doctor` finds: each thing that blocks is named with what to do, and no secret is printed."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from fixtures.learning import ROOT
from shadowline.cli.app import app
from shadowline.cli.doctor import doctor
from shadowline.cli.health import (
    Health,
    check_clock,
    check_database,
    check_device,
    check_disk,
    check_history,
    check_project,
    check_rights,
    check_server,
    check_weights,
)
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.settings import Settings

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def _run(*arguments: str) -> Result:
    command = typer.Typer()
    command.command()(doctor)
    return CliRunner().invoke(command, list(arguments))


def test_the_version_is_printed_without_a_project() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, "shadowline 0.1.0\n")


def test_all_checks_as_a_table_and_as_json_and_a_missing_file_of_weights_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_DEVICE", "cpu")
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    result = _run("--json")
    checks = {check["name"]: check for check in json.loads(result.output)}
    assert result.exit_code == 2
    names = {"Python", "torch", "project", "device", "database", "MLflow", "disk", "permissions", "clock"}
    assert checks.keys() >= names
    blocked = {name for name, check in checks.items() if check["health"] == "blocked"}
    assert blocked == {"encoder weights", "legacy weights"}
    assert "shadowline data fetch" in checks["encoder weights"]["advice"]
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"], "it changes nothing"
    table = _run()
    assert table.exit_code == 2 and "blocked" in table.output


def test_a_project_that_cannot_be_read_blocks_and_no_project_warns(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert check_project(layout).health is Health.WARNING
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    layout.params.write_text(yaml.safe_dump({**values, "sede": 7}), encoding="utf-8")
    found = check_project(layout)
    assert found.health is Health.BLOCKED and "did you mean seed?" in found.found


def test_weights_that_are_there_are_ok(tmp_path: Path, params: Params) -> None:
    for location in (params.encoder.location, params.legacy.location):
        (tmp_path / location).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / location).write_bytes(b"weights")
    assert [check.health for check in check_weights(params, Layout(tmp_path))] == [Health.OK, Health.OK]


def test_a_device_without_its_driver_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOWLINE_DEVICE", "cuda:9")
    found = check_device("cuda:9")
    assert found.health is Health.BLOCKED and "SHADOWLINE_DEVICE" in found.advice


def test_a_database_that_is_away_blocks_without_its_password() -> None:
    found = check_database("postgresql+psycopg://ada:s3cret@127.0.0.1:9/records")
    assert found.health is Health.BLOCKED and "SHADOWLINE_DATABASE_URL" in found.advice
    assert "s3cret" not in found.found
    assert check_database("nonsense").health is Health.BLOCKED


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    """Answers every request with the date that its attribute `date` holds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", format_datetime(running.date, usegmt=True))  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_is_asked_for_its_health_and_its_clock(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"http://ada:s3cret@127.0.0.1:{server.server_port}"
    for late, health in ((timedelta(), Health.OK), (timedelta(hours=1), Health.WARNING)):
        server.date = datetime.now(UTC) - late  # type: ignore[attr-defined]
        (found,) = check_server("MLflow", address, "/health", "SHADOWLINE_TRACKING_URI")
        assert found.health is health and "s3cret" not in found.found
    assert "clock" in found.found and "NTP" in found.advice


def test_a_server_that_does_not_answer_blocks_and_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (found,) = check_server("Prefect", "http://ada:s3cret@127.0.0.1:9/api", "/health", "PREFECT_API_URL")
    assert found.health is Health.BLOCKED and "PREFECT_API_URL" in found.advice and "s3cret" not in found.found
    assert check_server("Prefect", "", "/health", "PREFECT_API_URL") == []


@pytest.mark.parametrize(("free_gb", "health"), [(0.5, Health.BLOCKED), (5.0, Health.WARNING), (50.0, Health.OK)])
def test_a_full_disk_blocks_and_a_nearly_full_one_warns(free_gb: float, health: Health) -> None:
    found = check_disk("disk", Path("/srv"), int(free_gb * 1e9))
    assert found.health is health and bool(found.advice) == (health is not Health.OK)


def test_keys_that_others_may_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "keys/key-1.pem"
    key.parent.mkdir()
    key.write_text("private", encoding="ascii")
    monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(key.parent))
    for mode, names in ((0o600, ["permissions"]), (0o644, ["permissions", "audit keys"])):
        key.chmod(mode)
        assert [check.name for check in check_rights(Layout(tmp_path), Settings())] == names


def test_a_clock_before_the_last_change_of_the_project_blocks(tmp_path: Path) -> None:
    assert check_clock(NOW, NOW - timedelta(days=1)).health is Health.OK
    behind = check_clock(NOW, NOW + timedelta(days=1))
    assert behind.health is Health.BLOCKED and "2026-01-06" in behind.found
    layout = Layout(tmp_path)
    assert check_history(layout).health is Health.OK, "no file yet"
    layout.params.write_text("seed: 7", encoding="utf-8")
    assert check_history(layout).health is Health.OK
    tomorrow = time.time() + 86_400
    os.utime(layout.params, (tomorrow, tomorrow))
    assert check_history(layout).health is Health.BLOCKED
