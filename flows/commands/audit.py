"""`shadowline audit …`: the audit log, decision records, evidence packs and reproductions."""

from __future__ import annotations

import typer

from flows.commands import audit_log, decision, evidence, reproduce

app = typer.Typer(help="The signed chain of what was done; versions and decisions shown again.", no_args_is_help=True)
app.command("verify")(audit_log.verify)
app.command("log")(audit_log.log)
app.add_typer(audit_log.keys, name="keys")
app.command("decision")(decision.decision)
app.command("export")(evidence.export)
app.command("reproduce")(reproduce.reproduce)
