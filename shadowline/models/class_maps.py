"""Raw anomaly maps of a class's cached images, by decoder and bank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shadowline.core.layout import Layout
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.models.calibration import Recipe, raw_maps
from shadowline.models.dinomaly.model import load_decoder
from shadowline.models.gaussian_bank.bank import Bank


class ClassMaps:
    """Raw maps of a class's cached images."""

    def __init__(self, class_name: str, layout: Layout) -> None:
        self._features = FeatureFile(layout.features(class_name))
        self._decoder, self._spec = load_decoder(layout.decoder_weights)
        self.bank = Bank.load(layout.bank(class_name))
        if self.bank.fingerprint != self._features.fingerprint:
            raise ValueError(f"class {class_name!r}: bank and features come from different encoders; run `dvc repro`")

    def of(self, keys: Sequence[FeatureKey], recipe: Recipe | None = None) -> npt.NDArray[np.float64]:
        """(B, M, P), float64; for a recipe without the reconstruction map, that map is left at zero."""
        decoder = self._decoder if recipe is None or recipe.weights[0] > 0.0 else None
        return raw_maps(self._features.fetch(keys), decoder, self.bank, self._spec.num_prefix)
