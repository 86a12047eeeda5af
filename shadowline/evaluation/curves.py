"""Curves of one class's scores as tables, for `dvc plots` and for the report.

roc_table(scores, anomalous)                        # false_alarms, defects_found: one row per threshold
histogram_table(scores, anomalous, threshold)       # score, normal, anomalous: one row per bin
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_curve

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NUM_BINS = 40


def roc_table(scores_N: Floats, anomalous_N: Bools) -> pd.DataFrame:
    """Shares of the normal and of the anomalous images above each threshold, from none to all.

    Without rows where the images are all normal or all anomalous: there is no curve then.
    """
    if anomalous_N.all() or not anomalous_N.any():
        return pd.DataFrame({"false_alarms": [], "defects_found": []}, dtype=np.float64)
    fpr, tpr, _ = roc_curve(anomalous_N, scores_N)
    return pd.DataFrame({"false_alarms": fpr, "defects_found": tpr})


def histogram_table(scores_N: Floats, anomalous_N: Bools, threshold: float) -> pd.DataFrame:
    """Number of normal and of anomalous images per bin; `score` is the middle of the bin.

    Scores beyond the range of `score_range` are counted in the last bin.
    """
    low, high, _ = score_range(scores_N, threshold)
    edges = np.linspace(low, high, NUM_BINS + 1)
    inside_N = np.clip(scores_N, low, high)
    counts = {
        name: np.histogram(inside_N[rows], bins=edges)[0]
        for name, rows in (("normal", ~anomalous_N), ("anomalous", anomalous_N))
    }
    return pd.DataFrame({"score": (edges[1:] + edges[:-1]) / 2, **counts})


def score_range(scores_N: Floats, threshold: float) -> tuple[float, float, bool]:
    """Low and high end of a histogram, and whether a long upper tail lies beyond the high end."""
    values = np.append(scores_N, threshold)
    low, high = float(values.min()), float(values.max())
    shoulder = max(float(np.quantile(scores_N, 0.95)), threshold)
    limit = shoulder + 0.35 * (shoulder - low)
    if high > limit > low:
        return low, limit, True
    margin = 0.02 * (high - low) or 0.5
    return low - margin, high + margin, False
