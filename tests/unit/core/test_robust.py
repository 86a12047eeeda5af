from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from shadowline.core.robust import robust_sigma, robust_sigmas

FINITE = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(FINITE)
def test_the_bits_are_those_of_the_formulas_that_calibrated_the_models(values: list[float]) -> None:
    array, series = np.array(values), pd.Series(values)
    of_numpy = 1.4826 * float(np.median(np.abs(array - float(np.median(array)))))
    of_pandas = 1.4826 * float((series - float(series.median())).abs().median())
    assert robust_sigma(array) == robust_sigma(series) == of_numpy == of_pandas


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_columns_are_taken_one_by_one(rows: list[tuple[float, float]]) -> None:
    values_NS = np.array(rows)
    centred_NS = values_NS - np.median(values_NS, axis=0)
    assert np.array_equal(robust_sigmas(values_NS), 1.4826 * np.median(np.abs(centred_NS), axis=0))
    assert robust_sigmas(values_NS).tolist() == [robust_sigma(column) for column in values_NS.T]


def test_it_estimates_the_standard_deviation_and_differs_from_the_exact_constant() -> None:
    normals = np.random.default_rng(0).normal(5, 2, 100_000)
    assert robust_sigma(normals) == pytest.approx(2, rel=0.01)
    exact = median_abs_deviation(normals, scale="normal")
    assert robust_sigma(normals) != exact
    assert robust_sigma(normals) == pytest.approx(exact, rel=2e-6)
