"""The one way to git."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from shadowline.core.git import RepositoryError, run_git

ROOT = Path(__file__).parents[4]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def test_a_failure_is_one_line_that_names_the_command_and_the_way_out(repository: Path) -> None:
    with pytest.raises(RepositoryError) as failed:
        run_git(repository, "-c", "user.name=Ada", "checkout", "no-such-branch", way_out="fetch it")
    assert str(failed.value).startswith("git checkout: ")
    assert str(failed.value).endswith("; fetch it")
    assert "\n" not in str(failed.value)


def test_a_question_that_may_fail_is_answered_with_nothing(repository: Path) -> None:
    assert run_git(repository, "rev-parse", "--verify", "HEAD", check=False) == ""


def test_an_answer_keeps_its_blanks_where_they_mean_something(repository: Path) -> None:
    run_git(repository, "config", "user.email", "ada@localhost")
    (repository / "new.txt").touch()
    run_git(repository, "add", "--intent-to-add", "new.txt")
    assert run_git(repository, "status", "--porcelain", strip=False) == " A new.txt\n"
    assert run_git(repository, "status", "--porcelain") == "A new.txt"


def test_no_other_module_starts_git() -> None:
    def starts_git(path: Path) -> bool:
        lists = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.List) and node.elts)
        return any(isinstance(node.elts[0], ast.Constant) and node.elts[0].value == "git" for node in lists)

    files = [path for folder in ("shadowline", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")]
    assert [path.relative_to(ROOT).as_posix() for path in files if starts_git(path)] == ["shadowline/core/git.py"]
