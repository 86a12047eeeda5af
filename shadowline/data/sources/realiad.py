"""Real-IAD (Wang et al., CVPR 2024): a JSON file for each class decides on split, kind of defect and mask.

    <location>/realiad_jsons/realiad_jsons/audiojack.json          several sets of tables, and several sizes of images
    <location>/realiad_1024/audiojack/OK/S0001/audiojack_0001_OK_C1_20231021183203.jpg
                                      NG/AK/S0002/audiojack_0002_NG_AK_C1_….jpg and ….png

    {"meta": {"normal_class": "OK", "prefix": "audiojack/", …},
     "train": [{"category": "audiojack", "anomaly_class": "OK", "image_path": "OK/S0001/….jpg", "mask_path": null}, …],
     "test": […]}

`select` names the class, or the table and the class: realiad_jsons_sv/audiojack. Without a table the first one is read
(realiad_jsons before realiad_jsons_fuiad_0.4 and realiad_jsons_sv); of several sizes of images, the largest.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shadowline.core.params import ClassParams
from shadowline.data.labels import Label, Split
from shadowline.data.sources.source_image import Listing, SourceFolder, SourceImage, class_folder, expect_images

_MAX_TABLE_DEPTH = 3  # folders between the location and a table
_HEAD_BYTES = 4096  # of a table, with its first entry
_KINDS = {
    "AK": "pit",
    "BX": "deformation",
    "CH": "abrasion",
    "HS": "scratch",
    "PS": "damage",
    "QS": "missing_parts",
    "YW": "foreign_objects",
    "ZW": "contamination",
}  # as the paper names them


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Meta(_Record):
    normal_class: str = "OK"
    prefix: str = ""  # of every path


class _Sample(_Record):
    anomaly_class: str
    image_path: Annotated[str, Field(min_length=1)]
    mask_path: str | None = None


class _Table(_Record):
    meta: _Meta = _Meta()
    train: tuple[_Sample, ...]
    test: tuple[_Sample, ...]


def list_images(class_name: str, params: ClassParams, root: Path) -> Listing:
    """Raises FileNotFoundError for a missing table or folder of images, ValueError for a table that is none."""
    source = class_folder(class_name, params.model_copy(update={"select": "."}), root)
    location = source.location
    wanted = Path(params.select or class_name)
    path = next((table for table in tables(location, wanted.name) if _fits(table, wanted)), None)
    if path is None:
        raise FileNotFoundError(
            f"class '{class_name}': no table {wanted}.json below {location}; unpack realiad_jsons beside the images, "
            f"or correct classes.{class_name}.select"
        )
    table = _read(path)
    folder = _folder_of_images(location, path, table, class_name)
    samples = [(Split.TRAIN, sample) for sample in table.train] + [(Split.TEST, sample) for sample in table.test]
    images = [_image(sample, split, table.meta, folder, source) for split, sample in samples]
    return expect_images(images, class_name, path, "entries in train and test")


def tables(location: Path, class_name: str | None = None) -> list[Path]:
    """The tables of all classes, or of one; those to be preferred first."""
    name = "*.json" if class_name is None else f"{glob.escape(class_name)}.json"
    patterns = ["*/" * depth + name for depth in range(_MAX_TABLE_DEPTH)]
    found = (path for pattern in patterns for path in location.glob(pattern) if path.is_file())
    return sorted((path for path in found if _looks_like_table(path)), key=lambda path: path.parts)


def _looks_like_table(path: Path) -> bool:
    """Whether a JSON file begins as the tables do, without reading all of it."""
    with path.open("rb") as file:
        return b'"anomaly_class"' in file.read(_HEAD_BYTES)


def _fits(table: Path, wanted: Path) -> bool:
    parts = (*table.parent.parts, table.stem)
    return parts[-len(wanted.parts) :] == wanted.parts


def _read(path: Path) -> _Table:
    try:
        return _Table.model_validate_json(path.read_bytes())
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise ValueError(
            f"{path}: {place or 'the file'}: {detail['msg']}; take it from Real-IAD's own archive"
        ) from None


def _folder_of_images(location: Path, table_path: Path, table: _Table, class_name: str) -> Path:
    """The folder that the paths of a table count from, without the prefix."""
    prefix = table.meta.prefix.strip("/") or table_path.stem
    holders = [path for path in (location, *location.iterdir()) if (path / prefix).is_dir()]
    if not holders:
        raise FileNotFoundError(
            f"class '{class_name}': no folder {prefix} with images in {location} or a folder of it such as "
            "realiad_1024; unpack the images beside realiad_jsons"
        )
    return max(holders, key=_pixels) / prefix


def _pixels(folder: Path) -> tuple[float, str]:
    """Order of the folders realiad_256, realiad_512, realiad_1024, realiad_raw."""
    number = re.search(r"(\d+)$", folder.name)
    return (float("inf") if folder.name.endswith("raw") else float(number[1]) if number else 0.0, folder.name)


def _image(sample: _Sample, split: Split, meta: _Meta, folder: Path, source: SourceFolder) -> SourceImage:
    is_normal = sample.anomaly_class == meta.normal_class
    path = folder / sample.image_path
    masks = [folder / sample.mask_path] if sample.mask_path and not is_normal else []
    return SourceImage(
        name=f"{source.name(folder)}/{sample.image_path}",
        label=Label.NORMAL if is_normal else Label.ANOMALOUS,
        defect_type="" if is_normal else _KINDS.get(sample.anomaly_class, sample.anomaly_class),
        split_hint=split,
        read=source.reader(path),
        read_masks=tuple(source.reader(mask) for mask in masks),
    )
