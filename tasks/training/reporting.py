"""What people look at after a run: the HTML report, and Prefect artifacts with the verdict and the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from shadowline.core.atomic_files import read_json, write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.evaluation.gates import Verdict
from shadowline.records.stores import Records
from shadowline.records.timeline import collect_timeline, write_timeline
from shadowline.report.build import build_report
from tasks.integrations.dvc_pipeline import StageRun


@task
def read_summary(layout: Layout) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(layout.summary)
    return summary


def failed_on_latency_only(layout: Layout) -> bool:
    """Whether the last verdict, if there is one, may turn when the latency is measured again."""
    if not layout.summary.is_file():
        return False
    summary = read_json(layout.summary)
    return Verdict.from_dict(summary["verdict"]).failed_on_latency_only


@task
def write_report(layout: Layout, params: Params, runs: list[StageRun]) -> Path:
    """The report, with the time of each stage that ran; skipped stages keep the time of when they last ran."""
    known = read_json(layout.timings)["stages"] if layout.timings.is_file() else []
    seconds = {one["name"]: one["seconds"] for one in known} | {
        run.name: run.seconds for run in runs if not run.skipped
    }
    skipped = {run.name: run.skipped for run in runs}
    stages = [{"name": name, "seconds": value, "skipped": skipped.get(name, False)} for name, value in seconds.items()]
    write_json(layout.timings, {"stages": stages})
    return build_report(layout, params)


@task(cache_policy=NO_CACHE)
def write_migration(records: Records, params: Params, layout: Layout) -> Path:
    """The report again, with the migration as the records tell it."""
    write_timeline(collect_timeline(records, params), layout.timeline)
    return build_report(layout, params)


@task
def publish_artifacts(layout: Layout, summary: dict[str, Any], report: Path) -> None:
    """The verdict, the gates, the classes and a link to the report, on the flow run's page in Prefect."""
    verdict = Verdict.from_dict(summary["verdict"])
    lines = [f"# {'Passed' if verdict.passed else 'Not passed'}", *(f"- {reason}" for reason in verdict.reasons)]
    create_markdown_artifact("\n".join(lines), key="verdict", description="The gates' verdict on this candidate")
    create_table_artifact(
        summary["verdict"]["checks"], key="gates", description="Every gate, measured against its bound"
    )
    create_table_artifact(class_rows(layout, summary), key="classes", description="Image AUROC on test, worst first")
    create_link_artifact(report.resolve().as_uri(), key="report", link_text="Report", description="The HTML report")


def class_rows(layout: Layout, summary: dict[str, Any]) -> list[dict[str, str]]:
    """One row a class, worst first: AUROC with its interval, and what it is compared with."""
    rows = []
    for name in summary["classes"]:
        metrics = read_json(layout.evaluation(name) / "metrics.json")
        fused = metrics["image"]["auroc"]
        parts = {part: f"{metrics['components'][part]['value']:.3f}" for part in ("bank", "reconstruction", "legacy")}
        interval = f"{fused['value']:.3f} [{fused['low']:.3f}, {fused['high']:.3f}]"
        rows.append({"class": name, "auroc": interval, **parts, "false alarms": f"{metrics['decisions']['fpr']:.3f}"})
    return rows
