"""The tables that `dvc plots` draws: the area under the curve is the AUROC, and no image is lost from a histogram."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from shadowline.evaluation.curves import histogram_table, roc_table


def _scores(num_normal: int, num_anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(0, 1, num_normal), rng.normal(2, 3, num_anomalous)])
    return scores, np.arange(scores.size) >= num_normal


def test_the_area_under_the_roc_table_is_the_auroc() -> None:
    scores, anomalous = _scores(60, 40)
    table = roc_table(scores, anomalous)
    area = np.trapezoid(table["defects_found"], table["false_alarms"])
    assert area == pytest.approx(roc_auc_score(anomalous, scores))


def test_without_images_of_one_kind_there_is_no_curve() -> None:
    for counts in ((5, 0), (0, 5)):
        assert roc_table(*_scores(*counts)).empty


def test_every_image_is_in_one_bin_of_its_kind() -> None:
    scores, anomalous = _scores(60, 40)
    scores[-1] = 1e6  # a long tail, gathered into the last bin
    table = histogram_table(scores, anomalous, threshold=2.5)
    assert (table["normal"].sum(), table["anomalous"].sum()) == (60, 40)
    assert table["score"].is_monotonic_increasing and table["score"].max() < 100


def test_images_with_one_and_the_same_score_have_a_histogram() -> None:
    table = histogram_table(np.full(4, 7.0), np.array([False, False, True, True]), threshold=7.0)
    assert (table["normal"].sum(), table["anomalous"].sum()) == (2, 2)
