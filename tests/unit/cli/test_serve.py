"""`serve` looks whether it could listen before it loads anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shadowline.cli.app import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["shadowline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_taken_port_is_refused_before_the_database_and_the_models_are_opened(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    with socket.create_server((host, 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(monkeypatch, "serve", "--host", host, "--port", port) == 2
    line = f"error: --host {host} --port {port}: Address already in use; name another, or stop what listens there\n"
    assert capsys.readouterr().err == line
    assert not records.exists()


def test_an_address_of_another_machine_is_refused(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHADOWLINE_GATEWAY_KEYS", "0123456789abcdef0123456789abcdef")
    assert run(monkeypatch, "serve", "--host", "192.0.2.1") == 2
    assert "error: --host 192.0.2.1 --port 8080: Cannot assign requested address" in capsys.readouterr().err
    assert not records.exists()
