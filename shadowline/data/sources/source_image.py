"""One image as its source presents it, and how files below a source's folder become a list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.file_names import readable
from shadowline.data.images import Refusal, RefusedImage, read_bounded
from shadowline.data.labels import Label, Split
from shadowline.data.sources.folder_words import is_system_file, is_system_folder

Read = Callable[[int], bytes]  # at most that many bytes from the file's start; raises RefusedImage
GOOD = "good"  # the folder of normals, in every layout that MVTec AD began
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


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


@dataclass(frozen=True)
class Listing:
    """All that a source holds of one class."""

    images: tuple[SourceImage, ...]
    left_out: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)  # reason → files that are not listed


Importer = Callable[[str, ClassParams, Path], Listing]


@dataclass(frozen=True)
class SourceFolder:
    """The folder of one class, and what its files may be."""

    location: Path  # names of images count from it
    folder: Path  # of the class
    roots: tuple[Path, ...]  # folders that links may lead to, resolved

    def reader(self, path: Path) -> Read:
        """Reads `path` when it is called, unless it leads out of all roots."""
        return partial(_read_inside, self.roots, path)

    def name(self, path: Path) -> str:
        """The name of an image in this source."""
        return readable(path.relative_to(self.location))


def location_of(class_name: str, params: ClassParams, root: Path) -> Path:
    """The folder or file that holds the source; raises FileNotFoundError with the way out."""
    location = root / params.location
    if not location.exists() and params.copy_of:
        raise FileNotFoundError(
            f"class '{class_name}': {location}: not copied from {params.copy_of} yet; run `shadowline retrain`"
        )
    if not location.exists():
        raise FileNotFoundError(
            f"class '{class_name}': {location}: no such file or folder; run `shadowline data fetch` for the demo "
            f"or correct classes.{class_name}.location"
        )
    return location


def class_folder(class_name: str, params: ClassParams, root: Path) -> SourceFolder:
    """The folder of one class in its location: named by `select`, else by the class."""
    location = location_of(class_name, params, root)
    folder = location / (params.select or class_name)
    roots = (location.resolve(), *([(root / params.links_to).resolve()] if params.links_to else []))
    if not _is_below(folder, roots):
        raise ValueError(f"class '{class_name}': {folder} leaves {location}; correct classes.{class_name}.select")
    if not folder.is_dir():
        raise FileNotFoundError(f"class '{class_name}': no folder {folder}; correct classes.{class_name}.select")
    return SourceFolder(location, folder, roots)


def reader(location: Path, path: Path) -> Read:
    """Reads `path` when it is called, unless it leads out of `location`."""
    return partial(_read_inside, (location,), path)


def _read_inside(roots: Sequence[Path], path: Path, limit: int) -> bytes:
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # Python 3.11 raises the second for links that lead in a circle
        message = f"{readable(path)}: a link that leads nowhere; copy the file instead of linking"
        raise RefusedImage(Refusal.UNREADABLE, message) from None
    if not any(target.is_relative_to(root.resolve()) for root in roots):
        message = (
            f"{readable(path)}: leads out of {readable(roots[0])}; copy the file into it, or name where it leads in "
            "links_to"
        )
        raise RefusedImage(Refusal.OUTSIDE_SOURCE, message)
    return read_bounded(path, limit)


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    """Whether a path ends in one of the (resolved) roots when its links are followed; a link in a circle does not."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        return False
    return any(target.is_relative_to(root) for root in roots)


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder, sorted by name."""

    kept: tuple[Path, ...]  # files and links, also those that are no images: they are refused later, by name
    skipped: tuple[Path, ...]  # hidden files, and those of storage devices, systems and file managers


def walk(folder: Path, roots: Sequence[Path] = ()) -> FolderFiles:
    """List the files below `folder`.

    A link to a folder is followed where it leads to one of the (resolved) `roots` and not to a folder above itself;
    else it is listed as a file, as a folder is that cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return FolderFiles((folder,), ())
    kept: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        if path.is_dir() and (not path.is_symlink() or _may_follow(path, roots)):
            below = walk(path, roots)
            is_system = is_system_folder(path.name)
            kept += () if is_system else below.kept
            skipped += below.skipped + (below.kept if is_system else ())
        else:
            (skipped if is_system_file(path.name) else kept).append(path)
    return FolderFiles(tuple(kept), tuple(skipped))


def _may_follow(link: Path, roots: Sequence[Path]) -> bool:
    return _is_below(link, roots) and not link.parent.resolve().is_relative_to(link.resolve())


def files_below(folder: Path) -> tuple[Path, ...]:
    """Every file and link below `folder` but those of the system, sorted; empty for an absent folder."""
    return walk(folder).kept if folder.is_dir() else ()


def expect_images(images: Iterable[SourceImage], class_name: str, folder: Path, layout: str) -> Listing:
    """A listing of the images; raises ValueError naming the layout that was looked for where there are none."""
    listing = Listing(tuple(images))
    if not listing.images:
        raise ValueError(
            f"class '{class_name}': 0 images in {folder}, expected {layout}; correct its source or location"
        )
    return listing
