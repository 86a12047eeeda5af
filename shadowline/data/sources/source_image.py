"""One image as its source presents it, and how files below a source's folder become a list of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.file_names import readable
from shadowline.data.images import Refusal, RefusedImage, read_bounded
from shadowline.data.labels import Label, Split

Read = Callable[[int], bytes]  # at most that many bytes from the file's start; raises RefusedImage
GOOD = "good"  # the folder of normals, in every layout that MVTec AD began

_NOT_LISTED = frozenset({"Thumbs.db", "desktop.ini"})  # what file managers leave behind; dot files likewise


@dataclass(frozen=True)
class SourceImage:
    name: str  # unique within the source, e.g. bottle/test/crack/003.png
    label: Label
    defect_type: str  # the source's name of it; "" for normals
    split_hint: Split | None  # where the source itself puts it
    read: Read
    read_masks: tuple[Read, ...] = ()  # several files are one mask: their union
    captured_at: datetime | None = None  # with a time zone
    received_at: datetime | None = None  # likewise; of images that came after the class's source, None for others
    bank_only: bool = False  # the decoder does not learn from it before the next full retraining
    image_id: str = ""  # the sha256 that its content must have, where that is recorded


Importer = Callable[[str, ClassParams, Path], list[SourceImage]]


def location_of(class_name: str, params: ClassParams, root: Path) -> Path:
    """The folder or file that holds the source; raises FileNotFoundError with the way out."""
    location = root / params.location
    if not location.exists():
        raise FileNotFoundError(
            f"class '{class_name}': {location}: no such file or folder; run `shadowline data fetch` for the demo "
            f"or correct classes.{class_name}.location"
        )
    return location


def class_folder(class_name: str, params: ClassParams, root: Path) -> tuple[Path, Path]:
    """The location, and the folder of one class in it: named by `select`, else by the class."""
    location = location_of(class_name, params, root)
    folder = location / (params.select or class_name)
    if not folder.resolve().is_relative_to(location.resolve()):
        raise ValueError(f"class '{class_name}': {folder} leaves {location}; correct classes.{class_name}.select")
    if not folder.is_dir():
        raise FileNotFoundError(f"class '{class_name}': no folder {folder}; correct classes.{class_name}.select")
    return location, folder


def reader(location: Path, path: Path) -> Read:
    return partial(_read_inside, location, path)


def _read_inside(location: Path, path: Path, limit: int) -> bytes:
    try:
        is_inside = path.resolve().is_relative_to(location.resolve())
    except (OSError, RuntimeError):  # Python 3.11 raises the second for links that lead in a circle
        message = f"{readable(path)}: a link that leads nowhere; copy the file instead of linking"
        raise RefusedImage(Refusal.UNREADABLE, message) from None
    if not is_inside:
        message = f"{readable(path)}: leads out of {readable(location)}; copy the file into it instead of linking"
        raise RefusedImage(Refusal.OUTSIDE_SOURCE, message)
    return read_bounded(path, limit)


def is_present(path: Path) -> bool:
    """Whether there is a file, a link or anything else of that name: what cannot be read is refused later."""
    try:
        path.lstat()
    except OSError:  # among them a name that is too long to exist
        return False
    return True


def files_below(folder: Path) -> Iterator[Path]:
    """Everything below `folder` but folders that can be listed, sorted by name.

    Files that are no images, links, pipes, devices and folders without permission are refused later, not skipped.
    Links to folders are not followed.
    """
    unlisted: list[Path] = []
    paths = []
    for root, folders, files in os.walk(folder, onerror=lambda error: unlisted.append(Path(str(error.filename)))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(root, name).is_symlink()]
        paths += [Path(root, name) for name in (*files, *links)]
    shown = [path for path in paths if not path.name.startswith(".") and path.name not in _NOT_LISTED]
    yield from sorted([*shown, *(path for path in unlisted if path != folder or is_present(folder))])


def labelled_folders(
    location: Path, folder: Path, split_hint: Split | None, masks_of: Callable[[str, str], list[Path]]
) -> list[SourceImage]:
    """`folder`/good/… are normals, `folder`/<defect type>/… are anomalous; an absent folder is an empty list.

    `masks_of(defect_type, stem)` names the existing mask files of one image.
    """
    images = []
    for kind in sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")):
        normal = kind.name == GOOD
        for path in files_below(kind):
            masks = [] if normal else masks_of(kind.name, path.stem)
            images.append(
                SourceImage(
                    name=readable(path.relative_to(location)),
                    label=Label.NORMAL if normal else Label.ANOMALOUS,
                    defect_type="" if normal else readable(kind.name),
                    split_hint=split_hint,
                    read=reader(location, path),
                    read_masks=tuple(reader(location, mask) for mask in masks),
                )
            )
    return images


def expect_images(images: list[SourceImage], class_name: str, folder: Path, layout: str) -> list[SourceImage]:
    """`images`, or ValueError naming the layout that was looked for."""
    if not images:
        raise ValueError(
            f"class '{class_name}': 0 images in {folder}, expected {layout}; correct its source or location"
        )
    return images
