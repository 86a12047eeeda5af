"""Git in a folder: the only module that starts it."""

from __future__ import annotations

import subprocess
from pathlib import Path


class RepositoryError(ValueError):
    """The repository is not in a state from which a model could be reproduced; the message says what to do."""


COMMITTED_BY_RUNS = ("params.yaml", "dvc.lock")  # the only files that a run may commit


def other_changes(root: Path) -> list[str]:
    """Uncommitted files, but for those that a run commits itself."""
    changed = [line[3:] for line in run_git(root, "status", "--porcelain", strip=False).splitlines()]
    return [name for name in changed if name not in COMMITTED_BY_RUNS]


def run_git(root: Path, *arguments: str, check: bool = True, strip: bool = True, way_out: str = "") -> str:
    """Git's output in `root`. Where git fails: RepositoryError, which ends with `way_out`; without `check`: ""."""
    answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if answer.returncode:
        if not check:
            return ""
        command = next(
            argument for argument in arguments if not argument.startswith("-") and "=" not in argument
        )  # after -c NAME=VALUE
        reason = " ".join(answer.stderr.split())[:300] or "failed"
        raise RepositoryError(f"git {command}: {reason}{f'; {way_out}' if way_out else ''}")
    return answer.stdout.strip() if strip else answer.stdout


def committer(root: Path) -> list[str]:
    """Options of git that name a committer, where the machine has none."""
    if run_git(root, "config", "user.email", check=False):
        return []
    return ["-c", "user.name=Shadowline", "-c", "user.email=shadowline@localhost"]
