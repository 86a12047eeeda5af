"""VisA (Zou et al., ECCV 2022), in its original layout; masks hold 0…n, one value per kind of defect.

    <location>/<class>/Data/Images/{Normal,Anomaly}/0000.JPG
                       Data/Masks/Anomaly/000.png
                       image_anno.csv             image, label, mask
    <location>/split_csv/1cls.csv                 object, split, label, image, mask

Paths in both tables count from the location. 1cls.csv decides the split where it exists; the names of the defects are
in image_anno.csv only. Files that neither table names are not part of the data set.
"""

from __future__ import annotations

import csv
from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.labels import Label, Split
from shadowline.data.sources.source_image import Listing, SourceFolder, SourceImage, class_folder, expect_images

_SPLITS = {"train": Split.TRAIN, "test": Split.TEST}


def list_images(class_name: str, params: ClassParams, root: Path) -> Listing:
    source = class_folder(class_name, params, root)
    location, folder = source.location, source.folder
    split_csv, annotation_csv = location / "split_csv/1cls.csv", folder / "image_anno.csv"
    if not split_csv.is_file() and not annotation_csv.is_file():
        raise FileNotFoundError(f"class '{class_name}': neither {split_csv} nor {annotation_csv}; unpack all of VisA")
    annotated = _rows(annotation_csv, ("image", "label", "mask")) if annotation_csv.is_file() else []
    rows = annotated
    if split_csv.is_file():
        every_class = _rows(split_csv, ("object", "split", "label", "image", "mask"))
        rows = [row for row in every_class if row["object"] == folder.name]
    labels = {row["image"]: row["label"] for row in annotated}
    images = [_image(row, labels, source) for row in rows]
    return expect_images(images, class_name, folder, f"rows of object {folder.name} in {split_csv.name}")


def _image(row: dict[str, str], labels: dict[str, str], source: SourceFolder) -> SourceImage:
    normal = row["label"] == "normal"
    return SourceImage(
        name=row["image"],
        label=Label.NORMAL if normal else Label.ANOMALOUS,
        defect_type="" if normal else labels.get(row["image"], row["label"]),
        split_hint=_SPLITS[row["split"]] if "split" in row else None,
        read=source.reader(source.location / row["image"]),
        read_masks=(source.reader(source.location / row["mask"]),) if row["mask"] else (),
    )


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Raises ValueError for missing columns, and for a split that is neither train nor test."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        missing = sorted(set(columns) - set(table.fieldnames or ()))
        if missing:
            raise ValueError(
                f"{path}: no columns {missing}, need {list(columns)}; take the file from VisA's own archive"
            )
        rows = [{column: (row[column] or "").strip() for column in columns} for row in table]
    wrong = sorted({row["split"] for row in rows if "split" in row} - set(_SPLITS))
    if wrong:
        raise ValueError(f"{path}: splits {wrong}, expected {list(_SPLITS)}; take the file from VisA's own archive")
    return rows
