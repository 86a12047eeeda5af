"""`shadowline init DIR --images FOLDER`: a project of one's own, from a folder of images that nobody prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.printable import some_of
from shadowline.core.progress import default_progress
from shadowline.core.project import anywhere
from shadowline.data.downloads import DownloadError, fetch, named_wheels

if TYPE_CHECKING:
    from shadowline.data.sources import SourceImage
    from shadowline.data.sources.recognition import FoundClass, FoundDataset
    from shadowline.project.image_survey import ImageSurvey

_NUM_NAMED = 3  # files, sizes or modes that are named


@anywhere
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder; new or empty.")],
    images: Annotated[Path, typer.Option(help="The folder with the images of one class or more, as they lie.")],
    download: Annotated[bool, typer.Option(help="Fetch the weights that every project begins with (110 MB).")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Look at a folder of images, show what is understood of it, and write a project for its classes.

    Understood are MVTec AD and its relatives, VisA, BTAD, folders of good and bad images by their names, and folders
    that hold good images alone. The images stay where they are. `shadowline check` and `shadowline retrain` are next.

    Example: `shadowline init line7 --images /srv/images`
    """
    from shadowline.data.sources.recognition import recognise
    from shadowline.project.image_survey import survey_images
    from shadowline.project.skeleton import check_place, template_limits, write_project

    check_place(folder, images)
    dataset = recognise(images)
    classes = [cls for cls in dataset.classes if cls.num_normal + cls.num_test_normal]
    if not classes:
        names = ", ".join(cls.name for cls in dataset.classes)
        raise ValueError(f"{images}: no normal images of {names}; a class is learned from its normal images")
    surveys = {cls.name: survey_images(_images_of(cls), template_limits()) for cls in classes}
    write_project(folder, classes, surveys, images)
    if as_json:
        typer.echo(json.dumps(_as_dict(folder, dataset, surveys)))
    else:
        _print(folder, dataset, surveys)
    if download:
        _fetch_weights(folder)


def _images_of(cls: FoundClass) -> Sequence[SourceImage]:
    from shadowline.data.sources import list_images

    return list_images(cls.name, cls.params, Path())


def _print(folder: Path, dataset: FoundDataset, surveys: Mapping[str, ImageSurvey]) -> None:
    title = f"{dataset.layout}: {len(surveys)} {'class' if len(surveys) == 1 else 'classes'}"
    table = Table("class", "normal", "defects", "masks", "size", "mode", title=title)
    for cls in dataset.classes:
        if cls.name in surveys:
            table.add_row(*_cells(cls, surveys[cls.name]))
    print_tables(table)
    say(*_remarks(dataset, surveys))
    say(f"project: {folder}; go there, then `shadowline check` and `shadowline retrain`")


def _cells(cls: FoundClass, survey: ImageSurvey) -> tuple[str, ...]:
    normal = str(cls.num_normal + cls.num_test_normal)
    normal += f", {cls.num_test_normal} for test" if cls.num_test_normal else ""
    defects = ", ".join(f"{kind} {count}" for kind, count in sorted(cls.defects.items())) or "none"
    sizes = [f"{width} × {height}" for width, height in survey.sizes]
    return (
        cls.name,
        normal,
        defects,
        str(cls.num_masks),
        some_of(sizes, _NUM_NAMED),
        some_of(list(survey.modes), _NUM_NAMED),
    )


def _remarks(dataset: FoundDataset, surveys: Mapping[str, ImageSurvey]) -> list[str]:
    """What is left out, with its reason, and what else one should know."""
    lines = []
    for reason, paths in dataset.left_out.items():
        lines.append(f"left out: {len(paths)} files, {reason}: {some_of([str(path) for path in paths], _NUM_NAMED)}")
    for cls in dataset.classes:
        if cls.name not in surveys:
            lines.append(f"left out: class {cls.name}, which has no normal images")
        elif cls.num_unknown:
            lines.append(f"{cls.name}: {cls.num_unknown} images have no label; they are imported, and train nothing")
    for name, survey in surveys.items():
        if survey.refused:
            lines.append(
                f"{name}: {len(survey.refused)} of {survey.num_looked_at} files: {some_of(survey.refused, _NUM_NAMED)}"
            )
        if survey.num_turned:
            lines.append(f"{name}: {survey.num_turned} images have an EXIF orientation; they are read as stored")
    return lines


def _as_dict(folder: Path, dataset: FoundDataset, surveys: Mapping[str, ImageSurvey]) -> dict[str, object]:
    return {
        "project": str(folder),
        "layout": dataset.layout,
        "classes": [
            {
                "name": cls.name,
                "source": cls.source,
                "num_normal": cls.num_normal,
                "num_test_normal": cls.num_test_normal,
                "defects": dict(cls.defects),
                "num_masks": cls.num_masks,
                "num_unknown": cls.num_unknown,
                "sizes": {f"{width}x{height}": count for (width, height), count in surveys[cls.name].sizes.items()},
                "modes": dict(surveys[cls.name].modes),
                "refused": list(surveys[cls.name].refused),
            }
            for cls in dataset.classes
            if cls.name in surveys
        ],
        "left_out": {reason: [str(path) for path in paths] for reason, paths in dataset.left_out.items()},
    }


def _fetch_weights(folder: Path) -> None:
    """Fetch them into the project; where that fails, the project is whole all the same, and a line says what to do."""
    layout = Layout(folder)
    try:
        fetch(named_wheels(load_params(layout.params)), folder / "data/downloads", default_progress())
    except DownloadError as error:
        say(f"weights: {error}; then `shadowline data fetch`", colour="yellow", err=True)
