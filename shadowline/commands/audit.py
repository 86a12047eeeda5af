"""`shadowline audit …`: what was done, by whom, and that it can be shown again."""

from __future__ import annotations

import typer

app = typer.Typer(help="The signed chain of what was done; versions and decisions shown again.", no_args_is_help=True)
