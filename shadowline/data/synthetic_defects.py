"""Test defects for a class that has none: injected into its own normal test images, with masks, seeded.

They become files and manifest rows like any other image, labelled `injected_<kind>`, so that every later stage, the
legacy baseline and the report use them, and show that they are injected.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.images import open_within
from shadowline.data.labels import Label, Split
from shadowline.data.perturbations import DEFECT_PREFIX, View, apply_view, view_seed
from shadowline.data.sources import SourceImage

PREFIX = "injected_"  # of defect_type
INJECTED = "injected/"  # the folder of the images' names


def injected_defects(rows: pd.DataFrame, params: Params, layout: Layout) -> list[SourceImage]:
    """Defects for the test split of a class whose manifest rows hold no anomalous image; empty for any other.

    Of each kind in `calibration.injected` there are `data.injected_test`, in the first normal test images by id.
    """
    if (rows["label"] == Label.ANOMALOUS).any():
        return []
    test = rows[(rows["split"] == Split.TEST) & (rows["label"] == Label.NORMAL)].sort_values("image_id")
    chosen = test.head(params.data.injected_test)
    return list(_each(chosen, params, layout))


def _each(chosen: pd.DataFrame, params: Params, layout: Layout) -> Iterator[SourceImage]:
    for image_id, path in zip(chosen["image_id"], chosen["path"], strict=True):
        normal = open_within(layout.root / path, params.data)
        for kind in params.calibration.injected:
            view = DEFECT_PREFIX + kind
            injected = apply_view(normal, view, view_seed(params.seed, image_id, view))
            yield _source_image(f"{INJECTED}{kind}/{image_id}", kind, injected)


def _source_image(name: str, kind: str, view: View) -> SourceImage:
    masks = [] if view.mask_HW is None else [Image.fromarray(view.mask_HW.astype(np.uint8) * 255)]
    return SourceImage(
        name=f"{name}.png",
        label=Label.ANOMALOUS,
        defect_type=PREFIX + kind,
        split_hint=Split.TEST,
        read=partial(_first_bytes, _png(view.image)),
        read_masks=tuple(partial(_first_bytes, _png(mask)) for mask in masks),
    )


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _first_bytes(data: bytes, limit: int) -> bytes:
    return data[:limit]
