"""What a run asks of git and leaves in it, and the lock that keeps a second run out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.tiny_project import Project, kill, wait_until
from shadowline.core.git import RepositoryError
from tasks.integrations.dvc_pipeline import find_stale
from tasks.integrations.git import check_repository, commit_run, has_commit, project_lock

# Changes more of MLflow's database than SQLite keeps in memory, and does not commit it.
_HALF_A_TRANSACTION = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute("pragma cache_size = 1")
connection.execute("create table half (text)")
connection.executemany("insert into half values (?)", [("x" * 1000,)] * 1000)
print("written", flush=True)
time.sleep(600)
"""

# Holds the project in the current folder until it is killed.
_HOLD = """
import time
from pathlib import Path
from tasks.integrations.git import project_lock
with project_lock(Path()):
    time.sleep(600)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Project:
    """A repository with the two files that a run may commit, and a third."""
    project = Project(tmp_path / "repository")
    project.root.mkdir()
    for name in ("params.yaml", "dvc.lock", "dvc.yaml"):
        (project.root / name).write_text(f"{name}: 1\n", encoding="utf-8")
    (project.root / ".gitignore").write_text(".shadowline/\n", encoding="utf-8")
    project.git("init", "--quiet")
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@localhost")
    project.commit("First")
    return project


def test_a_clean_repository_is_accepted(repository: Project) -> None:
    check_repository.fn(repository.root)


def test_a_run_commits_the_params_and_the_lock_alone(repository: Project) -> None:
    for name in ("params.yaml", "dvc.lock"):
        (repository.root / name).write_text(f"{name}: 2\n", encoding="utf-8")
    check_repository.fn(repository.root)
    provenance = commit_run.fn(repository.root, "A run")
    assert provenance.git_commit == repository.git("rev-parse", "HEAD")
    assert repository.git("show", "--name-only", "--format=%s", "HEAD").split("\n") == [
        "A run",
        "",
        "dvc.lock",
        "params.yaml",
    ]
    assert provenance.dvc_lock_sha256 == hashlib.sha256(b"dvc.lock: 2\n").hexdigest()
    assert repository.git("status", "--porcelain") == ""


def test_nothing_changed_is_nothing_committed(repository: Project) -> None:
    head = repository.git("rev-parse", "HEAD")
    assert commit_run.fn(repository.root, "A run").git_commit == head
    assert repository.git("rev-list", "--count", "HEAD") == "1"


def test_a_new_lock_is_committed_too(repository: Project) -> None:
    repository.git("rm", "--quiet", "dvc.lock")
    repository.git("commit", "--quiet", "-m", "No lock yet")
    (repository.root / "dvc.lock").write_text("new\n", encoding="utf-8")
    check_repository.fn(repository.root)
    commit_run.fn(repository.root, "A run")
    assert repository.git("show", "HEAD:dvc.lock") == "new"


def test_a_machine_without_a_committer_can_commit(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.git("config", "--unset", "user.name")
    repository.git("config", "--unset", "user.email")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    (repository.root / "dvc.lock").write_text("new\n", encoding="utf-8")
    commit_run.fn(repository.root, "A run")
    assert repository.git("log", "-1", "--format=%an <%ae>") == "Shadowline <shadowline@localhost>"


@pytest.mark.parametrize(
    ("name", "shown"), [("dvc.yaml", "dvc.yaml"), ("notes.txt", "notes.txt"), ("with space.txt", "with space.txt")]
)
def test_any_other_change_is_refused_by_name(repository: Project, name: str, shown: str) -> None:
    (repository.root / name).write_text("changed\n", encoding="utf-8")
    for refuse in (check_repository.fn, lambda root: commit_run.fn(root, "A run")):
        with pytest.raises(RepositoryError, match=f"1 uncommitted changes beside .*{shown}.*; commit or stash them"):
            refuse(repository.root)


def test_staged_changes_are_refused_like_others(repository: Project) -> None:
    (repository.root / "dvc.yaml").write_text("changed\n", encoding="utf-8")
    repository.git("add", "dvc.yaml")
    with pytest.raises(RepositoryError, match=r"dvc\.yaml"):
        check_repository.fn(repository.root)


def test_of_many_changes_the_first_are_named(repository: Project) -> None:
    for number in range(7):
        (repository.root / f"note{number}.txt").write_text("new\n", encoding="utf-8")
    with pytest.raises(RepositoryError, match=r"7 uncommitted changes .*note4\.txt, …;"):
        check_repository.fn(repository.root)


def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    with pytest.raises(RepositoryError, match="no commit yet; commit the project first"):
        check_repository.fn(tmp_path)


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="not a git repository; run `git init`"):
        check_repository.fn(tmp_path)


def test_what_a_kill_leaves_of_an_unfinished_write_is_no_change_of_the_repository(project: Project) -> None:
    command = (sys.executable, "-c", _HALF_A_TRANSACTION, str(project.root / "mlflow.db"))
    writer = project.start(*command)
    assert writer.stdout
    assert writer.stdout.readline() == "written\n"
    kill(writer)
    assert (project.root / "mlflow.db-journal").stat().st_size > 0
    (project.root / ".params.yaml.tmp").write_text("half", encoding="utf-8")
    check_repository.fn(project.root)


def test_the_lock_of_a_killed_git_command_is_refused_before_hours_of_work(repository: Project) -> None:
    (repository.root / ".git/index.lock").touch()
    with pytest.raises(RepositoryError, match=r"\.git/index\.lock: another git command .* remove this file"):
        check_repository.fn(repository.root)


def test_a_commit_is_known_and_other_names_are_not(repository: Project) -> None:
    assert has_commit(repository.root, repository.git("rev-parse", "HEAD"))
    assert not has_commit(repository.root, "0" * 40)
    assert not has_commit(repository.root, repository.git("rev-parse", "HEAD:dvc.yaml"))  # a file
    assert not has_commit(repository.root, "no-such-name")


def test_a_second_run_is_refused_by_the_first_ones_process_id(repository: Project) -> None:
    holder = repository.start(sys.executable, "-c", _HOLD)
    owner = repository.root / ".shadowline/run.pid"
    wait_until(lambda: owner.is_file() and owner.read_text() == str(holder.pid), holder)
    try:
        with (
            pytest.raises(RepositoryError, match=rf"another run \(process {holder.pid}\) is at work here"),
            project_lock(repository.root),
        ):
            pytest.fail("two runs hold one project")
    finally:
        kill(holder)
    with project_lock(repository.root):  # the killed run left nothing behind that stops the next one
        pass


def test_a_run_that_failed_lets_the_next_one_in(repository: Project) -> None:
    with pytest.raises(ZeroDivisionError), project_lock(repository.root):
        raise ZeroDivisionError
    with project_lock(repository.root):
        pass


def test_a_lock_of_a_killed_process_whose_id_another_one_has_by_now_stops_nobody(project: Project) -> None:
    """As after a restart of the machine; the lock of one that lives is left to DVC."""
    locks, holder = project.root / ".dvc/tmp/rwlock", {"pid": os.getpid(), "cmd": "dvc repro"}
    for held in ({"write": {"/elsewhere": holder}}, {"read": {"/elsewhere": [holder]}}):
        locks.write_text(json.dumps(held), encoding="utf-8")
        find_stale.fn(project.root)
        assert locks.exists()
        held = json.loads(json.dumps(held).replace("/elsewhere", str(project.root / "data")))
        locks.write_text(json.dumps(held), encoding="utf-8")
        os.utime(locks, (0, 0))
        assert find_stale.fn(project.root) == frozenset()


def test_a_lock_list_that_a_kill_left_half_written_stops_nobody(project: Project) -> None:
    locks = project.root / ".dvc/tmp/rwlock"
    locks.parent.mkdir(exist_ok=True)
    locks.write_text('{"write": {"/data/im', encoding="utf-8")
    assert find_stale.fn(project.root) == frozenset()
