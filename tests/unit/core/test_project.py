"""The project is found from the current folder upwards; outside of one no command does anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from fixtures.learning import ROOT
from shadowline.core.project import NoProjectError, anywhere, find_project, in_project, require_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "deep" / "er").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    return root


def test_the_nearest_project_upwards_is_found(project: Path) -> None:
    inner = project / "deep"
    assert find_project(project) == find_project(inner / "er") == project
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, inner / name)
    assert find_project(inner / "er") == inner


@pytest.mark.parametrize("present", [(), ("params.yaml",), ("dvc.yaml",)])
def test_half_a_project_is_none(tmp_path: Path, present: tuple[str, ...]) -> None:
    for name in present:
        shutil.copy(ROOT / name, tmp_path / name)
    assert find_project(tmp_path) is None
    with pytest.raises(NoProjectError, match="go to your project, or make one with `shadowline init`"):
        require_project(tmp_path)


def test_a_project_of_dvc_that_is_not_ours_is_none(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("lr: 0.1\n", encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: python train.py}}\n", encoding="utf-8")
    assert find_project(tmp_path) is None


def command(
    image: Path,
    more: Annotated[list[Path] | None, typer.Option()] = None,
    location: str = "",
    name: str = "here",
    out: Path = Path("out"),
) -> None:
    typer.echo(repr({"cwd": str(Path.cwd()), **{key: value for key, value in locals().items() if key != "cwd"}}))


def run(function: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(in_project(function))
    return CliRunner().invoke(app, list(arguments))


def test_what_the_caller_names_counts_from_the_caller_and_defaults_from_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = project / "deep"
    (here / "here").touch()
    monkeypatch.chdir(here)
    answer = run(command, "a.png", "--more", "er/b.png", "--location", "er", "--name", "er")
    assert answer.exit_code == 0, answer.output
    seen = eval(answer.output, {"PosixPath": Path})
    assert seen == {
        "cwd": str(project),
        "image": here / "a.png",
        "more": [here / "er/b.png"],
        "location": str(here / "er"),
        "name": "er",  # names a folder as well, and is not meant to
        "out": Path("out"),
    }


def test_in_the_root_itself_nothing_is_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    answer = run(command, "a.png", "--location", "s3://bucket/images")
    seen = eval(answer.output, {"PosixPath": Path})
    assert (seen["cwd"], seen["image"], seen["location"]) == (str(project), Path("a.png"), "s3://bucket/images")


def test_outside_only_a_command_that_needs_no_project_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(run(command, "a.png").exception, NoProjectError)

    @anywhere
    def free(image: Path) -> None:
        typer.echo(image)

    assert run(free, "a.png").output == "a.png\n"
    assert list(tmp_path.iterdir()) == []
