"""A change in the code of a stage runs that stage and what hangs on it, and never becomes the commit of an old version.

The packages are copied, and the processes that the flow starts import the copy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.learning import ROOT
from fixtures.tiny_project import MODEL, Project

Command = Callable[..., tuple[int, str, str]]
_EPSILON = ("eps=_NORM_EPS", "eps=0.37")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the packages, which comes first for every process that is started."""
    for package in ("shadowline", "tasks", "flows"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def retrain(project: Project) -> tuple[set[str], str]:
    """The stages that ran, and the version."""
    answer = project.shadowline("retrain", "--json")
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout.splitlines()[-1])
    return {stage["name"] for stage in result["stages"] if not stage["skipped"]}, result["version"]


def test_another_epsilon_of_the_decoder_trains_anew_and_leaves_the_old_version_its_commit(
    prefect_server: str, in_project: Project, code: Path, command: Command
) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    (before,) = list_versions(MODEL)
    _append(code / "shadowline/gateway/app.py", "# another line\n")
    assert retrain(in_project) == (set(), before.uri)

    model = code / "shadowline/models/dinomaly/model.py"
    text = model.read_text(encoding="utf-8")
    assert _EPSILON[0] in text
    model.write_text(text.replace(*_EPSILON), encoding="utf-8")
    ran, uri = retrain(in_project)
    assert ran == {"code", "train", "calibrate", "evaluate", "package", "cost", "summary"}
    newest, old = list_versions(MODEL)
    assert uri == newest.uri != old.uri
    assert {**old.tags, "last_judged_run": ""} == {
        **before.tags,
        "last_judged_run": "",
    }  # the first retraining judged it
    assert newest.tags["git_commit"] == in_project.git("rev-parse", "HEAD") != old.tags["git_commit"]
    for version in (old, newest):
        code_of_version = command("audit", "reproduce", version.version, "--verify-only", "--json")
        assert code_of_version[0] == 0, code_of_version


def test_a_change_that_makes_the_same_model_leaves_the_version_its_commit(
    prefect_server: str, in_project: Project, code: Path
) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    (before,) = list_versions(MODEL)
    _append(code / "shadowline/evaluation/gates.py", "# another line\n")
    ran, uri = retrain(in_project)
    assert (ran, uri) == ({"code", "summary"}, before.uri)
    (after,) = list_versions(MODEL)
    kept = ("git_commit", "dvc_lock_sha256", "params_hash", "environment", "fingerprint", "verdict")
    assert {name: after.tags[name] for name in kept} == {name: before.tags[name] for name in kept}
    assert in_project.git("rev-parse", "HEAD") != before.tags["git_commit"]  # dvc.lock has another hash of the code


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
