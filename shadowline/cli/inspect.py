"""`shadowline inspect`: judge images with a packaged or registered model."""

from __future__ import annotations

import csv as csv_module
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

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

CSV_COLUMNS = (
    "image", "class_name", "class_confidence", "nearest_class", "score", "threshold", "decision", "stop", "answered_by",
    "model_version", "fingerprint", "latency_ms", "error",
)  # fmt: skip
_FEW = 5  # images that need no progress bar
_MISSING = "no such file"


@anywhere
def inspect(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders whose images are all judged.")],
    class_name: Annotated[str | None, typer.Option("--class", help="Product class; else it is found.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A directory or models:/NAME@ALIAS; else what answers here, see below."),
    ] = None,
    heatmap: Annotated[Path | None, typer.Option(help="Write a heat-map overlay per image into this folder.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row per image into this file, refused ones too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Score images and decide, by the model that is live for the class, as the gateway does; nothing is recorded.

    While no class has a live model, the packaged model answers: models/inspector, or the newest registered version that
    passed its gates where models/inspector did not. Which one it is, is said on stderr.

    Exit code 0: all normal, 1: at least one is anomalous or of no known class, 2: an image cannot be used.

    Example: `shadowline inspect part.png --class solar_mono --heatmap out/`

    Example: `shadowline inspect /srv/images/today --csv today.csv`
    """
    if model is None:
        require_project(Path())
    if not any(path.exists() for path in images):
        for path in images:
            _say_refused(path, _MISSING)
        raise typer.Exit(2)
    inspector = _load(model) if model is not None else None
    live = _live() if inspector is None else None
    if inspector is None and live is None:
        inspector = _load(_package())
    answered: list[tuple[Path, Answered]] = []
    refused: list[tuple[Path, str]] = []
    for path, name in _progress(_expand(images)):
        try:
            if not path.exists():
                raise FileNotFoundError(_MISSING)
            answer = _judge(path, class_name, live, inspector, wants_heat=heatmap is not None)
        except (RefusedImage, FileNotFoundError) as error:
            refused.append((path, str(error)))
            _say_refused(path, str(error))
            continue
        if as_json:
            typer.echo(json.dumps({"image": str(path), **answer.to_dict()}))
        if heatmap is not None:
            _draw(path, heatmap / name, answer, inspector, quiet=as_json)
        answered.append((path, _without_map(answer)))
    if csv is not None:
        write_csv(csv, [(path, answer.to_dict()) for path, answer in answered], refused)
        say(f"{csv}: {len(answered)} images judged, {len(refused)} refused", err=as_json)
    elif not as_json:
        _print(answered)
    if refused:
        raise typer.Exit(2)
    raise typer.Exit(1 if any(answer.stop for _, answer in answered) else 0)


def _load(location: str) -> Inspector:
    from shadowline.models.registry_inspector import (
        RegistryInspector,  # and with it torch, which takes seconds to import
    )

    return RegistryInspector.load(location)


def _package() -> str:
    """The packaged model that answers while no class has a live one; says on stderr which, and why."""
    from shadowline.inference.package_choice import choose_package
    from shadowline.models.registry_uri import newest_passed

    layout = Layout()
    choice = choose_package(layout, lambda: newest_passed(load_params(layout.params).registry.model_name))
    say(f"{choice.location}: {choice.reason}", colour=None if choice.passed else "yellow", err=True)
    return choice.location


def _say_refused(path: Path, reason: str) -> None:
    """Name the refused file once; an error of the decoder begins with the file's name."""
    say(f"refused {path}: {reason.removeprefix(f'{path.name}: ')}", colour="red", err=True)


def _live() -> LiveModels | None:
    """The models that answer at the gateway; None where there is none, or the records have no database yet, which is
    not created then."""
    from sqlalchemy import make_url

    from shadowline.core.settings import Settings
    from shadowline.inference.live import live_models

    file = make_url(Settings().database_url)
    if file.drivername.startswith("sqlite") and not Path(file.database or "").is_file():
        return None
    return live_models(open_records(), load_params(Layout().params))


def _expand(arguments: list[Path]) -> list[tuple[Path, Path]]:
    """Each image, with its path below the folder that was given; raises ValueError for a folder without images."""
    from shadowline.inference.shadow_batch import find_images

    found = []
    for argument in arguments:
        paths = find_images(argument) if argument.is_dir() else [argument]
        found += [(path, path.relative_to(argument) if path != argument else Path(path.name)) for path in paths]
    return found


def _progress(images: list[tuple[Path, Path]]) -> Iterable[tuple[Path, Path]]:
    """A bar on stderr, in a terminal and for more than a handful of images."""
    stderr = Console(stderr=True)
    hidden = len(images) < _FEW or not stderr.is_terminal
    return track(images, "images", console=stderr, transient=True, disable=hidden)


def _judge(
    path: Path, class_name: str | None, live: LiveModels | None, inspector: Inspector | None, *, wants_heat: bool
) -> Answered:
    if live is not None:
        data = read_bounded(path, live.limits.max_file_bytes + 1)
        return live.inspect(data, class_name, wants_heat=wants_heat, name=path.name)
    assert inspector is not None
    return inspector.inspect(path, class_name)


def _without_map(answer: Answered) -> Answered:
    """For the table at the end, which is in memory until then."""
    from shadowline.inference.live import LiveInspection

    return replace(answer, heat=None) if isinstance(answer, LiveInspection) else answer


def write_csv(
    path: Path, judged: Sequence[tuple[Path, Mapping[str, Any]]], refused: Sequence[tuple[Path, str]]
) -> None:
    """One row per image, the refused ones last with their error; empty cells are None."""
    rows: list[Mapping[str, Any]] = [{"image": str(image), **answer} for image, answer in judged]
    rows += [{"image": str(image), "stop": True, "error": error} for image, error in refused]
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv_module.DictWriter(file, CSV_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _print(answered: list[tuple[Path, Answered]]) -> None:
    table = Table("image", "class", "score", "threshold", "decision", "model", "ms")
    for path, answer in answered:
        table.add_row(str(path), *_cells(answer), _model(answer), f"{answer.latency_ms:.0f}")
    print_tables(table)


def _cells(answer: Answered) -> tuple[str | Cell, ...]:
    """Class, score, threshold and decision as text; an identified class with its confidence."""
    from shadowline.models.inspector import UnknownProduct

    confidence = "" if answer.class_confidence is None else f" ({answer.class_confidence:.2f})"
    if isinstance(answer, UnknownProduct):
        return f"unknown, nearest {answer.nearest_class}{confidence}", "-", "-", coloured("none: stop", "yellow")
    colour = "red" if answer.decision is Label.ANOMALOUS else "green"
    return (
        f"{answer.class_name}{confidence}",
        f"{answer.score:.2f}",
        f"{answer.threshold:.2f}",
        coloured(answer.decision, colour),
    )


def _model(answer: Answered) -> str:
    """`legacy 1`, `candidate 3`, or the version of the packaged model."""
    return " ".join([*([answer.answered_by] if hasattr(answer, "answered_by") else []), answer.model_version])


def _draw(path: Path, target: Path, answer: Answered, inspector: Inspector | None, *, quiet: bool) -> None:
    """Write the overlay beside `target`, with the decision in its name; there is none of an unknown product."""
    from shadowline.models.inspector import UnknownProduct

    if isinstance(answer, UnknownProduct):
        return
    overlay = target.with_name(f"{target.stem}-{answer.decision}.png")
    with replace_file(overlay) as temporary:
        _overlay(path, answer, inspector).save(temporary, format="PNG")
    say(overlay, err=quiet)


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
