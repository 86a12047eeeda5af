"""What people look at after a run: the HTML report, and Prefect artifacts with the verdict and the figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.summary import Summary
from shadowline.records.stores import Records
from shadowline.records.timeline import collect_timeline, write_timeline
from shadowline.report.build import build_report
from shadowline.report.timings import StageTiming, Timings
from tasks.integrations.dvc_pipeline import StageRun


@task
def read_summary(layout: Layout) -> Summary:
    return Summary.read(layout.summary)


def failed_on_latency_only(layout: Layout) -> bool:
    """Whether the last verdict, if there is one, may change when the latency is measured again."""
    if not layout.summary.is_file():
        return False
    return Summary.read(layout.summary).verdict.failed_on_latency_only


@task
def write_report(layout: Layout, params: Params, runs: list[StageRun]) -> Path:
    """Write the report, with the seconds of each stage that ran; a skipped stage keeps those of its last run."""
    write_timings(layout, runs)
    return build_report(layout, params)


def write_timings(layout: Layout, runs: Iterable[StageRun]) -> None:
    """Update data on each stage that ran; a skipped stage keeps the seconds of its last run."""
    previous = Timings.read(layout.timings).stages if layout.timings.is_file() else ()
    seconds = {stage.name: stage.seconds for stage in previous}
    seconds |= {run.name: run.seconds for run in runs if not run.skipped}
    skipped = {run.name for run in runs if run.skipped}
    stages = tuple(StageTiming(name, value, name in skipped) for name, value in seconds.items())
    Timings(stages=stages).write(layout.timings)


@task(cache_policy=NO_CACHE)
def write_migration(records: Records, params: Params, layout: Layout) -> Path:
    """Write the report again, with the migration according to the records."""
    write_timeline(collect_timeline(records, params), layout.timeline)
    return build_report(layout, params)


@task
def publish_artifacts(layout: Layout, summary: Summary, report: Path) -> None:
    """The verdict, the gates, the classes and a link to the report, on the flow run's page in Prefect."""
    verdict = summary.verdict
    lines = [f"# {'Passed' if verdict.passed else 'Not passed'}", *(f"- {reason}" for reason in verdict.reasons)]
    create_markdown_artifact("\n".join(lines), key="verdict", description="The gates' verdict on this candidate")
    checks = verdict.to_dict()["checks"]
    create_table_artifact(checks, key="gates", description="Every gate, measured against its bound")
    create_table_artifact(class_rows(layout, summary), key="classes", description="Image AUROC on test, worst first")
    create_link_artifact(report.resolve().as_uri(), key="report", link_text="Report", description="The HTML report")


def class_rows(layout: Layout, summary: Summary) -> list[dict[str, str]]:
    """One row a class, worst first: AUROC with its interval, and what it is compared with."""
    rows = []
    for name in summary.classes:
        metrics = ClassMetrics.read(layout.metrics(name))
        fused, components = metrics.image.auroc, metrics.components
        rows.append(
            {
                "class": name,
                "auroc": f"{fused.value:.3f} [{fused.low:.3f}, {fused.high:.3f}]",
                "bank": f"{components.bank.value:.3f}",
                "reconstruction": f"{components.reconstruction.value:.3f}",
                "legacy": f"{components.legacy.value:.3f}",
                "false alarms": f"{metrics.decisions.fpr:.3f}",
            }
        )
    return rows
