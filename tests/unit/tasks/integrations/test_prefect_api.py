"""Which Prefect server a run talks to, and where Prefect keeps its files."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from fixtures.tiny_project import free_port
from tasks.integrations.prefect_api import home_of, prefect_api, require_named_server
from tasks.integrations.prefect_console import ConsoleHandler


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is set here is unset after the test."""
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS", "tasks.integrations.prefect_console.ConsoleHandler")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


def test_a_server_that_is_named_and_gone_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    url = f"http://me:h0rse@127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        for enter in (lambda: prefect_api(tmp_path).__enter__(), require_named_server):
            with pytest.raises(ValueError) as raised:
                enter()
            text, shown = str(raised.value), url.replace("me:h0rse", "***")
            assert text.startswith(f"PREFECT_API_URL {shown}: no server answers (Connection refused); ")
            assert text.endswith("or unset PREFECT_API_URL, and the run has a server of its own")


def test_a_server_that_is_named_and_answers_is_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}), prefect_api(tmp_path) as address:
            assert address == url


def test_prefect_keeps_its_files_in_the_project_and_the_profiles_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    own = str(tmp_path / "project/.shadowline/prefect")
    assert home_of(Path("project")) == {"PREFECT_HOME": own}
    profiles = tmp_path / ".prefect/profiles.toml"
    profiles.parent.mkdir()
    profiles.touch()
    assert home_of(Path("project")) == {"PREFECT_HOME": own, "PREFECT_PROFILES_PATH": str(profiles)}


def test_a_home_that_the_user_has_set_stays(tmp_path: Path) -> None:
    assert home_of(tmp_path) == {}


def test_prefects_lines_on_the_console_are_one_line_without_traceback_secret_or_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = ConsoleHandler()
    try:
        raise ValueError("http://me:h0rse@host")
    except ValueError:
        record = logging.getLogger("prefect").makeRecord(
            "prefect", logging.ERROR, "x.py", 1, "Encountered %r\nin cam[left]/1.png [/urgent]", ("a",), sys_exc_info()
        )
    handler.emit(record)
    err = capsys.readouterr().err
    assert err == "Encountered 'a'\\nin cam[left]/1.png [/urgent]\n"
    assert record.exc_info is not None  # Prefect's own log of the run keeps it


def sys_exc_info() -> object:
    import sys

    return sys.exc_info()
