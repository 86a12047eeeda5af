"""Errors become one line that says what to do, without a secret; a fault of the program becomes a file."""

from __future__ import annotations

import errno
from pathlib import Path

import httpx
import pytest
import torch
from botocore.exceptions import EndpointConnectionError
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from shadowline.cli.app import main
from shadowline.cli.errors import error_line, write_fault
from shadowline.core.settings import Settings

SECRET = "h0rse-battery"


def raised_by_sqlalchemy() -> Exception:
    with pytest.raises(OperationalError) as raised, create_engine("sqlite://").connect() as connection:
        connection.execute(text("select :secret from nowhere"), {"secret": SECRET})
    return raised.value


def missing_module(name: str) -> Exception:
    return ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("class 'bolt': 62 images,\n   need 100"), "class 'bolt': 62 images, need 100"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.yaml"), "a.yaml: No such file or directory"),
        (PermissionError(errno.EACCES, "Permission denied", "data/x"), "data/x: Permission denied"),
        (FileNotFoundError("models/inspector: no packaged inspector"), "models/inspector: no packaged inspector"),
        (
            OSError(errno.ENOSPC, "No space left on device", "data/x.tmp"),
            "data/x.tmp: no space left on the disk; free some, then run the same command again, it goes on",
        ),
        (missing_module("psycopg"), "this needs the package psycopg: run `pip install 'shadowline[postgres]'`"),
        (missing_module("open_clip"), "this needs the package open_clip: run `pip install 'shadowline[zero_shot]'`"),
        (missing_module("psycopg2"), "driver psycopg2 is not used here: write postgresql+psycopg://… in the"),
        (MlflowException(f"no http://me:{SECRET}@host/x.\nmore"), "mlflow: no http://***@host/x; check SHADOWLINE_TR"),
        (
            raised_by_sqlalchemy(),
            "sqlalchemy: no such table: nowhere; check SHADOWLINE_TRACKING_URI and SHADOWLINE_DAT",
        ),
        (httpx.ConnectError("All connection attempts failed"), "httpx: All connection attempts failed; check PREFECT_"),
        (
            EndpointConnectionError(endpoint_url="http://s3.plant"),
            'botocore: Could not connect to the endpoint URL: "h',
        ),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "not enough memory: CUDA out of memory. Tried; clo"),
        (MemoryError(), "not enough memory; close other programs, or take a machine with more"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_that_says_what_to_do(error: Exception, line: str) -> None:
    described = error_line(error)
    assert described is not None and described.startswith(line)
    assert "\n" not in described
    assert SECRET not in described


def test_a_setting_that_does_not_fit_is_named_by_its_variable_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHADOWLINE_S3_ENCRYPTION", SECRET)
    monkeypatch.setenv("SHADOWLINE_ALLOW_NETWORK", SECRET)
    with pytest.raises(ValueError) as raised:
        Settings()
    described = error_line(raised.value) or ""
    assert "SHADOWLINE_S3_ENCRYPTION: Input should be '', 'AES256' or 'aws:kms'" in described
    assert "; SHADOWLINE_ALLOW_NETWORK: Input should be a valid boolean" in described
    assert SECRET not in described


@pytest.mark.parametrize("error", [TypeError("f() takes 1"), KeyError("x"), AssertionError(), missing_module("tasks")])
def test_a_fault_of_the_program_is_none_of_the_users(error: Exception) -> None:
    assert error_line(error) is None


@pytest.mark.parametrize("inside", [True, False])
def test_the_traceback_of_a_fault_is_kept_in_a_file_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if inside:
        Path(".shadowline").mkdir()
    try:
        raise TypeError(f"http://me:{SECRET}@host is no path")
    except TypeError as error:
        line = write_fault(error)
    (path,) = tmp_path.rglob("shadowline-fault-*.txt")
    assert line.startswith("TypeError: http://***@host is no path; this is a fault of Shadowline: ")
    assert path.parent.name == (".shadowline" if inside else tmp_path.name)
    assert path.name in line
    kept = path.read_text(encoding="utf-8")
    assert "Traceback" in kept and SECRET not in kept


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["shadowline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("retrain", "--frobnicate"), "No such option: --frobnicate; `shadowline retrain --help` lists what it takes"),
        (("[red]nonsense[/]",), "No such command '[red]nonsense[/]'; `shadowline --help` lists what it takes"),
        (("inspect",), "Missing argument 'images'; `shadowline inspect --help` lists what it takes"),
        (("stage", "[/x]"), "Invalid value for 'name': '[/x]' is not one of 'code', 'classes'"),
        (("serve", "--port", "x"), "Invalid value for '--port': Input should be a valid integer"),
    ],
)
def test_an_error_in_the_command_line_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], line: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_a_group_without_a_command_shows_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data") == 2
    assert "Usage: shadowline data" in capsys.readouterr().out


def test_a_wrong_setting_ends_every_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHADOWLINE_S3_ENCRYPTION", "none")
    assert run(monkeypatch, "models") == 2
    assert capsys.readouterr().err == "error: SHADOWLINE_S3_ENCRYPTION: Input should be '', 'AES256' or 'aws:kms'\n"


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shadowline.cli.assess.load_inventory", interrupt)
    assert run(monkeypatch, "assess", "inventory.yaml") == 130
    assert capsys.readouterr().err == "stopped; run the same command again, it goes on where it was\n"
