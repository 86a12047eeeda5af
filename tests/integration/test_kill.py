"""A run that is killed at any moment, all its processes at once: the next one ends where an undisturbed one does."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace

import yaml

from fixtures.tiny_project import MODEL, Project, kill, wait_until

_UNDONE = ("import@dots", "features@dots", "train")
_REPRO = (sys.executable, "-m", "dvc", "repro", "train")  # the process that a flow starts, and kills with itself


def test_kills_during_import_features_and_training_change_no_result(prefect_server: str, in_project: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    expected = in_project.outputs()
    _undo(in_project)
    layout = in_project.layout
    _kill_when(lambda: any(layout.images("dots").glob("*.png")), in_project, *_REPRO)
    assert not layout.manifest("dots").exists()
    _kill_when(lambda: any(layout.scratch.glob("features/*/dots/*.safetensors")), in_project, *_REPRO)
    _kill_when(lambda: layout.features("dots").exists(), in_project, *_REPRO)  # before DVC has noted it
    assert "features@dots" not in in_project.lock()
    _kill_when(lambda: (layout.scratch / "train/checkpoint.safetensors").exists(), in_project, *_REPRO)
    assert "train" not in in_project.lock()
    result = in_project.retrain().result()
    assert in_project.outputs() == expected
    assert {stage.name for stage in result.stages if not stage.skipped} <= {"import", "features", "train"}
    assert in_project.stale() == set()
    assert [version.version for version in list_versions(MODEL)] == ["1"]
    assert not [path for folder in ("data", "models") for path in (in_project.root / folder).rglob("*.tmp")]


def test_kills_during_registration_leave_one_complete_version(prefect_server: str, in_project: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    (in_project.root / "mlflow.db").unlink()
    shutil.rmtree(in_project.root / "mlruns")
    retrain = ("shadowline", "retrain")
    _kill_when(lambda: any(in_project.root.glob("mlruns/**/inspector/config.json")), in_project, *retrain)
    _kill_when(lambda: _num_versions(in_project) > 0, in_project, *retrain)
    result = in_project.retrain().result()
    assert all(stage.skipped for stage in result.stages)
    (version,) = list_versions(MODEL)
    assert version == replace(result.version, tags={**result.version.tags, "audit_entry": version.tags["audit_entry"]})
    assert version.aliases == ("challenger",)
    assert {"git_commit", "dvc_lock_sha256", "params_hash", "verdict", "fingerprint"} <= version.tags.keys()


def _undo(project: Project) -> None:
    """Forget that some stages ever ran: their entries in dvc.lock, their outputs, and DVC's memory of past runs."""
    lock = project.root / "dvc.lock"
    kept = yaml.safe_load(lock.read_text(encoding="utf-8"))
    for name in _UNDONE:
        for out in kept["stages"].pop(name)["outs"]:
            path = project.root / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lock.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    shutil.rmtree(project.root / ".dvc/cache/runs")


def _kill_when(happened: Callable[[], bool], project: Project, *command: str) -> None:
    process = project.start(*command)
    try:
        wait_until(happened, process)
    finally:
        kill(process)


def _num_versions(project: Project) -> int:
    database = project.root / "mlflow.db"
    if not database.exists():
        return 0
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        try:
            return int(connection.execute("select count(*) from model_versions").fetchone()[0])
        except sqlite3.OperationalError:  # its tables are not there yet
            return 0
