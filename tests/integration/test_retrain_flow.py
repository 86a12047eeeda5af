"""The whole flow with the real Prefect, DVC, Great Expectations and MLflow, on a tiny project."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from fixtures.tiny_project import CLASSES, MODEL, FirstRun, Project, read_json, wait_until
from shadowline.core.params import load_params
from shadowline.stages.pipeline import STAGE_MODULES

if TYPE_CHECKING:
    from flows.retrain import RetrainResult


def test_the_first_run_runs_every_stage_and_registers_a_challenger(first_run: FirstRun) -> None:
    result, version = first_run.result, first_run.result["version"]
    assert [stage["name"] for stage in result["stages"]] == list(STAGE_MODULES)
    assert not [stage["name"] for stage in result["stages"] if stage["skipped"]]
    assert all(stage["seconds"] > 0 for stage in result["stages"])
    assert result["passed"]
    assert (version["name"], version["version"], version["aliases"]) == (MODEL, "1", ["challenger"])
    assert sorted(read_json(first_run.project.layout.summary)["classes"]) == list(CLASSES)


def test_the_report_exists_and_names_every_class(first_run: FirstRun) -> None:
    page = (first_run.project.root / first_run.result["report"]).read_text(encoding="utf-8")
    assert all(name in page for name in CLASSES)


def test_prefect_shows_the_verdict_the_gates_the_classes_and_the_report(first_run: FirstRun) -> None:
    artifacts = first_run.artifacts
    assert {key: kind for key, (kind, _) in artifacts.items()} == {
        "verdict": "markdown",
        "gates": "table",
        "classes": "table",
        "report": "markdown",  # Prefect writes a link as markdown
    }
    assert "# Passed" in artifacts["verdict"][1]
    assert all(name in artifacts["classes"][1] for name in CLASSES)
    assert "mean_auroc" in artifacts["gates"][1]
    assert first_run.project.layout.report.resolve().as_uri() in artifacts["report"][1]


def test_mlflow_has_every_step_of_the_loss_and_the_results(first_run: FirstRun, in_finished: Project) -> None:
    from tasks.integrations.mlflow_registry import client

    tracking = client()
    run = tracking.get_run(tracking.get_model_version(MODEL, "1").run_id)
    losses = tracking.get_metric_history(run.info.run_id, "train/loss")
    summary = read_json(in_finished.layout.summary)
    assert sorted(point.step for point in losses) == list(range(6))
    assert all(point.value > 0 for point in losses)
    assert run.data.metrics["test/auroc"] == pytest.approx(summary["means"]["auroc"])
    assert run.data.params["train.steps"] == "6"
    assert run.info.status == "FINISHED"
    assert {file.path for file in tracking.list_artifacts(run.info.run_id)} >= {"report.html", "summary.json"}
    assert run.info.run_name.startswith("Retrain, 20")
    about = run.data.tags["mlflow.note.content"]
    assert about.startswith("**Passed** its gates.") and "Images per class: dots (60), stripes (60)." in about
    assert tracking.get_model_version(MODEL, "1").description == about
    digests = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    locked = in_finished.outputs()
    assert digests == {name: locked[f"data/manifest/{name}.parquet"] for name in CLASSES}


def test_the_registered_commit_contains_the_lock_that_made_the_model(first_run: FirstRun) -> None:
    project, tags = first_run.project, first_run.result["version"]["tags"]
    lock = subprocess.run(
        ["git", "show", f"{tags['git_commit']}:dvc.lock"], cwd=project.root, capture_output=True, check=True
    ).stdout
    assert hashlib.sha256(lock).hexdigest() == tags["dvc_lock_sha256"]
    assert project.git("show", "--name-only", "--format=", tags["git_commit"]) == "dvc.lock"
    assert project.git("status", "--porcelain") == ""


def test_a_second_run_computes_nothing_and_registers_nothing_new(prefect_server: str, in_project: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    before, outputs = _written(in_project), in_project.outputs()
    head = in_project.git("rev-parse", "HEAD")
    result = in_project.retrain().result()
    assert all(stage.skipped for stage in result.stages)
    assert (_written(in_project), in_project.outputs()) == (before, outputs)
    assert in_project.git("rev-parse", "HEAD") == head
    assert [version.version for version in list_versions(MODEL)] == ["1"]
    assert result.version.version == "1"


def _written(project: Project) -> dict[str, int]:
    """Path → time of the last write, of all that stages write."""
    folders = (project.root / "models", project.root / "data")
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    others = ("report", "records.db", "records.db-wal", "records.db-shm", "audit")  # of the flow, not of a stage
    return {str(path): path.stat().st_mtime_ns for path in files if not {*others} & {*path.parts}}


def test_a_negative_verdict_takes_the_challenger_away_and_leaves_the_champion_and_its_tags(
    prefect_server: str, in_project: Project, prefect_log: pytest.LogCaptureFixture
) -> None:
    from tasks.integrations.mlflow_registry import client, list_versions, promote

    promote(MODEL, "1", replaces=None)
    (before,) = list_versions(MODEL)
    in_project.edit_params(gates={"min_mean_auroc": 1.0})  # strict: nothing passes
    result = in_project.retrain().result()
    (version,) = list_versions(MODEL)
    head = in_project.git("rev-parse", "HEAD")
    assert (result.passed, result.git_commit) == (False, head)
    assert [stage.name for stage in result.stages if not stage.skipped] == ["summary"]
    assert version.aliases == ("champion",)
    assert "params.yaml" in in_project.git("show", "--name-only", "--format=", "HEAD")
    run = client().get_run(version.tags["last_judged_run"])
    assert version.tags == {**before.tags, "last_judged_run": run.info.run_id}
    told = {"judges": version.uri, "verdict": "not passed", "failed_gates": "mean_auroc", "git_commit": head}
    assert told.items() <= run.data.tags.items()
    assert (
        f"commit {head} makes the package that was registered from commit {before.tags['git_commit']}"
        in prefect_log.text
    )
    with pytest.raises(ValueError, match="passed once, and fails mean_auroc by the gates of run"):
        promote(MODEL, "1", replaces="1")


def test_a_latency_that_fails_is_measured_again_and_takes_nothing_from_a_version_that_passed(
    prefect_server: str, in_project: Project
) -> None:
    from tasks.integrations.mlflow_registry import client, list_versions, promote

    promote(MODEL, "1", replaces=None)
    (before,) = list_versions(MODEL)
    in_project.edit_params(gates={"max_latency_ms": 0.001})
    first = in_project.retrain().result()
    assert (first.passed, _ran(first)) == (False, ["cost", "summary"])  # measured again within the run
    again = in_project.retrain().result()  # with nothing changed
    assert (again.passed, _ran(again)) == (False, ["cost", "summary"])
    (failed,) = list_versions(MODEL)
    assert failed.aliases == before.aliases == ("challenger", "champion")
    assert {**failed.tags, **before.tags} == failed.tags
    judged = client().search_runs(["1"], f"tags.judges = '{before.uri}'")
    assert {run.data.tags["failed_gates"] for run in judged} == {"latency_ms"} and len(judged) == 2
    assert promote(MODEL, "1", replaces="1").version == "1"


def test_a_version_that_failed_on_latency_passes_when_it_is_measured_again_and_never_turns_back(
    prefect_server: str, in_project: Project
) -> None:
    from shadowline.records.audit_log.entry import EntryKind
    from shadowline.records.stores import open_records
    from tasks.integrations.mlflow_registry import list_versions

    (in_project.root / "mlflow.db").unlink()
    in_project.edit_params(gates={"max_latency_ms": 0.001})
    registered = in_project.retrain().result().version
    assert (registered.aliases, registered.tags["verdict"]) == ((), "not passed")
    in_project.edit_params(gates={"max_latency_ms": 60_000})
    result = in_project.retrain().result()
    turned = result.version
    assert (turned.aliases, turned.tags["verdict"]) == (("challenger",), "passed")
    assert turned.tags["verdict_commit"] == result.git_commit != registered.tags["git_commit"]
    kept = ("git_commit", "dvc_lock_sha256", "params_hash", "results_run", "environment", "num_images")
    assert {name: turned.tags[name] for name in kept} == {name: registered.tags[name] for name in kept}
    bodies = [entry.facts for entry in open_records().chain.entries(kinds=[EntryKind.REGISTRATION], subject=turned.uri)]
    assert [body["verdict"] for body in bodies[-2:]] == ["not passed", "passed"]
    assert bodies[-1]["verdict_run"] == turned.tags["verdict_run"]
    in_project.edit_params(gates={"min_mean_auroc": 1.0})
    assert not in_project.retrain().result().passed
    assert [version.tags["verdict"] for version in list_versions(MODEL)] == ["passed"]


def test_remeasure_times_the_package_again_although_nothing_has_changed(
    prefect_server: str, in_project: Project
) -> None:
    from flows.retrain import retrain

    before = read_json(in_project.layout.cost)
    assert _ran(retrain(remeasure=True)) == ["cost", "summary"]
    after = read_json(in_project.layout.cost)
    assert after["memory"] == before["memory"] and after["latency"] != before["latency"]
    assert read_json(in_project.layout.summary)["latency_ms"]["p95"] == after["latency"]["p95_ms"]


def _ran(result: RetrainResult) -> list[str]:
    return [stage.name for stage in result.stages if not stage.skipped]


def test_a_model_that_never_passed_is_registered_without_an_alias(prefect_server: str, in_project: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions, promote

    (in_project.root / "mlflow.db").unlink()
    in_project.edit_params(gates={"max_memory_mb": 1.0})
    result = in_project.retrain().result()
    (version,) = list_versions(MODEL)
    assert (result.passed, version.version, version.aliases) == (False, "1", ())
    with pytest.raises(ValueError, match="verdict 'not passed'; only a passed version can lead"):
        promote(MODEL, "1", replaces=None)


def test_a_critical_check_turns_the_flow_red_and_nothing_after_it_runs(
    prefect_server: str, in_project: Project
) -> None:
    from tasks.integrations.dvc_pipeline import StageFailedError
    from tasks.integrations.mlflow_registry import client, list_versions

    outputs, head = in_project.outputs(), in_project.git("rev-parse", "HEAD")
    severity = load_params(in_project.layout.params).validation.severity.model_dump(mode="json")
    in_project.edit_params(validation={"min_normal": 100, "severity": {**severity, "min_normal": "critical"}})
    state = in_project.retrain()
    assert state.is_failed()
    words = r"(?s)stage validate failed.*dots.*min_normal: 32, expected at least 100"
    with pytest.raises(StageFailedError, match=words):
        state.result()
    assert in_project.outputs() == outputs
    assert in_project.git("rev-parse", "HEAD") == head
    assert [version.version for version in list_versions(MODEL)] == ["1"]
    newest = client().search_runs(["1"], order_by=["attributes.start_time DESC"])[0]
    assert newest.info.status == "FAILED"


def test_stages_find_their_commands_where_the_environment_is_not_activated(
    prefect_server: str, in_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.retrain import retrain

    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")  # git is there, `shadowline` is not
    in_project.edit_params(gates={"max_latency_ms": 70_000})
    result = retrain()
    assert [stage.name for stage in result.stages if not stage.skipped] == ["summary"]


def test_a_dirty_file_is_refused_by_name_before_any_work(prefect_server: str, in_project: Project) -> None:
    (in_project.root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (in_project.root / "notes.txt").write_text("not committed", encoding="utf-8")
    state = in_project.retrain()
    assert state.is_failed()
    assert "2 uncommitted changes beside params.yaml and dvc.lock: dvc.yaml, notes.txt" in str(state.message)


def test_a_folder_without_git_is_refused(prefect_server: str, in_project: Project) -> None:
    shutil.rmtree(in_project.root / ".git")
    state = in_project.retrain()
    assert state.is_failed()
    assert "not a git repository; run `git init`" in str(state.message)


def test_of_two_runs_at_once_one_wins_and_the_other_says_who_is_there(prefect_server: str, project: Project) -> None:
    project.edit_params(evaluation={"bootstrap": 25})
    first = project.start("shadowline", "retrain")
    wait_until(lambda: (project.root / ".shadowline/run.pid").read_text() == str(first.pid), first)
    os.killpg(first.pid, signal.SIGSTOP)  # it holds the project until the second one has tried
    second = project.shadowline("retrain")
    os.killpg(first.pid, signal.SIGCONT)
    output, _ = first.communicate(timeout=200)
    assert second.returncode == 2
    assert f"another run (process {first.pid}) is at work here; wait for its end or stop it" in second.stderr
    assert first.returncode == 0, output
    assert project.stale() == set()
    assert project.git("status", "--porcelain") == ""
