"""`shadowline inspect`: judge images with a packaged or registered model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from shadowline.atomic import replace_file
from shadowline.images import RefusedImage, open_rgb
from shadowline.manifest import Label

if TYPE_CHECKING:
    from shadowline.inspector import Inspection, Inspector, UnknownProduct


def inspect(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    class_name: Annotated[str | None, typer.Option("--class", help="Product class; else it is found.")] = None,
    model: Annotated[str, typer.Option(help="A directory or models:/NAME@ALIAS.")] = "models/inspector",
    heatmap: Annotated[Path | None, typer.Option(help="Write a heat-map overlay per image into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Score images and decide.

    Exit code 0: all normal, 1: at least one anomalous, 2: an image cannot be used or is of no known class.

    Example: `shadowline inspect part.png --class solar_mono --heatmap out/`
    """
    from shadowline.inspector import Inspection, Inspector  # and with it torch, which takes seconds to import

    inspector = Inspector.load(model)
    answered: list[tuple[Path, Inspection | UnknownProduct]] = []
    refused = 0
    for path in images:
        try:
            answered.append((path, inspector.inspect(path, class_name)))
        except (RefusedImage, FileNotFoundError) as error:
            refused += 1
            typer.secho(f"refused {path}: {error}", fg="red", err=True)  # the error knows the file's name alone
    if as_json:
        for path, answer in answered:
            typer.echo(json.dumps({"image": str(path), **answer.to_dict()}))
    else:
        _print(answered)
    judged = [(path, one) for path, one in answered if isinstance(one, Inspection)]
    if heatmap is not None:
        for path, inspection in judged:
            typer.echo(_write_overlay(path, inspection, inspector, heatmap), err=as_json)
    if refused or len(judged) < len(answered):
        raise typer.Exit(2)
    raise typer.Exit(1 if any(one.decision is Label.ANOMALOUS for _, one in judged) else 0)


def _print(answered: list[tuple[Path, Inspection | UnknownProduct]]) -> None:
    table = Table("image", "class", "score", "threshold", "decision", "ms")
    for path, one in answered:
        table.add_row(str(path), *_cells(one), f"{one.latency_ms:.0f}")
    Console().print(table)


def _cells(one: Inspection | UnknownProduct) -> tuple[str, str, str, str]:
    """Class, score, threshold and decision, in words; a class that was found with its confidence."""
    from shadowline.inspector import UnknownProduct

    confidence = "" if one.class_confidence is None else f" ({one.class_confidence:.2f})"
    if isinstance(one, UnknownProduct):
        return f"unknown{confidence}, nearest {one.nearest_class}", "-", "-", "[yellow]none[/]"
    colour = "red" if one.decision is Label.ANOMALOUS else "green"
    return f"{one.class_name}{confidence}", f"{one.score:.2f}", f"{one.threshold:.2f}", f"[{colour}]{one.decision}[/]"


def _write_overlay(path: Path, inspection: Inspection, inspector: Inspector, folder: Path) -> Path:
    limits = inspector.config["limits"]
    rgb = open_rgb(path, max_pixels=limits["max_pixels"], max_file_bytes=limits["max_file_bytes"])
    target = folder / f"{path.stem}-{inspection.decision}.png"
    with replace_file(target) as temporary:
        _overlay(rgb, inspection, inspector).save(temporary, format="PNG")
    return target


def _overlay(rgb: Image.Image, inspection: Inspection, inspector: Inspector) -> Image.Image:
    """Colour begins where the patches of normal images end."""
    from shadowline.report.overlay import heatmap_overlay

    level = inspector.calibrations[inspection.class_name].map_level
    encoder = inspector.encoder.config
    return heatmap_overlay(rgb, inspection.anomaly_map, level, coverage=encoder.crop / encoder.resize)
