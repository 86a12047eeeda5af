"""Where images come from: one importer per layout, all answering with the same list.

    list_images("bottle", ClassParams(source="mvtec", location="/data/mvtec"), root=Path())

An importer only lists, and every file is read later, one at a time, within a bound. Only `kolektor` decodes: the masks
that its labels follow from.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from shadowline.core.layout import Layout
from shadowline.core.params import ClassParams
from shadowline.data.labels import Label, Split
from shadowline.data.sources import folder, kolektor, mvtec, realiad, visa, wheels
from shadowline.data.sources.source_image import Importer, Listing, SourceImage

__all__ = ["SOURCES", "Listing", "SourceImage", "list_images", "list_location", "list_source"]

SOURCES: dict[str, Importer] = {
    "folder": folder.list_images,
    "mvtec": mvtec.list_images,
    "mvtec2": mvtec.list_images,
    "loco": mvtec.list_images,
    "btad": mvtec.list_images,
    "visa": visa.list_images,
    "realiad": realiad.list_images,
    "kolektor": kolektor.list_images,
    "elpv": wheels.list_elpv,
    "textile": wheels.list_textile,
}


def list_images(class_name: str, params: ClassParams, root: Path) -> list[SourceImage]:
    """The images of `list_source`, without what it leaves out."""
    return list(list_source(class_name, params, root).images)


def list_source(class_name: str, params: ClassParams, root: Path) -> Listing:
    """All images of one class in a fixed order; a relative `params.location` counts from the project's `root`.

    Where a source has no normals to test with, those to train carry no hint, and are split by `data.test_share`.

    Raises ValueError for an unknown source, a layout that does not fit it, and a location that overlaps the outputs of
    the project, from which stages remove what they did not write; FileNotFoundError for a missing location.
    """
    location = (root / params.location).resolve()
    for output in Layout(root).outputs:
        if location.is_relative_to(output.resolve()) or output.resolve().is_relative_to(location):
            raise ValueError(
                f"class '{class_name}': {params.location} overlaps {output}, which stages clear; move the images to a "
                f"folder of their own and correct classes.{class_name}.location"
            )
    return list_location(class_name, params, root)


def list_location(class_name: str, params: ClassParams, root: Path = Path()) -> Listing:
    """As `list_source`, for a location that no stage reads."""
    if params.source not in SOURCES:
        nearest = difflib.get_close_matches(params.source, SOURCES, n=1, cutoff=0.0)[0]
        names = ", ".join(SOURCES)
        raise ValueError(
            f"class '{class_name}': unknown source '{params.source}'; did you mean {nearest}? (one of {names})"
        )
    return _with_test_normals(SOURCES[params.source](class_name, params, root))


def _with_test_normals(listing: Listing) -> Listing:
    """Without the hints of training normals where there are no normals to test with, so that some become these."""
    hints = {image.split_hint for image in listing.images if image.label is Label.NORMAL}
    if Split.TEST in hints or Split.TRAIN not in hints:
        return listing
    images = [
        replace(image, split_hint=None) if image.label is Label.NORMAL and image.split_hint is Split.TRAIN else image
        for image in listing.images
    ]
    return replace(listing, images=tuple(images))
