"""A factory's own folders; everything but train/good may be absent.

    <location>/<class>/train/good/…
                       train/<defect>/…
                       test/good/…
                       test/<defect>/…
                       ground_truth/<defect>/<stem>_mask.png or <stem>.png

Without normals below test/, those of train/ carry no hint and are split by `data.test_share`.
"""

from __future__ import annotations

from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.labels import Label, Split
from shadowline.data.sources.source_image import SourceImage, class_folder, expect_images, is_present, labelled_folders


def list_images(class_name: str, params: ClassParams, root: Path) -> list[SourceImage]:
    location, folder = class_folder(class_name, params, root)

    def masks_of(defect_type: str, stem: str) -> list[Path]:
        truth = folder / "ground_truth" / defect_type
        candidates = (truth / f"{stem}_mask.png", truth / f"{stem}.png")
        return [mask for mask in candidates if is_present(mask)][:1]

    test = labelled_folders(location, folder / "test", Split.TEST, masks_of)
    has_test_normals = any(image.label == Label.NORMAL for image in test)
    train = labelled_folders(location, folder / "train", Split.TRAIN if has_test_normals else None, masks_of)
    return expect_images(train + test, class_name, folder, "train/good")
