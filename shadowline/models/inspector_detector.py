"""The multi-class model as the detector of one class, so that it can be compared with a single-class model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shadowline.models.inspector import Inspection, Inspector

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CandidateDetector:
    """One class of an inspector; see `shadowline.models.detector.Detector`."""

    inspector: Inspector
    class_name: str

    def __post_init__(self) -> None:
        if self.class_name not in self.inspector.calibrations:
            raise ValueError(f"class {self.class_name!r} is not in this model; it knows {self.inspector.classes}")

    @property
    def fingerprint(self) -> str:
        return self.inspector.class_fingerprints[self.class_name]

    @property
    def bit_depth(self) -> int:
        return self.inspector.decoding.bit_depth_of(self.class_name)

    @property
    def threshold(self) -> float:
        return self.inspector.calibrations[self.class_name].threshold

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """Robust sigmas above a typical normal image of the class: (N,)."""
        return np.array([inspection.score for inspection in self._inspect(images)], dtype=np.float64)

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """Robust sigmas per patch: (N, H, W)."""
        return np.stack([inspection.anomaly_map for inspection in self._inspect(images)])

    def _inspect(self, images: Sequence[Image.Image]) -> list[Inspection]:
        return list(self.inspector.inspect_many(images, self.class_name))
