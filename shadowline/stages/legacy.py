"""`shadowline stage legacy --class C`: the single-class baseline, on the same training and test images."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from shadowline.core.atomic_files import replace_file
from shadowline.core.conformal import promised_rate
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.images import open_within
from shadowline.data.labels import Split
from shadowline.data.manifest import read_manifest
from shadowline.models.patchcore.detector import PatchCore


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> PatchCore:
    manifest = read_manifest([layout.manifest(class_name)]).sort_values("image_id")

    def images(split: Split) -> list[Image.Image]:
        return [
            open_within(layout.root / path, params.data) for path in manifest.loc[manifest["split"] == split, "path"]
        ]

    legacy = params.legacy.model_copy(update={"location": str(layout.root / params.legacy.location)})
    detector = PatchCore.fit(class_name, images(Split.TRAIN), legacy, seed=params.seed, progress=progress)
    val_scores = detector.score(images(Split.VAL))
    detector = detector.calibrate(val_scores, promised_rate(params.legacy.target_fpr, len(val_scores)))
    folder = layout.legacy(class_name)
    detector.save(folder)
    test_ids = manifest.loc[manifest["split"] == Split.TEST, "image_id"]
    scores = pd.DataFrame({"image_id": test_ids, "score": np.asarray(detector.score(images(Split.TEST)))})
    with replace_file(layout.legacy_scores(class_name)) as temporary:
        scores.to_parquet(temporary, index=False)
    return detector
