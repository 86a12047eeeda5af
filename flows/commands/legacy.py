"""`shadowline legacy …`: register legacy models, list them, restore a model from its archive."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.running import check_registry, running
from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import load_params

if TYPE_CHECKING:
    from tasks.rollout.legacy_models import LegacyStatus

app = typer.Typer(help="The single-class models that are to be replaced.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("import")
def import_legacy(
    class_name: Annotated[str | None, typer.Argument(metavar="CLASS", help="The product class.")] = None,
    location: Annotated[
        str | None, typer.Argument(metavar="LOCATION", help="The model's directory, or models:/NAME/VERSION.")
    ] = None,
    all_classes: Annotated[bool, typer.Option("--all", help="Every model in models/legacy.")] = False,
    auroc: Annotated[float | None, typer.Option(min=0, max=1, help="Where no test images can tell.")] = None,
    storage_mb: Annotated[float | None, typer.Option(min=0, help="In place of the size of the files.")] = None,
    hours_per_month: Annotated[float | None, typer.Option(min=0, help="Of maintenance.")] = None,
    yearly_cost: Annotated[float | None, typer.Option(min=0, help="In $.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a legacy model loads and scores, measure it, and register it as legacy-CLASS. The same model: once.

    Example: `shadowline legacy import bolt /mnt/models/bolt --hours-per-month 4`
    """
    from shadowline.models.legacy_validation import DeclaredMetrics, validate_legacy_model
    from shadowline.models.loader import find_model

    layout = Layout()
    params, stated = load_params(layout.params), DeclaredMetrics(auroc, storage_mb, hours_per_month, yearly_cost)
    if all_classes and stated != DeclaredMetrics():
        raise ValueError("legacy import --all: what is stated is of one model; import them one by one")

    chosen = _chosen(class_name, location, all_classes)
    for place in chosen.values():
        if not place.startswith("models:/"):
            find_model(place)
    with running(check_registry):
        from flows.register_legacy import register_legacy_models

        models = [validate_legacy_model(name, place, params, layout, stated) for name, place in chosen.items()]
        versions = register_legacy_models(models, params.registry.experiment, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps([{**asdict(version), "uri": version.uri} for version in versions]))
        return
    table = Table("class", "version", "kind", "AUROC", "test images", "MB", "fingerprint")
    for version in versions:
        tags = version.tags
        measured = (_short(tags.get("auroc")), tags["num_images"], f"{float(tags['storage_mb']):.1f}")
        table.add_row(tags["class"], version.uri, tags["kind"], *measured, tags["fingerprint"][:12])
    print_tables(table)


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the legacy models on record, the newest first, and where their archives are.

    Example: `shadowline legacy list --json`
    """
    from tasks.rollout.legacy_models import list_legacy

    models = list_legacy()
    if as_json:
        typer.echo(json.dumps([_as_dict(model) for model in models]))
        return
    table = Table("class", "location", "kind", "AUROC", "registered", "proven archive", "fingerprint")
    for model in models:
        place, tags = model.place, model.tags
        facts = (tags.get("kind", ""), _short(tags.get("auroc")), "yes" if model.is_registered else "deleted")
        table.add_row(place.class_name, place.location, *facts, model.archive or "no", place.fingerprint[:12])
    print_tables(table)


@app.command("restore")
def restore(
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="The product class.")],
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="Of the archived model, in full.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for its files.")],
) -> None:
    """Get an archived model's files back, verified by hash.

    Example: `shadowline legacy restore bolt 3f9c… out/bolt`
    """
    from tasks.rollout.legacy_models import restore_legacy

    say(restore_legacy(class_name, fingerprint, folder))


def _chosen(class_name: str | None, location: str | None, all_classes: bool) -> dict[str, str]:
    """Class → location of its model."""
    if class_name and location and not all_classes:
        return {class_name: location}
    if class_name or location or not all_classes:
        raise ValueError("legacy import: give CLASS and LOCATION, or --all")
    locations = {path.name: str(path) for path in sorted(Layout().legacy("*").parent.glob("*")) if path.is_dir()}
    if not locations:
        raise ValueError("legacy import --all: models/legacy is empty; run `shadowline retrain` or name a model")
    return locations


def _as_dict(model: LegacyStatus) -> dict[str, object]:
    return {**asdict(model.place), "registered": model.is_registered, "archive": model.archive, "tags": model.tags}


def _short(number: str | None) -> str:
    return f"{float(number):.3f}" if number else "unknown"
