"""Folders with images of one class, in any of the usual layouts; everything but normal images may be absent.

    <folder>/train/good/…               <folder>/good/…             <folder>/000.png  (normal)
             validation/good/…                   crack/…                     crack/…
             test/good/…                         masks/crack/…
             test/crack/…
             ground_truth/crack/000_mask.png

Folders are understood by their names (`folder_words.py`): "Good", "OK", "i.O." and "정상" hold normal images, any other
name is a kind of defect. Masks are found by the names of their files (`mask_files.py`). Images of test_private/, and
those right in test/, have no label: they play production.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.file_names import readable
from shadowline.data.labels import Label, Split
from shadowline.data.sources.folder_words import Meaning, meaning_of, misspelt_normal
from shadowline.data.sources.image_tree import ImageTree, PlacedFile, folded, read_tree
from shadowline.data.sources.mask_files import masks_beside, match_masks
from shadowline.data.sources.source_image import Listing, SourceFolder, SourceImage, class_folder, expect_images

_EXPECTED = "normal images in it, in good/ or in train/good"
_NUM_NAMED = 5  # folders that an error names
_ORDER = (None, Split.TRAIN, Split.VAL, Split.TEST, Split.STREAM)  # of equal content, the first image is kept


def list_images(class_name: str, params: ClassParams, root: Path) -> Listing:
    """Raises ValueError as `list_folder` does, and for a folder without normal images."""
    source = class_folder(class_name, params, root)
    listing = list_folder(class_name, params, source)
    expect_images(listing.images, class_name, source.folder, _EXPECTED)
    if not any(image.label is Label.NORMAL for image in listing.images):
        names = sorted({image.defect_type for image in listing.images if image.defect_type})[:_NUM_NAMED]
        raise ValueError(
            f"class '{class_name}': 0 normal images in {source.folder}, expected {_EXPECTED}; of the folders there "
            f"({', '.join(names) or 'none'}), name those with normal images in classes.{class_name}.normal_folders"
        )
    return listing


def list_folder(class_name: str, params: ClassParams, source: SourceFolder) -> Listing:
    """The images of a folder; they may be none.

    Raises ValueError for a misspelt folder of normal images, and for masks that fit no image or several.
    """
    subject = f"class '{class_name}'"
    tree = read_tree(source, params.normal_folders)
    beside = masks_beside(tree.images)
    images = [image for image in tree.images if image.path not in beside]
    images.sort(key=lambda image: _ORDER.index(image.split))
    labels = {image.path: image.label(params.normal_folders) for image in images}
    _refuse_misspelt(images, labels, class_name)
    _refuse_pairs([image for image in images if labels[image.path] is Label.ANOMALOUS], subject)
    masks, left_out = _masks(tree, beside, labels, params.normal_folders, subject)
    kinds = kinds_of_defects(images, labels, params.normal_folders)
    listed = [
        SourceImage(
            name=source.name(image.path),
            label=labels[image.path],
            defect_type=readable(kinds.get(image.path, "")),
            split_hint=Split.STREAM if labels[image.path] is Label.UNKNOWN else image.split,
            read=source.reader(image.path),
            read_masks=tuple(source.reader(mask) for mask in masks.get(image.path, ())),
        )
        for image in images
    ]
    return Listing(tuple(listed), left_out)


def kinds_of_defects(
    images: Sequence[PlacedFile], labels: Mapping[Path, Label], normal_folders: Collection[str] = ()
) -> dict[Path, str]:
    """Kind of defect by image: the name of the first folder, or of the second where the first is bad/, NG/, …

    A second folder names no kind where normal images lie in one of the same name, or where it has a number (cam1/).
    """
    nested_normals = {image.folders[1] for image in images if labels[image.path] is Label.NORMAL and image.folders[1:]}
    kinds = {}
    for image in images:
        if labels[image.path] is Label.ANOMALOUS:
            first, *nested = image.folders
            is_unnamed = meaning_of(first, normal_folders) is Meaning.DEFECT
            is_kind = bool(nested) and nested[0] not in nested_normals and not re.search(r"\d", nested[0])
            kinds[image.path] = nested[0] if is_unnamed and is_kind else first
    return kinds


def _refuse_misspelt(images: Sequence[PlacedFile], labels: Mapping[Path, Label], class_name: str) -> None:
    for image in images:
        if labels[image.path] is not Label.ANOMALOUS or meaning_of(image.folders[0]) is not None:
            continue
        if nearest := misspelt_normal(image.folders[0]):
            raise ValueError(
                f"class '{class_name}': the folder '{image.folders[0]}' with {image.path}: did you mean {nearest}? "
                f"rename it, or name it in classes.{class_name}.normal_folders"
            )


def _refuse_pairs(defects: Sequence[PlacedFile], subject: str) -> None:
    """Two files of one name, such as 0.jpg and 0.png, are probably an image and its mask, which is no second defect."""
    seen: dict[tuple[Path, str], Path] = {}
    for image in defects:
        other = seen.setdefault((image.path.parent, folded(image.path.stem)), image.path)
        if other != image.path:
            raise ValueError(
                f"{subject}: {other} and {image.path.name} have one name; if one is the mask, call it "
                f"{image.path.stem}_mask{image.path.suffix}, else take one of them out"
            )


def _masks(
    tree: ImageTree,
    beside: Mapping[Path, PlacedFile],
    labels: Mapping[Path, Label],
    normal_folders: Collection[str],
    subject: str,
) -> tuple[dict[Path, list[Path]], dict[str, tuple[Path, ...]]]:
    """Masks by image, and what is left out by reason."""
    of_normals = [mask.path for mask in tree.masks if _is_of_normal(mask, normal_folders)]
    of_defects = [mask for mask in tree.masks if not _is_of_normal(mask, normal_folders)]
    defects = [image for image in tree.images if labels.get(image.path) is Label.ANOMALOUS]
    matched = match_masks(of_defects, defects, subject)
    masks = {path: list(paths) for path, paths in matched.of_image.items()}
    for path, image in beside.items():
        if labels[image.path] is Label.ANOMALOUS:
            masks.setdefault(image.path, []).append(path)
        else:
            of_normals.append(path)
    left_out = {
        "a file of the system": tree.skipped,
        "beside the folders of images": tree.outside,
        "a mask without an image": matched.without_image,
        "a mask of an image that is not known to have a defect": tuple(sorted(of_normals)),
    }
    return masks, {reason: paths for reason, paths in left_out.items() if paths}


def _is_of_normal(mask: PlacedFile, normal_folders: Collection[str]) -> bool:
    return bool(mask.folders) and meaning_of(mask.folders[0], normal_folders) is Meaning.NORMAL
