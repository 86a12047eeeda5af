"""`shadowline stage legacy --class C`: the single-class baseline, on the same training and test images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shadowline.core.atomic_files import replace_file
from shadowline.core.conformal import promised_rate
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.images import ImageFiles
from shadowline.data.labels import Split
from shadowline.data.manifest import class_bit_depth, read_manifest
from shadowline.models.patchcore.detector import PatchCore


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> PatchCore:
    manifest = read_manifest([layout.manifest(class_name)]).sort_values("image_id")
    bit_depth = class_bit_depth(manifest) or FULL_DEPTH

    def images(split: Split) -> ImageFiles:
        paths = manifest.loc[manifest["split"] == split, "path"]
        return ImageFiles(tuple(layout.root / path for path in paths), params.data, bit_depth)

    legacy = params.legacy.model_copy(update={"location": str(layout.root / params.legacy.location)})
    train = images(Split.TRAIN)
    detector = PatchCore.fit(class_name, train, legacy, seed=params.seed, bit_depth=bit_depth, progress=progress)
    val_scores = detector.score(images(Split.VAL))
    detector = detector.calibrate(val_scores, promised_rate(params.legacy.target_fpr, len(val_scores)))
    folder = layout.legacy(class_name)
    detector.save(folder)
    test_ids = manifest.loc[manifest["split"] == Split.TEST, "image_id"]
    scores = pd.DataFrame({"image_id": test_ids, "score": np.asarray(detector.score(images(Split.TEST)))})
    with replace_file(layout.legacy_scores(class_name)) as temporary:
        scores.to_parquet(temporary, index=False)
    return detector
