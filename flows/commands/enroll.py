"""`shadowline enroll …`, `enrolment …` and `bank …`: new products, and more images of existing products."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.running import check_change, running
from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.enrolment.policy import Advice

if TYPE_CHECKING:
    from flows.enroll import Enrolled
    from tasks.enrolment.enrolment import Enrolment

bank = typer.Typer(help="The memory banks of the classes.", no_args_is_help=True)
enrolment = typer.Typer(help="The products that are on their way into the model.", no_args_is_help=True)

_STATUS = "status"  # what `shadowline enroll` took for a question until 0.1

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Location = Annotated[str, typer.Argument(metavar="[LOCATION]", help="Folder or s3:// prefix with images.")]


def enroll(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="The new product.")],
    location: Location = "",
    as_json: JsonOption = False,
) -> None:
    """Bring a new product as far as its images allow; `shadowline enrolment status` shows all that are on their way.

    Without images it is judged by words (WinCLIP), with a handful by their nearest patches, and from
    enrolment.bank_images normal ones on it gets a bank and joins the model. Images that lie in the folder itself or in
    good/ are normal, those in any other folder show the defect of its name; the layouts of an import, such as
    train/good and test/crack, are understood as well, and masks are left out. Exit code 0: it may answer, 1: it may not
    yet, or the evidence speaks against it, 2: the images or the project cannot be used.

    Example: `shadowline enroll bolt /srv/new/bolt`
    """
    if class_name == _STATUS and not location and not _is_class(_STATUS, Layout()):
        say("`shadowline enroll status` is going away: use `shadowline enrolment status`", colour="yellow", err=True)
        status(as_json)
    else:
        _enroll(class_name, location, as_json, update=False)


@enrolment.command()
def status(as_json: JsonOption = False) -> None:
    """Every product that has images in its inbox or a starter model, and what it lacks.

    Example: `shadowline enrolment status --json`
    """
    from tasks.enrolment.enrolment import list_enrolments

    products = list_enrolments(Path())
    if as_json:
        typer.echo(json.dumps([asdict(product) for product in products]))
        return
    table = Table("class", "normal images", "defects", "answers by", "AUROC of the starter", "next")
    for product in products:
        auroc = "-" if product.auroc is None else f"{product.auroc:.3f}"
        counts = (str(product.num_normal), str(product.num_defects))
        table.add_row(product.class_name, *counts, product.reached or "nothing yet", auroc, _next(product))
    print_tables(table)


@enrolment.command()
def forget(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="A product whose images wait in the inbox.")],
    as_json: JsonOption = False,
) -> None:
    """Take all images of a product out of its inbox, after a wrong folder or wrong labels were taken in.

    The images are moved to .shadowline/forgotten, from where they may be deleted. A starter model made of them answers
    until the next `shadowline enroll`. Refused where the class is in the model already.

    Example: `shadowline enrolment forget bolt`
    """
    from tasks.enrolment.enrolment import forget_images

    done = forget_images(class_name, Path(), datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps({**asdict(done), "kept_in": done.kept_in.as_posix()}))
    else:
        say(f"{done.class_name}: {done.num_images} images forgotten; they are kept in {done.kept_in}")


def _is_class(name: str, layout: Layout) -> bool:
    """Whether the project has such a class, or a folder for its images."""
    return (layout.inbox / name).is_dir() or name in load_params(layout.params).classes


@bank.command("update")
def update(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="A class of the model.")],
    location: Location = "",
    as_json: JsonOption = False,
) -> None:
    """Add images to a class that is in the model: new bank, identity and calibration of this class, nothing else.

    The decoder learns from the images at the next `shadowline retrain`. Without a LOCATION, images are taken that lie
    in the class's inbox. Refused, with everything as it was, where the class would lose more than enrolment.max_loss
    of its AUROC on the test images that it had before, or where the images look like another class.

    Example: `shadowline bank update solar_mono /srv/more/solar_mono`
    """
    _enroll(class_name, location, as_json, update=True)


def _enroll(class_name: str, location: str, as_json: bool, *, update: bool) -> None:
    with running(check_change):
        from flows.enroll import enroll as flow
        from tasks.enrolment.enrolment import RefusedEnrolmentError

        try:
            done = flow(class_name, location, Path(), update)
        except RefusedEnrolmentError as error:
            say(f"refused: {error}", colour="red", err=True)
            raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(_as_dict(done)))
    else:
        say(*_lines(done))
    raise typer.Exit(1 if done.starter is not None and done.starter.model is None else 0)


def _lines(done: Enrolled) -> list[str]:
    if done.made is not None:
        times = " · ".join(f"{stage.name} {stage.seconds:.0f} s" for stage in done.made.stages if not stage.skipped)
        where = f"{done.class_name}: in {done.made.version.uri}, which waits for its rollout"
        return [f"{where}; {done.num_normal} normal images", times]
    assert done.starter is not None
    trial = f"{done.class_name}: {done.phase}, {done.num_normal} normal images; {done.starter.trial}"
    return [f"{trial}; {_advice(done.starter.advice)}"]


def _advice(advice: Advice) -> str:
    if advice is Advice.UNMEASURED:
        return "advice: none, since nothing was measured; it answers for now, let a person look at every part"
    return f"advice: {advice}"


def _as_dict(done: Enrolled) -> dict[str, object]:
    starter = done.starter
    return {
        "class_name": done.class_name,
        "phase": done.phase,
        "num_normal": done.num_normal,
        "trial": asdict(starter.trial) if starter else None,
        "advice": starter.advice if starter else None,
        "version": done.made.version.uri if done.made else None,
        "seconds": {stage.name: stage.seconds for stage in done.made.stages if not stage.skipped} if done.made else {},
    }


def _next(product: Enrolment) -> str:
    if product.is_due and product.due is not product.reached:
        return f"{product.due}: `shadowline enroll {product.class_name}`"
    return f"{product.missing} more normal images" if product.missing else "in the model"
