"""MVTec AD (Bergmann et al., CVPR 2019), and every data set that copied its folders.

<location>/<class>/train/good/000.png
                   test/good/000.png
                   test/<defect>/000.png
                   ground_truth/<defect>/000_mask.png
"""

from __future__ import annotations

from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.labels import Split
from shadowline.data.sources.source_image import SourceImage, class_folder, expect_images, is_present, labelled_folders


def list_images(class_name: str, params: ClassParams, root: Path) -> list[SourceImage]:
    location, folder = class_folder(class_name, params, root)

    def masks_of(defect_type: str, stem: str) -> list[Path]:
        mask = folder / "ground_truth" / defect_type / f"{stem}_mask.png"
        return [mask] if is_present(mask) else []

    train = labelled_folders(location, folder / "train", Split.TRAIN, masks_of)
    test = labelled_folders(location, folder / "test", Split.TEST, masks_of)
    return expect_images(train + test, class_name, folder, "train/good, test/<defect>")
