"""`shadowline retrain`, `demo`, `deploy`, `models`, `promote`: the flows, from the command line."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.running import check_change, check_training, running
from shadowline.cli.check import refuse_first_training
from shadowline.cli.output import Table, print_tables, say
from shadowline.core.atomic_files import read_json
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.core.project import anywhere, require_project
from shadowline.data.downloads import fetch, named_wheels

if TYPE_CHECKING:
    from flows.retrain import RetrainResult

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def retrain(
    as_json: JsonOption = False,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Measure the latency again, although nothing has changed.")
    ] = False,
) -> None:
    """Bring the model up to date with its images and parameters, judge it, register it. Unchanged stages are skipped.

    A latency that failed the last verdict alone is measured again by itself.

    Exit code 0: all gates passed, 1: not passed, 2: the input or the repository cannot be used.

    Example: `shadowline retrain`
    """
    raise typer.Exit(0 if _run(as_json, remeasure) else 1)


def demo(
    as_json: JsonOption = False,
    migrate: Annotated[bool, typer.Option(help="Play the migration after the registration.")] = True,
) -> None:
    """The whole job on three real product classes: fetch images and weights, train, judge, register, migrate, report.

    The migration runs in fast motion, under the shipped policy with a tick every five minutes: shadow, canary, a
    failing camera and its rollback, a sabotaged candidate that the evidence stops, and the one that arrives.
    Exit code 1 where the gates do not pass or the migration does not come to its end.

    Example: `shadowline demo`
    """
    params = load_params(Layout().params)
    params.of_demo()  # raises a clear error in a project of one's own
    fetch(named_wheels(params), Path("data/downloads"), default_progress())
    passed = _run(as_json)
    if not migrate or not passed:
        raise typer.Exit(0 if passed else 1)
    _migrate()


@anywhere
def deploy(root: Annotated[Path, typer.Option("--work-dir", help="The project's root.")] = Path()) -> None:
    """Install every deployment on a Prefect server and run what becomes due, until stopped.

    The deployments: retrain/quarterly, rollout/tick, decommission/nightly, enroll/on-images, enroll-waiting/poll,
    shadow/batch, shadow-waiting/nightly, backup/nightly, audit/on-demand and approve/ask.

    Example: `PREFECT_API_URL=http://127.0.0.1:4200/api shadowline deploy`
    """
    require_project(root)
    from tasks.integrations.prefect_api import require_named_server

    require_named_server()
    from flows.deployments import serve_deployments

    serve_deployments(root)


def report() -> None:
    """Write the HTML report again from what was measured last.

    Example: `shadowline report`
    """
    from shadowline.report.build import build_report

    layout = Layout()
    say(build_report(layout, load_params(layout.params)))


def models(as_json: JsonOption = False) -> None:
    """List the registered model versions, newest first.

    Example: `shadowline models`
    """
    from tasks.integrations.mlflow_registry import list_versions

    versions = list_versions(load_params(Layout().params).registry.model_name)
    if as_json:
        typer.echo(json.dumps([version.__dict__ for version in versions]))
        return
    table = Table("version", "aliases", "verdict", "commit", "fingerprint")
    for version in versions:
        tags = version.tags
        short = (tags.get("git_commit", "")[:10], tags.get("fingerprint", "")[:12])
        table.add_row(version.version, ", ".join(version.aliases), tags.get("verdict", ""), *short)
    print_tables(table)


def promote(
    version: Annotated[str, typer.Argument(help="The exact version that becomes champion.")],
    replaces: Annotated[
        str | None, typer.Option(help="The exact version that it replaces; none for the first.")
    ] = None,
) -> None:
    """Make one exact version champion in the place of one exact version.

    Example: `shadowline promote 4 --replaces 3`
    """
    from tasks.integrations.audit_log import note_promotion, operator
    from tasks.integrations.mlflow_registry import promote as promote_version

    promoted = promote_version(load_params(Layout().params).registry.model_name, version, replaces)
    note_promotion(promoted, operator(), replaces)
    say(f"{promoted.uri} is champion")


def _run(as_json: bool, remeasure: bool = False) -> bool:
    """Run the flow and print its result; returns whether all gates passed."""
    refuse_first_training(Layout())
    started = time.monotonic()
    with running(check_training):
        from flows.retrain import retrain as flow

        result = flow(remeasure=remeasure)
    seconds = time.monotonic() - started
    if as_json:
        summary = read_json(Layout().summary)
        stages = [asdict(stage) for stage in result.stages]
        typer.echo(json.dumps({"version": result.version.uri, "seconds": seconds, "stages": stages, **summary}))
    else:
        _print(result, seconds)
    return bool(result.passed)


def _migrate() -> None:
    started = time.monotonic()
    with running(check_change):
        from flows.demo_migration import run_demo_migration
        from tasks.rollout.demo_migration import StopReason

        result = run_demo_migration()
    ticks = f"{result.num_ticks + result.num_idle} ticks, {result.num_idle} of them without news"
    line = f"migration: {ticks}, run in {time.monotonic() - started:.0f} s, {result.stop_reason}"
    say(f"{line}; `shadowline rollout history` lists every move")
    raise typer.Exit(0 if result.stop_reason is StopReason.FINISHED else 1)


def _print(result: RetrainResult, seconds: float) -> None:
    from shadowline.evaluation.summary import Summary
    from tasks.training.reporting import class_rows

    layout = Layout()
    summary = Summary.read(layout.summary)
    rows = class_rows(layout, summary)
    table = Table(*rows[0].keys(), title="Image AUROC on the test split, worst class first")
    for row in rows:
        table.add_row(*row.values())
    print_tables(table)
    failed = [check for check in summary.verdict.checks if not check.passed]
    lines = [f"{'advice: ' if check.advisory else ''}{check.reason}" for check in failed]
    if result.passed:
        say("gates passed", colour="green")
    else:
        say("gates not passed", colour="red")
    say(*(f"  {line}" for line in lines))
    skipped = sum(stage.skipped for stage in result.stages)
    say(f"stages: {len(result.stages) - skipped} ran, {skipped} skipped · {seconds:.0f} s")
    say(f"model:  {result.version.uri} {' '.join(result.version.aliases)}")
    if result.git_commit != result.version.tags["git_commit"]:
        say(
            f"        registered before, from commit {result.version.tags['git_commit'][:10]}; this run's is "
            f"{result.git_commit[:10]}; the version's verdict is '{result.version.tags['verdict']}'"
        )
    say(f"report: {result.report}")
