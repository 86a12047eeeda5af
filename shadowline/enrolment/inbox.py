"""The inbox: images of products that are being enrolled, one folder per class, one file per content.

    inbox = Inbox(layout.inbox, "bolt")
    done = inbox.take(named_images(Path("/srv/new/bolt")), params.data)     # names the files that are no images
    inbox.stock                                                             # how many normals, which defects

    <inbox>/<class>/train/good/<image_id>.png        normals
    <inbox>/<class>/test/<defect>/<image_id>.png     images with a known defect

It is laid out as the `folder` source reads it (`shadowline/data/sources/folder.py`). Files are written atomically, and
taking the same image twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shadowline.core.atomic_files import replace_file
from shadowline.core.params import CLASS_NAME_PATTERN, ClassParams, DataParams, EnrolmentParams
from shadowline.data.file_names import readable
from shadowline.data.images import SUFFIX_OF, RefusedImage, measure_image
from shadowline.data.manifest import content_id
from shadowline.data.sources.source_image import GOOD, Read, files_below, reader

_NAME = re.compile(CLASS_NAME_PATTERN)  # of classes, and of kinds of defects


@dataclass(frozen=True)
class NamedImage:
    """One image that is offered to the inbox."""

    name: str  # for messages
    kind: str  # good, or the kind of its defect
    read: Read


@dataclass(frozen=True)
class ImportResult:
    """The result for a batch of offered images."""

    new: tuple[Path, ...]
    num_known: int  # in the inbox already
    refused: tuple[str, ...]  # name and reason


@dataclass(frozen=True)
class InboxContents:
    """The images in the inbox of one class."""

    normals: tuple[Path, ...]
    defects: tuple[Path, ...]

    @property
    def num_images(self) -> int:
        return len(self.normals) + len(self.defects)


@dataclass(frozen=True)
class Inbox:
    """The waiting images of one class; raises ValueError for an invalid class name."""

    root: Path
    class_name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.class_name):
            raise ValueError(f"class {self.class_name!r}: use a-z, 0-9, _ and -, at most 64 of them")

    @property
    def folder(self) -> Path:
        return self.root / self.class_name

    @property
    def stock(self) -> InboxContents:
        """The images that wait, read from the disk at every call."""
        normals, defects = self.folder / "train" / GOOD, self.folder / "test"
        return InboxContents(tuple(files_below(normals)), tuple(files_below(defects)))

    def take(self, images: Iterable[NamedImage], limits: DataParams) -> ImportResult:
        """Check the images, store the valid ones, and name the others."""
        outcomes = [self._take_one(image, limits) for image in images]
        refused = tuple(outcome for outcome in outcomes if isinstance(outcome, str))
        return ImportResult(
            tuple(outcome for outcome in outcomes if isinstance(outcome, Path)), outcomes.count(None), refused
        )

    def put(self, data: bytes, kind: str, limits: DataParams, name: str) -> Path | None:
        """Store one image; None where it is there already. Raises RefusedImage, or ValueError for an invalid `kind`."""
        if not _NAME.fullmatch(kind):
            raise ValueError(f"kind {kind!r}: use good, or a name of a-z, 0-9, _ and -")
        properties = measure_image(data, limits, name=name)
        file_name = f"{content_id(data)}{SUFFIX_OF[properties.format]}"
        path = self.folder / ("train" if kind == GOOD else "test") / kind / file_name
        if path.is_file():
            return None
        with replace_file(path) as temporary:
            temporary.write_bytes(data)
        return path

    def as_source(self, root: Path, params: EnrolmentParams) -> ClassParams:
        """The entry of params.yaml of the project at `root` that imports this inbox."""
        return ClassParams(
            source="folder",
            location=self.folder.relative_to(root).as_posix(),
            select=".",
            test_share=params.test_share,
            val_share=params.val_share,
        )

    def _take_one(self, image: NamedImage, limits: DataParams) -> Path | str | None:
        try:
            return self.put(image.read(limits.max_file_bytes + 1), image.kind, limits, image.name)
        except RefusedImage as error:
            return str(error)


def named_images(folder: Path) -> Iterator[NamedImage]:
    """Every file below `folder`: those in it or in good/ are normal, those in another folder show that defect.

    Raises FileNotFoundError for a missing folder, and ValueError for a folder without files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name the one that holds the images")
    paths = list(files_below(folder))
    if not paths:
        raise ValueError(f"{folder}: no files; put the images there, those with a defect in a folder of its name")
    for path in paths:
        parts = path.relative_to(folder).parts
        kind = parts[0] if len(parts) > 1 else GOOD
        yield NamedImage(readable(path), kind, reader(folder, path))


def classes_waiting(root: Path) -> tuple[str, ...]:
    """Classes that have a folder in the inbox."""
    return tuple(sorted(path.name for path in root.glob("*") if path.is_dir() and _NAME.fullmatch(path.name)))
