"""Near-identical frames: a frozen camera, a file encoded again, a part filmed twice. A series of them counts once.

    signature = frame_signature(image)                       # 1 KB
    is_near_identical(signature, another, tolerance=0.5)     # grey levels
    groups = FrameGroups(rule, known, recent)
    groups.assign(image_id, signature)                       # (frame group, whether this is its first frame)

Measured on all images of the demo's classes, in grey levels, as mean over the cells (in the cell that differs most):

    the closest two distinct images    solar_mono 1.00 (6) · solar_poly 1.30 (5) · textile 13.7 (49)
    JPEG of quality 90 against it      0.19 (1) at most
    noise of ±1 level                  0.13 (1) at most
    Gaussian noise of 3 levels         0.27 (2) at most
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shadowline.core.params import ShadowParams

_SIDE = 32  # cells per side of a signature; 8 and 16 tell the closest cells of solar_mono apart less well
_WORST_CELL = 6  # times the tolerance; a small defect changes few cells, but those by much


@dataclass(frozen=True)
class FrameRule:
    """Which frames count as one."""

    window: int  # newest first frames that a frame is compared with
    levels: float  # largest mean absolute difference, grey levels (0…255)

    @classmethod
    def of(cls, params: ShadowParams) -> FrameRule:
        return cls(params.near_identical_window, params.near_identical_levels)


def frame_signature(image: Image.Image) -> bytes:
    """The mean grey levels of 32 × 32 cells, row by row, one byte each."""
    return image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()


def is_near_identical(first: bytes, second: bytes, tolerance: float) -> bool:
    """Whether two signatures show the same view: `tolerance` bounds the mean difference in grey levels, and six times
    as much the difference of the cell that differs most."""
    return len(first) == len(second) and _distance(_levels(first), _levels(second)[np.newaxis])[0] <= tolerance


class FrameGroups:
    """The frame groups of one class and two models; frames are assigned in the order in which they are recorded."""

    def __init__(
        self, rule: FrameRule | None, known: Mapping[str, str], recent: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        """`known`: image → its group, of images on record. `recent`: image and signature of the newest first frames,
        oldest first. Without a rule only the same image is the same frame."""
        self._rule, self._known = rule, dict(known)
        self._recent = deque(
            ((image_id, _levels(signature)) for image_id, signature in recent), maxlen=rule.window if rule else 0
        )

    def assign(self, image_id: str, signature: bytes | None) -> tuple[str, bool]:
        """The image id of the group's first frame, and whether this frame is the first."""
        if (group := self._known.get(image_id)) is not None:
            return group, False
        levels = None if signature is None else _levels(signature)
        group = self._nearest(levels)
        self._known[image_id] = group or image_id
        if group is None and levels is not None:
            self._recent.append((image_id, levels))
        return group or image_id, group is None

    def _nearest(self, levels: npt.NDArray[np.int16] | None) -> str | None:
        alike = [
            (image_id, candidate)
            for image_id, candidate in self._recent
            if levels is not None and len(candidate) == len(levels)
        ]
        if self._rule is None or levels is None or not alike:
            return None
        distances = _distance(levels, np.stack([candidate for _, candidate in alike]))
        nearest = int(distances.argmin())
        return alike[nearest][0] if distances[nearest] <= self._rule.levels else None


def _levels(signature: bytes) -> npt.NDArray[np.int16]:
    return np.frombuffer(signature, dtype=np.uint8).astype(np.int16)


def _distance(levels: npt.NDArray[np.int16], others: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Distances to `others` in grey levels: the mean difference, or a sixth of the largest if that is more."""
    differences = np.abs(others - levels)
    return np.asarray(np.maximum(differences.mean(axis=1), differences.max(axis=1) / _WORST_CELL))
