"""The interface of every single-class detector, whoever trained it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]


class Detector(Protocol):
    """A calibrated model of one product class; an image is anomalous where score > threshold.

    Scoring is deterministic, and the score of an image does not depend on the images beside it.
    """

    @property
    def class_name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a decision: weights, bank, preprocessing, threshold."""

    @property
    def threshold(self) -> float:
        """In the unit of `score`; raises ValueError before calibration."""

    @property
    def bit_depth(self) -> int:
        """Of files with more than 8 bits: how `bit_depth.to_rgb` must make the images that it scores."""

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """One score per RGB image (N,); higher is more anomalous."""

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """One anomaly map per image (N, h, w), all of one size; for pictures and pixel metrics, not for decisions."""
