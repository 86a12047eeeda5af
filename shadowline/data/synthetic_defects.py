"""Test defects for a class that has none: injected into its own normal test images, with masks, seeded.

They become files and manifest rows like any other image, labelled `injected_<kind>`, so that every later stage, the
legacy baseline and the report use them, and show that they are injected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.bit_depth import FULL_DEPTH, from_grey8
from shadowline.data.images import open_within
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import mode_depth
from shadowline.data.perturbations import DEFECT_PREFIX, View, apply_view, view_seed
from shadowline.data.sources import SourceImage

PREFIX = "injected_"  # of defect_type
INJECTED = "injected/"  # the folder of the images' names
_WITHOUT_LOSS = frozenset({"L", "LA", "RGBA"})


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
    for image_id, path, mode in zip(chosen["image_id"], chosen["path"], chosen["mode"], strict=True):
        for kind in params.calibration.injected:
            files = _Files(image_id, layout.root / path, mode, kind, params)
            yield SourceImage(
                name=f"{INJECTED}{kind}/{image_id}.png",
                label=Label.ANOMALOUS,
                defect_type=PREFIX + kind,
                split_hint=Split.TEST,
                read=files.read_image,
                read_masks=(files.read_mask,),
            )


@dataclass
class _Files:
    """The two files of one injected defect, made when they are read and forgotten with the second."""

    image_id: str
    path: Path  # of the normal image
    mode: str  # of the normal image, in the manifest
    kind: str
    params: Params
    _mask: bytes = b""

    def read_image(self, limit: int) -> bytes:
        """At most `limit` bytes, as `shadowline.data.sources.source_image.Read` asks; the mask is read next."""
        view = self._view()
        assert view.mask_HW is not None  # every injected defect has one
        self._mask = _png(Image.fromarray(view.mask_HW.astype(np.uint8) * 255))
        return _png(_in_mode(view.image, self.mode))[:limit]

    def read_mask(self, limit: int) -> bytes:
        mask, self._mask = self._mask, b""
        return mask[:limit]

    def _view(self) -> View:
        depth = mode_depth(self.mode) or FULL_DEPTH
        normal = open_within(self.path, self.params.data, depth)
        name = DEFECT_PREFIX + self.kind
        return apply_view(normal, name, view_seed(self.params.seed, self.image_id, name))


def _in_mode(rgb: Image.Image, mode: str) -> Image.Image:
    """The image in the mode of the normal images that it stands beside, where a PNG without loss can have it."""
    depth = mode_depth(mode)
    if depth and mode.startswith("I"):
        return Image.fromarray(from_grey8(rgb, depth))
    return rgb.convert(mode) if mode in _WITHOUT_LOSS else rgb


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
