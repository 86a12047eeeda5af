"""The command line: `shadowline --help`.

Exit codes: 0 fine · 1 the verdict is negative · 2 the input cannot be used.
"""

from __future__ import annotations

import sys

import typer

from shadowline.commands import (
    assess,
    audit,
    backup,
    bench,
    data,
    enroll,
    inspect,
    legacy,
    prompts,
    retrain,
    review,
    rollout,
    serve,
    shadow,
    stage,
)
from shadowline.settings import prepare_environment

app = typer.Typer(
    help="From many single-class inspection models to one multi-class model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data.app, name="data")
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")
app.add_typer(legacy.app, name="legacy")
app.add_typer(prompts.app, name="prompts")
app.command("assess")(assess.assess)
app.add_typer(shadow.app, name="shadow")
app.add_typer(rollout.app, name="rollout")
app.add_typer(review.app, name="review")
app.command("feedback")(shadow.feedback)
app.command("enroll")(enroll.enroll)
app.add_typer(enroll.bank, name="bank")
app.command("stage")(stage.stage)
app.command("inspect")(inspect.inspect)
app.command("retrain")(retrain.retrain)
app.command("demo")(retrain.demo)
app.command("deploy")(retrain.deploy)
app.command("report")(retrain.report)
app.command("models")(retrain.models)
app.command("promote")(retrain.promote)
app.command("serve")(serve.serve)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)


def main() -> None:
    """Run a command; what a user can put right ends in one line and exit code 2, not in a traceback."""
    prepare_environment()
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
