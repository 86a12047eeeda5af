"""Git from Prefect: a registered model's commit must really contain the code, parameters and lock that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import task

from shadowline.core.git import COMMITTED_BY_RUNS, RepositoryError, committer, other_changes, run_git
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout


@dataclass(frozen=True)
class Provenance:
    git_commit: str
    dvc_lock_sha256: str


@contextmanager
def project_lock(root: Path, *, wait: bool = False) -> Iterator[None]:
    """Let one run at a time work in a project. The operating system holds the lock: a killed run releases it.

    While another run holds it, wait for its end, or raise RepositoryError that names the process.
    """
    scratch = Layout(root).scratch
    scratch.mkdir(exist_ok=True)
    owner = scratch / "run.pid"
    try:
        lock = FileLock(scratch / "run.lock").acquire(timeout=-1 if wait else 0)
    except Timeout:
        pid = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise RepositoryError(
            f"{root.resolve()}: another run (process {pid}) is at work here; wait for its end or stop it"
        ) from None
    with lock:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield


@task
def check_repository(root: Path) -> None:
    """Refuse before hours of work what `commit_run` would refuse after them."""
    if run_git(root, "rev-parse", "--is-inside-work-tree", check=False) != "true":
        raise RepositoryError(f"{root.resolve()}: not a git repository; run `git init` and commit the project first")
    if not run_git(root, "rev-parse", "--verify", "HEAD", check=False):
        raise RepositoryError(f"{root.resolve()}: no commit yet; commit the project first")
    lock = root / run_git(root, "rev-parse", "--git-path", "index.lock")
    if lock.exists():
        raise RepositoryError(f"{lock}: another git command is at work here, or was killed; then remove this file")
    _refuse_other_changes(root)


@task
def commit_run(root: Path, message: str) -> Provenance:
    """Commit params.yaml and dvc.lock when they changed; nothing else is ever committed."""
    _refuse_other_changes(root)
    present = [name for name in COMMITTED_BY_RUNS if (root / name).is_file()]
    run_git(root, "add", "--", *present)
    if run_git(root, "diff", "--cached", "--name-only", "--", *present):
        run_git(root, *committer(root), "commit", "--quiet", "--only", "-m", message, "--", *present)
    return Provenance(run_git(root, "rev-parse", "HEAD"), file_sha256(root / "dvc.lock"))


def has_commit(root: Path, commit: str) -> bool:
    return run_git(root, "cat-file", "-t", f"{commit}^{{commit}}", check=False) == "commit"


def require_clean(root: Path) -> None:
    """Raises RepositoryError for uncommitted changes, which a later `revert_to_head` would lose."""
    changed = run_git(root, "status", "--porcelain", "--", *COMMITTED_BY_RUNS)
    if changed:
        raise RepositoryError(f"uncommitted changes in {' and '.join(COMMITTED_BY_RUNS)}: commit or revert them first")


def revert_to_head(root: Path) -> None:
    """Reset params.yaml, dvc.lock and everything that DVC keeps to the last commit."""
    run_git(root, "checkout", "HEAD", "--", *(name for name in COMMITTED_BY_RUNS if run_git(root, "ls-files", name)))
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "checkout", "--force"], cwd=root, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise RepositoryError(f"dvc checkout: {answer.stderr.strip()}; run `dvc repro` to make what is missing again")


def _refuse_other_changes(root: Path) -> None:
    others = other_changes(root)
    if others:
        listed = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise RepositoryError(
            f"{len(others)} uncommitted changes beside params.yaml and dvc.lock: {listed}; "
            "commit or stash them, so that the registered commit contains what made the model"
        )
