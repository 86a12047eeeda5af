"""`shadowline inspect`: judge images with a packaged or registered model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image

from shadowline.cli.output import Cell, Table, coloured, print_tables, say
from shadowline.cli.records import open_records
from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.project import anywhere, require_project
from shadowline.data.bit_depth import viewable
from shadowline.data.images import RefusedImage, decode_image, read_bounded
from shadowline.data.labels import Label

if TYPE_CHECKING:
    from shadowline.inference.live import LiveInspection, LiveModels
    from shadowline.models.inspector import Inspection, Inspector, UnknownProduct

    Judged = Inspection | LiveInspection
    Answered = Judged | UnknownProduct

PACKAGE = "models/inspector"


@anywhere
def inspect(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    class_name: Annotated[str | None, typer.Option("--class", help="Product class; else it is found.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A directory or models:/NAME@ALIAS; else what is live, without a rollout models/inspector."),
    ] = None,
    heatmap: Annotated[Path | None, typer.Option(help="Write a heat-map overlay per image into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Score images and decide, by the model that is live for the class, as the gateway does; nothing is recorded.

    Exit code 0: all normal, 1: at least one anomalous, 2: an image cannot be used or is of no known class.

    Example: `shadowline inspect part.png --class solar_mono --heatmap out/`
    """
    if model is None:
        require_project(Path())
    present = [path for path in images if path.exists()]
    for path in images:
        if path not in present:
            _refuse(path, "no such file")
    if not present:
        raise typer.Exit(2)
    from shadowline.models.inspector import UnknownProduct  # and with it torch, which takes seconds to import
    from shadowline.models.registry_inspector import RegistryInspector

    live = _live() if model is None else None
    inspector = None if live is not None else RegistryInspector.load(model or PACKAGE)
    answered: list[tuple[Path, Answered]] = []
    for path in present:
        try:
            answered.append((path, _judge(path, class_name, live, inspector, wants_heat=heatmap is not None)))
        except (RefusedImage, FileNotFoundError) as error:
            _refuse(path, str(error))
    if as_json:
        for path, answer in answered:
            typer.echo(json.dumps({"image": str(path), **answer.to_dict()}))
    elif answered:
        _print(answered)
    judged = [(path, answer) for path, answer in answered if not isinstance(answer, UnknownProduct)]
    if heatmap is not None:
        for path, inspection in judged:
            say(_write_overlay(path, inspection, inspector, heatmap), err=as_json)
    if len(judged) < len(images):
        raise typer.Exit(2)
    raise typer.Exit(1 if any(inspection.decision is Label.ANOMALOUS for _, inspection in judged) else 0)


def _refuse(path: Path, reason: str) -> None:
    """Say once which file is refused; an error of the decoder begins with the file's name."""
    say(f"refused {path}: {reason.removeprefix(f'{path.name}: ')}", colour="red", err=True)


def _live() -> LiveModels | None:
    """The models of the rollout; None where the records have no database yet, which is not created then."""
    from sqlalchemy import make_url

    from shadowline.core.settings import Settings
    from shadowline.inference.live import live_models

    file = make_url(Settings().database_url)
    if file.drivername.startswith("sqlite") and not Path(file.database or "").is_file():
        return None
    return live_models(open_records(), load_params(Layout().params))


def _judge(
    path: Path, class_name: str | None, live: LiveModels | None, inspector: Inspector | None, *, wants_heat: bool
) -> Answered:
    if live is not None:
        data = read_bounded(path, live.limits.max_file_bytes + 1)
        return live.inspect(data, class_name, wants_heat=wants_heat, name=path.name)
    assert inspector is not None
    return inspector.inspect(path, class_name)


def _print(answered: list[tuple[Path, Answered]]) -> None:
    table = Table("image", "class", "score", "threshold", "decision", "ms")
    for path, answer in answered:
        table.add_row(str(path), *_cells(answer), f"{answer.latency_ms:.0f}")
    print_tables(table)


def _cells(answer: Answered) -> tuple[str | Cell, ...]:
    """Class, score, threshold and decision as text; an identified class with its confidence."""
    from shadowline.models.inspector import UnknownProduct

    confidence = "" if answer.class_confidence is None else f" ({answer.class_confidence:.2f})"
    if isinstance(answer, UnknownProduct):
        return f"unknown{confidence}, nearest {answer.nearest_class}", "-", "-", coloured("none", "yellow")
    colour = "red" if answer.decision is Label.ANOMALOUS else "green"
    return (
        f"{answer.class_name}{confidence}",
        f"{answer.score:.2f}",
        f"{answer.threshold:.2f}",
        coloured(answer.decision, colour),
    )


def _write_overlay(path: Path, inspection: Judged, inspector: Inspector | None, folder: Path) -> Path:
    target = folder / f"{path.stem}-{inspection.decision}.png"
    with replace_file(target) as temporary:
        _overlay(path, inspection, inspector).save(temporary, format="PNG")
    return target


def _overlay(path: Path, inspection: Judged, inspector: Inspector | None) -> Image.Image:
    """The heat map over the image; its colour begins where the patches of normal images end."""
    from shadowline.inference.live import LiveInspection
    from shadowline.inference.overlay import heatmap_overlay

    if isinstance(inspection, LiveInspection):
        assert inspection.heat is not None  # it was asked for
        heat, rgb = inspection.heat, viewable(decode_image(path, load_params(Layout().params).data))
        return heatmap_overlay(rgb, heat.map_HW, heat.level, coverage=heat.coverage)
    assert inspector is not None
    rgb = inspector.open(path, inspection.class_name)
    level = inspector.calibrations[inspection.class_name].map_level
    encoder = inspector.encoder.config
    return heatmap_overlay(rgb, inspection.anomaly_map, level, coverage=encoder.crop / encoder.resize)
