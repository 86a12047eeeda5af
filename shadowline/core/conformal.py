"""Split-conformal thresholds, which bound the false-alarm rate on normal images.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005); Bates et al., "Testing for
outliers with conformal p-values" (2023).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def required_normals(target_fpr: float) -> int:
    """The fewest calibration scores for which a finite threshold can guarantee `target_fpr`."""
    return math.ceil(1.0 / target_fpr - 1e-9) - 1


def promised_rate(target: float, num_normals: int) -> float:
    """The least false-alarm rate, of `target` and more, that so many calibration scores can guarantee.

    With n scores no rate below 1 / (n + 1) can be had: where the target lies below, that rate takes its place.
    """
    return max(target, 1.0 / (num_normals + 1))


def conformal_threshold(scores: npt.ArrayLike, target_fpr: float, *, subject: str = "calibration") -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest of n scores of normals: P(score of a fresh normal > threshold) ≤ α.

    The bound holds for exchangeable normals, on average over calibration sets. Raises ValueError for scores that
    are not finite and for too few of them, naming how many are needed.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not np.isfinite(values).all():
        raise ValueError(
            f"{subject}: {int((~np.isfinite(values)).sum())} of {values.size} scores are not finite; check the features"
        )
    needed = required_normals(target_fpr)
    if values.size < needed:
        raise ValueError(
            f"{subject}: {values.size} calibration normals, need {needed} for a false-alarm rate of {target_fpr:g}; "
            "add normal images or raise calibration.target_fpr"
        )
    rank = math.ceil((values.size + 1) * (1.0 - target_fpr) - 1e-9)
    return float(values[rank - 1])
