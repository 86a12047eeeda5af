"""Where images come from: one importer per layout, all answering with the same list.

    list_images("bottle", ClassParams(source="mvtec", location="/data/mvtec"), root=Path())

An importer only lists: nothing is decoded here, and every file is read later, one at a time, within a bound.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.sources import folder, kolektor, mvtec, realiad, visa, wheels
from shadowline.data.sources.source_image import Importer, Listing, SourceImage

__all__ = ["SOURCES", "Listing", "SourceImage", "list_images", "list_source"]

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

    Raises ValueError for an unknown source or a layout that does not fit it, FileNotFoundError for a missing location.
    """
    if params.source not in SOURCES:
        nearest = difflib.get_close_matches(params.source, SOURCES, n=1, cutoff=0.0)[0]
        names = ", ".join(SOURCES)
        raise ValueError(
            f"class '{class_name}': unknown source '{params.source}'; did you mean {nearest}? (one of {names})"
        )
    return SOURCES[params.source](class_name, params, root)
