"""Retrain the multi-class inspector: from images to a registered, judged candidate.

shadowline retrain                                  # once, here
shadowline retrain --remeasure                      # measures the latency again, even if nothing has changed
shadowline deploy                                   # on a Prefect server, every quarter
prefect deployment run 'retrain/quarterly'          # there, now
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.evaluation.summary import Summary
from shadowline.records.stores import open_records
from shadowline.stages.pipeline import STAGE_MODULES
from tasks.enrolment.params_transaction import recover_enrolment
from tasks.integrations.audit_log import note_configuration, note_registration, note_training
from tasks.integrations.dvc_pipeline import StageRun, find_stale, merge_runs, run_stage, stage_server
from tasks.integrations.dvc_remote import configure_remote, push_data
from tasks.integrations.git import check_repository, commit_run, project_lock
from tasks.integrations.mlflow_registry import close_run, log_results, register, start_run
from tasks.integrations.model_locations import note_candidate
from tasks.integrations.model_version import ModelVersion
from tasks.integrations.prefect_api import cancel_interrupted
from tasks.integrations.prefect_events import announce_version
from tasks.integrations.registered_version import known_commits
from tasks.integrations.run_datasets import log_datasets
from tasks.training.live_metrics import live_metrics
from tasks.training.production_images import take_in
from tasks.training.reporting import failed_on_latency_only, publish_artifacts, read_summary, write_report
from tasks.training.source_copies import update_copies


@dataclass(frozen=True)
class RetrainResult:
    """The result of a retraining."""

    version: ModelVersion
    passed: bool  # by this run's verdict; that of the version is its tag
    git_commit: str  # of this run; the version's own, its tag, is older where the package was registered before
    report: Path
    stages: tuple[StageRun, ...]


@flow(name="retrain", on_crashed=[cancel_interrupted])
def retrain(root: Path = Path(), remeasure: bool = False) -> RetrainResult:
    """Take in what came since the last time, bring every stage up to date, judge the result, commit what made it,
    register it; one run at a time.

    `remeasure`: time the packaged model again although nothing has changed, as happens by itself where the last
    verdict failed on latency alone.
    """
    with project_lock(root):
        load_params(Layout(root).params)  # raises a clear error outside of a project
        check_repository(root)
        recover_enrolment(root)
        update_copies(load_params(Layout(root).params), root)
        take_in(root, open_records().pairs.engine)
        result = make_version(root, "Retrain", remeasure=remeasure)
    if result.passed:
        announce_version(result.version)
    return result


def make_version(
    root: Path,
    message: str,
    accept: Callable[[Summary], None] = lambda summary: None,
    *,
    remeasure: bool = False,
) -> RetrainResult:
    """From params.yaml as it is to a registered version; `accept` may refuse the summary by raising, before anything
    is committed or registered."""
    layout = Layout(root)
    params = load_params(layout.params)
    note_configuration(params)
    name, about = f"{message}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", f"{message}: {', '.join(params.classes)}."
    run_id = start_run(params.registry.experiment, params.model_dump(mode="json"), name, about)
    stages: list[StageRun] = []
    succeeded = False
    try:
        configure_remote(root)  # so that a wrong address fails now, and not after hours
        stages = run_stages(root, run_id, remeasure)
        summary = read_summary(layout)
        accept(summary)
        report = write_report(layout, params, stages)
        log_results(run_id, summary, [report, layout.summary])
        log_datasets(run_id, layout, summary.num_images)
        publish_artifacts(layout, summary, report)
        provenance = commit_run(root, f"{message}: {len(summary.classes)} classes, params {params.hash()[:12]}")
        push_data(root, known_commits(root, params.registry.model_name))
        version = register(run_id, params, layout, summary, provenance)
        note_candidate(version, datetime.now(UTC))
        note_registration(version, layout)
        succeeded = True
    finally:
        close_run(run_id, succeeded)
        note_training(message, run_id, stages, succeeded, layout)
    return RetrainResult(version, summary.verdict.passed, provenance.git_commit, report, tuple(stages))


def run_stages(root: Path, run_id: str, remeasure: bool = False) -> list[StageRun]:
    """Run every stage in order; from the first stale one on, DVC decides what really has to run.

    Latency is a fact of the machine and the moment: where it alone failed the last verdict, it is measured again, and
    once more where it alone fails this one.
    """
    layout = Layout(root)
    measured_anew = {"cost"} if remeasure or failed_on_latency_only(layout) else set[str]()
    runs: list[StageRun] = []
    with live_metrics(run_id) as add, stage_server() as fork_server:
        server = fork_server.variables
        stale = find_stale(root, server)
        for name in STAGE_MODULES:
            must_ask = name in stale or name in measured_anew or any(not run.skipped for run in runs)
            runs.append(run_stage(root, name, must_ask, add, {} if name in measured_anew else None, server))
        if not runs[-1].skipped and failed_on_latency_only(layout):
            again = [
                run_stage(root, "cost", True, add, {}, server),
                run_stage(root, "summary", True, add, None, server),
            ]
            runs = merge_runs(runs, again)
    return runs
