"""The inbox: images of products that are being enrolled, one folder per class, one file per content.

    inbox = Inbox(layout.inbox, "bolt")
    offered = read_folder(Path("/srv/new/bolt"), "bolt")
    done = inbox.take(offered.images, params.data)      # names the files that are no images
    inbox.stock                                                             # how many normals, which defects

    <inbox>/<class>/train/good/<image_id>.png        normals
    <inbox>/<class>/test/<defect>/<image_id>.png     images with a known defect

It is laid out as the `folder` source reads it (`shadowline/data/sources/folder.py`). Files are written atomically, and
taking the same image twice changes nothing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shadowline.core.atomic_files import replace_file
from shadowline.core.params import CLASS_NAME_PATTERN, ClassParams, DataParams, EnrolmentParams, class_key
from shadowline.data.file_names import readable
from shadowline.data.images import SUFFIX_OF, Refusal, RefusedImage, measure_image
from shadowline.data.labels import Label
from shadowline.data.manifest import content_id
from shadowline.data.sources.folder_words import Meaning, meaning_of, misspelt_normal
from shadowline.data.sources.recognition import list_class
from shadowline.data.sources.source_image import GOOD, Read, files_below

_NAME = re.compile(CLASS_NAME_PATTERN)  # of classes, and of kinds of defects
_UNLABELLED = "an image without a label"
_MASK = "a mask"


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
            raise ValueError(
                f"class {self.class_name!r}: use a-z, 0-9, _ and -, at most 64 of them, such as "
                f"{class_key(self.class_name)}"
            )

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
        kind = _checked_kind(kind)
        properties = measure_image(data, limits, name=name)
        file_name = f"{content_id(data)}{SUFFIX_OF[properties.format]}"
        path = self.folder / ("train" if kind == GOOD else "test") / kind / file_name
        if path.is_file():
            return None
        if held := next(self.folder.glob(f"*/*/{file_name}"), None):
            message = (
                f"{name}: comes as {kind}, and lies in the inbox as {held.parent.name}; if that is wrong, "
                f"`shadowline enrolment forget {self.class_name}` empties the inbox"
            )
            raise RefusedImage(Refusal.CONTRADICTORY_LABELS, message)
        with replace_file(path) as temporary:
            temporary.write_bytes(data)
        return path

    def forget(self, kept_in: Path) -> int:
        """Move all images to the folder `kept_in`, which must not exist; returns their number."""
        num_images = self.stock.num_images
        if self.folder.is_dir():
            kept_in.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.folder, kept_in)
        return num_images

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


def _checked_kind(kind: str) -> str:
    """`kind` as the name of a folder that an import understands alike; raises ValueError for one that it does not."""
    if not _NAME.fullmatch(kind):
        raise ValueError(f"kind {kind!r}: use good, or a name of a-z, 0-9, _ and -")
    meaning = meaning_of(kind, at_top=False)
    if meaning in (Meaning.MASKS, Meaning.CONTENT):
        raise ValueError(f"kind {kind!r}: a folder of this name says nothing of a defect; use good, or another name")
    if meaning is None and (nearest := misspelt_normal(kind)):
        raise ValueError(f"kind {kind!r}: did you mean {nearest}?")
    return GOOD if meaning is Meaning.NORMAL else kind


@dataclass(frozen=True)
class OfferedFolder:
    """What a folder offers to a class."""

    images: tuple[NamedImage, ...]
    left_out: Mapping[str, int]  # reason → files; an inbox keeps no masks, and no images without a label


def read_folder(folder: Path, class_name: str) -> OfferedFolder:
    """The images below a folder in any layout that an import understands (`shadowline/data/sources/recognition.py`).

    Raises FileNotFoundError for a missing folder, and ValueError for one without files or with several classes.
    """
    location, listing = list_class(folder, class_name)
    left_out = {reason: len(paths) for reason, paths in listing.left_out.items()}
    images = []
    for image in listing.images:
        if image.label is Label.UNKNOWN:
            left_out[_UNLABELLED] = left_out.get(_UNLABELLED, 0) + 1
            continue
        left_out[_MASK] = left_out.get(_MASK, 0) + len(image.read_masks)
        kind = GOOD if image.label is Label.NORMAL else class_key(image.defect_type)
        images.append(NamedImage(readable(location / image.name), kind, image.read))
    if not images:
        raise ValueError(f"{folder}: no files; put the images there, those with a defect in a folder of its name")
    return OfferedFolder(tuple(images), {reason: count for reason, count in left_out.items() if count})


def classes_waiting(root: Path) -> tuple[str, ...]:
    """Classes that have a folder in the inbox."""
    return tuple(sorted(path.name for path in root.glob("*") if path.is_dir() and _NAME.fullmatch(path.name)))
