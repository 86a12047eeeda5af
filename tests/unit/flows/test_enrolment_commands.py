"""`enroll` takes a class and nothing else; what is on its way is a question of its own."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from fixtures.learning import ROOT
from flows.commands import enroll as commands
from tasks.enrolment import enrolment


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a command came to, in the place of its work."""
    came_to: list[str] = []
    monkeypatch.setattr(enrolment, "list_enrolments", lambda _: came_to.append("list") or [])
    monkeypatch.setattr(commands, "_enroll", lambda name, *_, **__: came_to.append(f"enroll {name}"))
    yield came_to


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command("enroll")(commands.enroll)
    app.add_typer(commands.enrolment, name="enrolment")
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_question_is_a_command_of_its_own(project: Path, asked: list[str]) -> None:
    done = run("enrolment", "status", "--json")
    assert (done.exit_code, done.stdout, done.stderr, asked) == (0, "[]\n", "", ["list"])


def test_the_help_of_enroll_names_one_kind_of_argument() -> None:
    shown = run("enroll", "--help").stdout
    assert "CLASS" in shown and "CLASS|status" not in shown


def test_the_old_question_is_answered_for_one_release_with_a_line_on_stderr(project: Path, asked: list[str]) -> None:
    done = run("enroll", "status", "--json")
    assert (done.exit_code, done.stdout, asked) == (0, "[]\n", ["list"])
    assert done.stderr == "`shadowline enroll status` is going away: use `shadowline enrolment status`\n"


def test_a_product_named_status_is_enrolled(project: Path, asked: list[str]) -> None:
    run("enroll", "status", str(project))
    (project / "data/inbox/status").mkdir(parents=True)
    done = run("enroll", "status")
    assert (done.stderr, asked) == ("", ["enroll status", "enroll status"])


def test_a_class_named_status_is_a_class(project: Path, asked: list[str]) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(text.replace("solar_poly", "status"), encoding="utf-8")
    assert (run("enroll", "status").stderr, asked) == ("", ["enroll status"])


def test_a_wrong_take_in_is_forgotten_and_its_images_are_kept_aside(project: Path) -> None:
    image = project / "data/inbox/bolt/test/ground_truth/0.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"mask")
    done = run("enrolment", "forget", "bolt", "--json")
    told = json.loads(done.stdout)
    assert (told["class_name"], told["num_images"]) == ("bolt", 1)
    assert not (project / "data/inbox/bolt").exists()
    assert (project / told["kept_in"] / "test/ground_truth/0.png").read_bytes() == b"mask"
    with pytest.raises(ValueError, match="class 'bolt': no images in the inbox; classes with images there: none"):
        run("enrolment", "forget", "bolt")


def test_the_images_that_a_class_of_the_model_was_made_from_are_not_forgotten(project: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["classes"]["bolt"] = {"source": "folder", "location": "data/inbox/bolt", "select": "."}
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (project / "data/inbox/bolt/train/good").mkdir(parents=True)
    with pytest.raises(ValueError, match="class 'bolt': it is in the model"):
        run("enrolment", "forget", "bolt")
    assert (project / "data/inbox/bolt").is_dir()


def test_the_group_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["shadowline.commands"]["enrolment"] == "flows.commands.enroll:enrolment"
