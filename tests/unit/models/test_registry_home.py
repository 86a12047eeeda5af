"""A copied project has files of its own: it neither reads those of the original nor writes there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from shadowline.models.registry_home import former_home, require_own_files
from shadowline.models.registry_uri import resolve
from tasks.integrations.mlflow_registry import client


def enter(root: Path, patch: pytest.MonkeyPatch) -> str:
    """Work in a project; returns its tracking URI, absolute, since MLflow keeps a connection for each URI."""
    patch.chdir(root)
    uri = f"sqlite:///{root}/mlflow.db"
    patch.setenv("SHADOWLINE_TRACKING_URI", uri)
    return uri


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one run that kept a file. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "original"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        enter(root, patch)
        run = client().create_run(client().create_experiment("inspector"))
        client().log_text(run.info.run_id, "first", "first.txt")
    return root


@pytest.fixture
def original(made: Path, tmp_path: Path) -> Path:
    """The project in a place of its own."""
    root = tmp_path / "original"
    shutil.copytree(made, root)
    return root


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    mlflow.set_tracking_uri(None)


def files(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*.txt")}


def test_what_a_copy_writes_lies_in_the_copy(original: Path, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    enter(original, patch)
    client()
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    uri = enter(copy, patch)
    assert former_home(uri, copy) == original
    client().log_text(client().create_run("1").info.run_id, "second", "second.txt")
    assert former_home(uri, copy) is None
    assert (files(original), files(copy)) == ({"first.txt"}, {"first.txt", "second.txt"})


def test_a_moved_project_finds_its_files(original: Path, patch: pytest.MonkeyPatch) -> None:
    enter(original, patch)
    (run,) = client().search_runs(["1"])
    assert run.info.artifact_uri == f"{original}/mlruns/1/{run.info.run_id}/artifacts"
    assert client().list_artifacts(run.info.run_id)[0].path == "first.txt"


def test_a_copy_without_the_files_is_told_where_they_are(original: Path, patch: pytest.MonkeyPatch, made: Path) -> None:
    shutil.rmtree(original / "mlruns")
    enter(original, patch)
    with pytest.raises(ValueError, match=rf"{made}/mlruns.*copy that folder"):
        client()


def test_what_only_reads_a_model_names_the_other_place(original: Path, patch: pytest.MonkeyPatch, made: Path) -> None:
    enter(original, patch)
    with pytest.raises(ValueError, match=rf"files lie in {made}/mlruns.*`shadowline models`"):
        resolve("models:/inspector/1")


def test_another_path_to_the_same_project_is_no_copy(made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made)
    require_own_files(f"sqlite:///{tmp_path}/link/mlflow.db", tmp_path / "link")


@pytest.mark.parametrize("uri", ["http://mlflow.plant:5000", "sqlite:///elsewhere.db", "postgresql://db/mlflow"])
def test_a_store_that_is_not_in_the_project_is_left_alone(made: Path, tmp_path: Path, uri: str) -> None:
    assert former_home(uri, tmp_path) is None
    assert former_home(f"sqlite:///{made}/mlflow.db", tmp_path) is None  # on purpose in another place
