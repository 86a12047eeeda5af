"""What can be known before a run is one line and exit code 2, and nothing has been started then."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from fixtures.learning import ROOT
from fixtures.tiny_project import free_port
from flows.commands import running
from shadowline.cli.app import main

Commands = pytest.mark.parametrize(
    "command", [("retrain",), ("enroll", "bolt"), ("bank", "update", "textile")], ids=" ".join
)
Usage = namedtuple("Usage", "total used free")


class StartedError(Exception):
    """Something was started."""


@pytest.fixture
def registry() -> Iterator[int]:
    """The port of a model registry, of which nothing but that it listens is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: int) -> Path:
    """A project in which everything that a run needs is there, so that it would start."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    weights = tmp_path / yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["encoder"]["location"]
    weights.parent.mkdir(parents=True)
    weights.touch()
    (tmp_path / "dvc.lock").touch()  # it has been trained before
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".gitignore").write_text("data\n.shadowline\n*.db\n", encoding="utf-8")
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "A project")):
        identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".shadowline/prefect"))
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS", "tasks.integrations.prefect_console.ConsoleHandler")
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", f"http://127.0.0.1:{registry}")
    monkeypatch.chdir(tmp_path)

    def start(*_: object) -> None:
        raise StartedError

    monkeypatch.setattr(running, "prefect_api", start)
    return tmp_path


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that ends with exit code 2; its one line, without `error: `."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["shadowline", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert (left.value.code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("error: ")
        return err.removeprefix("error: ").strip()

    return run


@Commands
def test_where_everything_is_there_the_run_starts(
    project: Path, ended: Callable[..., str], command: tuple[str, ...]
) -> None:
    assert ended(*command).startswith("StartedError")


@Commands
def test_a_folder_that_is_no_repository_is_refused(
    project: Path, ended: Callable[..., str], command: tuple[str, ...]
) -> None:
    shutil.rmtree(project / ".git")
    assert ended(*command).endswith("not a git repository; run `git init` and commit the project first")


def test_a_folder_without_dvc_is_refused(project: Path, ended: Callable[..., str]) -> None:
    (project / ".dvc").rmdir()
    assert ended("retrain").endswith("not a DVC project; run `dvc init` and commit what it writes")


def test_uncommitted_changes_are_refused(project: Path, ended: Callable[..., str]) -> None:
    (project / "notes.txt").touch()
    assert "1 uncommitted changes beside params.yaml and dvc.lock: notes.txt; commit or stash them" in ended("retrain")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"stepps": 3}, "unknown key train.stepps; did you mean train.steps?"),
        ({"steps": "many"}, "train.steps: "),
        ({"classes": ["bolt"]}, "train.classes names ['bolt']"),
    ],
)
def test_a_wrong_parameter_is_refused(
    project: Path, ended: Callable[..., str], change: dict[str, object], line: str
) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    values["train"].update(change)
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert line in ended("retrain")


def test_missing_weights_are_refused(project: Path, ended: Callable[..., str]) -> None:
    shutil.rmtree(project / "data")
    line = ended("retrain")
    assert line.startswith("encoder.location: data/downloads/")
    assert line.endswith("is missing; run `shadowline data fetch` or place the file there")


def test_a_full_disk_is_refused(project: Path, ended: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 7_000_000))
    assert ended("retrain").endswith("7 MB free on the disk, need 200 MB; free some first")


def test_a_second_run_is_refused_and_the_first_is_named(project: Path, ended: Callable[..., str]) -> None:
    scratch = project / ".shadowline"
    scratch.mkdir()
    (scratch / "run.pid").write_text("4711", encoding="utf-8")
    with FileLock(scratch / "run.lock"):
        assert "another run (process 4711) is at work here; wait for its end or stop it" in ended("retrain")
    assert ended("retrain").startswith("StartedError")


@Commands
def test_a_dead_model_registry_is_refused_without_its_password(
    project: Path, ended: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    port = free_port()
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", f"http://me:h0rse@127.0.0.1:{port}")
    assert ended(*command).startswith(f"mlflow: http://127.0.0.1:{port}: no server answers (Connection refused)")


@pytest.mark.parametrize("command", [("retrain",), ("rollout", "advance")], ids=" ".join)
def test_a_database_that_cannot_be_used_is_refused_without_its_password(
    project: Path, ended: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SHADOWLINE_DATABASE_URL", f"postgresql+psycopg://me:h0rse@127.0.0.1:{free_port()}/records")
    line = ended(*command)
    assert line.startswith("database postgresql+psycopg://***@127.0.0.1:")
    assert line.endswith("check SHADOWLINE_DATABASE_URL")
    assert "h0rse" not in line


def test_a_stage_that_fails_is_named_with_its_own_reason(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.integrations.dvc_pipeline import StageFailedError

    monkeypatch.setattr(running, "prefect_api", lambda _: nullcontext())
    output = [
        "error: class 'bolt': no image",
        "ERROR: failed to reproduce 'import@bolt': failed to run: x, exited with 2",
    ]
    with (
        pytest.raises(ValueError, match=r"^stage import failed: class 'bolt': no image$"),
        running.running(running.check_records),
    ):
        raise StageFailedError("stage import failed:\n" + "\n".join(output))
    assert os.environ["PREFECT_HOME"].startswith(str(project))
