"""Which mask belongs to which image, by the names of their files and folders.

Below a folder of masks (ground_truth, masks, gt, …), the mask of test/crack/cam1/000.png is one of

    crack/cam1/000.png  000_mask.png  000_GT.bmp  000_label.tif  000-mask_2.png …   the same folders
    crack/cam1/000/…                                                            a folder of masks for one image
    crack/000_mask.png                                                          where only one image fits
    000_mask.png                                                                likewise

A mask that fits several images is refused, since it would mark defects on the wrong part. Beside its image, a mask is
known by its ending: Part1.jpg and Part1_label.bmp.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shadowline.data.sources.image_tree import PlacedFile, folded

_ENDING = re.compile(
    r"[-_. ]?(?:masks?|gt|labels?|seg|segmentation|annotation|ground_?truth|maske|마스크)(?:[-_. ]?\d+)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class MatchedMasks:
    """Masks by image, and masks for which there is no image."""

    of_image: Mapping[Path, tuple[Path, ...]]
    without_image: tuple[Path, ...]


def image_of_mask_name(stem: str) -> str | None:
    """The name of the image whose mask is called `stem`; None for a name without the ending of a mask."""
    image = _ENDING.sub("", stem)
    return image if image and image != stem else None


def masks_beside(files: Iterable[PlacedFile]) -> dict[Path, PlacedFile]:
    """Of files in one tree those that are masks of an image in the same folder: mask → image."""
    by_place = {(file.path.parent, folded(file.path.stem)): file for file in files}
    masks = {}
    for file in by_place.values():
        name = image_of_mask_name(file.path.stem)
        image = by_place.get((file.path.parent, folded(name))) if name else None
        if image is not None:
            masks[file.path] = image
    return masks


def match_masks(masks: Sequence[PlacedFile], images: Sequence[PlacedFile], subject: str) -> MatchedMasks:
    """Match masks that lie in a folder of their own with images.

    Raises ValueError, with `subject` in front, for a mask that fits several images, and where not one mask of a kind
    fits an image of that kind.
    """
    of_image: dict[Path, list[Path]] = defaultdict(list)
    without: list[PlacedFile] = []
    rules = [_index(images, key) for key in (_same_folders, _kind_alone, _nested_kind_alone, _no_folders)]
    for mask in masks:
        fitting = _fitting(mask, rules)
        if len(fitting) > 1:
            first, second = sorted(image.path for image in fitting)[:2]
            raise ValueError(
                f"{subject}: the mask {mask.path} fits {first} and {second}; put it into the folders that its image "
                "lies in, or name the images differently"
            )
        if fitting:
            of_image[fitting[0].path].append(mask.path)
        else:
            without.append(mask)
    _refuse_unmatched_kinds(without, of_image, images, subject)
    return MatchedMasks({path: tuple(found) for path, found in of_image.items()}, tuple(mask.path for mask in without))


_Index = Mapping[tuple[str, ...], list[PlacedFile]]


def _index(images: Sequence[PlacedFile], key: Callable[[tuple[str, ...]], tuple[str, ...] | None]) -> _Index:
    index: dict[tuple[str, ...], list[PlacedFile]] = defaultdict(list)
    for image in images:
        place = key(image.key)
        if place is not None:
            index[place].append(image)
    return index


def _same_folders(key: tuple[str, ...]) -> tuple[str, ...] | None:
    return key


def _kind_alone(key: tuple[str, ...]) -> tuple[str, ...] | None:
    """For a mask right below the folder of its kind, whose image is nested deeper."""
    return (key[0], key[-1]) if len(key) > 2 else None


def _nested_kind_alone(key: tuple[str, ...]) -> tuple[str, ...] | None:
    """For masks without the first folder, such as bad/ in bad/crack/000.png."""
    return key[1:] if len(key) > 2 else None


def _no_folders(key: tuple[str, ...]) -> tuple[str, ...] | None:
    return key[-1:] if len(key) > 1 else None


def _fitting(mask: PlacedFile, rules: Sequence[_Index]) -> list[PlacedFile]:
    """The images of the first rule that fits; several where it is not clear which of them is meant."""
    *folders, stem = mask.key
    without_ending = image_of_mask_name(stem)
    names = [stem, *([without_ending] if without_ending else [])]
    places = [(*folders, name) for name in names] + ([tuple(folders)] if folders else [])
    for index in rules:
        for place in places:
            images = [image for image in index.get(place, ()) if mask.split in (None, image.split)]
            if images:
                return images
    return []


def _refuse_unmatched_kinds(
    without: Sequence[PlacedFile],
    of_image: Mapping[Path, Sequence[Path]],
    images: Sequence[PlacedFile],
    subject: str,
) -> None:
    by_kind: dict[str, list[PlacedFile]] = defaultdict(list)
    for image in images:
        by_kind[image.key[0] if len(image.key) > 1 else ""].append(image)
    for mask in without:
        kind = mask.key[0] if len(mask.key) > 1 else ""
        of_kind = by_kind.get(kind) or (images if not kind else [])
        if of_kind and not any(image.path in of_image for image in of_kind):
            count = sum(other.path.parent == mask.path.parent for other in without)
            raise ValueError(
                f"{subject}: none of {count} masks in {mask.path.parent} fits an image: masks such as "
                f"{mask.path.name}, images such as {of_kind[0].path.name}; name the mask of {of_kind[0].path.name} "
                f"{of_kind[0].path.stem}_mask.png"
            )
