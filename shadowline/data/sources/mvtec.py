"""Data sets with a folder train/ for each class: MVTec AD, MVTec AD 2, MVTec LOCO AD, BTAD, and all that copied them.

    MVTec AD       train/good, test/{good,<defect>}, ground_truth/<defect>/000_mask.png
    MVTec AD 2     train/good, validation/good, test_public/{good,bad,ground_truth/bad/000_regular_mask.png};
                   test_private and test_private_mixed have no labels and play production
    MVTec LOCO AD  train/good, validation/good, test/{good,logical_anomalies,structural_anomalies},
                   ground_truth/<defect>/000/000.png, 001.png, …: several masks for one image
    BTAD           train/ok, test/{ok,ko}, ground_truth/ko/0000.png

Bergmann et al., CVPR 2019 and IJCV 2022; Heckler-Kram et al., arXiv 2503.21622; Mishra et al., ISIE 2021.
"""

from __future__ import annotations

from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.labels import Split
from shadowline.data.sources import folder
from shadowline.data.sources.folder_words import split_of
from shadowline.data.sources.source_image import Listing, class_folder, expect_images


def list_images(class_name: str, params: ClassParams, root: Path) -> Listing:
    """As a folder in any layout, but the images must lie below train/."""
    class_path = class_folder(class_name, params, root).folder
    if not any(split_of(path.name) is Split.TRAIN for path in class_path.iterdir() if path.is_dir()):
        expect_images((), class_name, class_path, "train/good, test/<defect>")
    return folder.list_images(class_name, params, root)
