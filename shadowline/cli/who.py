"""The option `--by`: who is responsible for what a command does."""

from __future__ import annotations

from typing import Annotated

import typer


def named(by: str | None) -> str | None:
    """A name without blanks around it; None where the option was left out. Raises ValueError for a blank name."""
    if by is not None and not by.strip():
        raise ValueError(f"--by {by!r}: names nobody; say who you are")
    return by.strip() if by is not None else None


By = Annotated[str, typer.Option(help="Who says so.", callback=named)]
ByOrAccount = Annotated[
    str | None, typer.Option("--by", help="Who makes it; by default the account that runs it.", callback=named)
]
