"""MVTec LOCO AD (Bergmann et al., IJCV 2022): its own validation split, and one mask file per defect of an image.

<location>/<class>/train/good/000.png
                   validation/good/000.png
                   test/{good,logical_anomalies,structural_anomalies}/000.png
                   ground_truth/{logical_anomalies,structural_anomalies}/000/000.png, 001.png, …
"""

from __future__ import annotations

from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.labels import Split
from shadowline.data.sources.source_image import SourceImage, class_folder, expect_images, files_below, labelled_folders

_SPLITS = {"train": Split.TRAIN, "validation": Split.VAL, "test": Split.TEST}


def list_images(class_name: str, params: ClassParams, root: Path) -> list[SourceImage]:
    location, folder = class_folder(class_name, params, root)

    def masks_of(defect_type: str, stem: str) -> list[Path]:
        return list(files_below(folder / "ground_truth" / defect_type / stem))

    images = []
    for name, split in _SPLITS.items():
        images += labelled_folders(location, folder / name, split, masks_of)
    return expect_images(images, class_name, folder, "train/good, validation/good, test/<kind>")
