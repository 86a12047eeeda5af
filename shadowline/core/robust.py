"""The robust standard deviation that thresholds, scales, limits and gates are measured in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import median_abs_deviation

# Sigma of a normal distribution per median absolute deviation, to four digits. The exact value is 1.482602218505602,
# which `median_abs_deviation(scale="normal")` uses; with it every calibration, threshold and fingerprint would change.
MAD_TO_SIGMA = 1.4826


def robust_sigma(values: npt.ArrayLike) -> float:
    """1.4826 · MAD of finite values (at least one) of any shape; 0 where more than half of them are equal."""
    return MAD_TO_SIGMA * float(median_abs_deviation(values, axis=None))


def robust_sigmas(values_NS: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The same for each column: (N, S) → (S,)."""
    return np.asarray(MAD_TO_SIGMA * median_abs_deviation(values_NS, axis=0), dtype=np.float64)
