"""What the folders above each file say of it, for a folder that holds the images of one class."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shadowline.data.labels import Label, Split
from shadowline.data.sources.folder_words import Meaning, meaning_of, split_of
from shadowline.data.sources.source_image import IMAGE_SUFFIXES, SourceFolder, walk


@dataclass(frozen=True)
class PlacedFile:
    """A file by what its folders say."""

    path: Path
    split: Split | None  # STREAM: the labels are not published
    folders: tuple[str, ...]  # without those of split, masks and "images": that of the kind, then the nested ones
    is_mask: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The folders and the name without its suffix, in one case."""
        return tuple(folded(part) for part in (*self.folders, self.path.stem))

    def label(self, normal_folders: Collection[str] = ()) -> Label:
        """Unknown for images right in a folder of test images, or in one whose labels are not published."""
        if self.split is Split.STREAM or (self.split is Split.TEST and not self.folders):
            return Label.UNKNOWN
        is_normal = not self.folders or meaning_of(self.folders[0], normal_folders) is Meaning.NORMAL
        return Label.NORMAL if is_normal else Label.ANOMALOUS


@dataclass(frozen=True)
class ImageTree:
    """The files of one class."""

    images: tuple[PlacedFile, ...]
    masks: tuple[PlacedFile, ...]  # in folders of masks
    skipped: tuple[Path, ...]  # the system's own files
    outside: tuple[Path, ...]  # beside the folders of images, and what is no image in folders of masks


def folded(name: str) -> str:
    """A name for comparison: in one case, and accents in one encoding (file systems differ in both)."""
    return unicodedata.normalize("NFC", name).casefold()


def read_tree(source: SourceFolder, normal_folders: Collection[str] = ()) -> ImageTree:
    """Read what the folders of a source say of each file; no file is opened."""
    folder = source.folder
    files = walk(folder, source.roots)
    placed = [_place(path, folder, normal_folders) for path in files.kept]
    has_splits = any(file.split is not None for file in placed)
    has_kinds = any(file.folders for file in placed)
    images, masks, outside = list[PlacedFile](), list[PlacedFile](), list[Path]()
    for file in placed:
        is_picture = file.path.suffix.lower() in IMAGE_SUFFIXES
        if file.is_mask and is_picture:
            masks.append(file)
        elif file.is_mask or (file.path.parent == folder and (has_splits or (has_kinds and not is_picture))):
            outside.append(file.path)
        else:
            images.append(file)
    return ImageTree(tuple(images), tuple(masks), files.skipped, tuple(outside))


def _place(path: Path, folder: Path, normal_folders: Collection[str]) -> PlacedFile:
    split: Split | None = None
    is_mask = False
    folders: list[str] = []
    for depth, name in enumerate(path.relative_to(folder).parts[:-1]):
        meaning = meaning_of(name, normal_folders, at_top=depth == 0)
        if split is None and not folders and (named := split_of(name)):
            split = named
        elif meaning is Meaning.MASKS and not is_mask and len(folders) <= 1:
            is_mask = True
        elif meaning is not Meaning.CONTENT:
            folders.append(unicodedata.normalize("NFC", name))
    return PlacedFile(path, split, tuple(folders), is_mask)
