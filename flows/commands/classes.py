"""`shadowline class …`: add a product class, give it another name, or remove it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shadowline.cli.output import say
from shadowline.cli.records import open_records
from shadowline.cli.who import By

app = typer.Typer(help="The product classes in params.yaml.", no_args_is_help=True)

Why = Annotated[str, typer.Option(help="Why; it goes on record.")]


@app.command("add")
def add(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="Its name: a-z, 0-9, _ and -.")],
    location: Annotated[str, typer.Argument(metavar="LOCATION", help="Folder or file that the importer reads.")],
    source: Annotated[str, typer.Option(help="Importer: how the images lie there.")] = "folder",
    select: Annotated[str, typer.Option(help="Folder of the class in LOCATION, where it has another name.")] = "",
    learns: Annotated[bool, typer.Option("--learn/--bank-only", help="Whether the decoder learns from it.")] = True,
) -> None:
    """Add a class to params.yaml, and say how its images will be split and what they allow to promise.

    `shadowline retrain` then makes the version that knows it. With --bank-only the decoder stays as it is.

    Example: `shadowline class add bolt /srv/images`
    """
    from shadowline.core.params import ClassParams
    from tasks.enrolment.classes import add_class

    entry = ClassParams(source=source, location=location, select=select)
    forecast = add_class(class_name, entry, Path(), learns=learns)
    say(forecast.text, *forecast.lines)
    say(f"class '{class_name}' is in params.yaml; `shadowline retrain` makes the version that knows it")


@app.command("rename")
def rename(
    old: Annotated[str, typer.Argument(metavar="CLASS", help="The class.")],
    new: Annotated[str, typer.Argument(metavar="NAME", help="Its new name: a-z, 0-9, _ and -.")],
) -> None:
    """Give a class another name, as long as nothing on record bears its name: no rollout, no legacy model.

    Example: `shadowline class rename blot bolt`
    """
    from tasks.enrolment.classes import rename_class

    rename_class(old, new, Path(), open_records())
    say(f"class '{old}' is '{new}' now; `shadowline retrain` makes the version that knows it")


@app.command("remove")
def remove(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="The class.")],
    by: By,
    why: Why,
) -> None:
    """Remove a class: no model answers for it any more, and it is gone from params.yaml, status and inbox.

    Its history stays: events, pairs, labels and registered versions. A legacy model is archived at the next tick of the
    rollout, and images that waited for enrolment lie below data/retired. `shadowline retrain` makes the version without
    it.

    Example: `shadowline class remove bolt --by Ada --why "made no more"`
    """
    from tasks.enrolment.classes import remove_class

    done = remove_class(class_name, Path(), open_records(), by, why)
    if done.retired_from is not None:
        say(f"rollout: retired ({done.retired_from}); `shadowline rollout history --class {class_name}` tells")
    if done.inbox is not None:
        say(f"inbox: its images lie in {done.inbox} now")
    if done.was_in_params:
        say("params.yaml: removed; `shadowline retrain` makes the version without it")
    say(f"class '{class_name}' is removed; its history stays")
