"""Calibration: what is chosen is chosen on the selecting half, what is promised is promised on the other."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.learning import GROUPS, PATCHES, PREFIX, SPEC, WIDTH, fake_fused, project_params
from shadowline.core.conformal import conformal_threshold
from shadowline.core.params import CalibrationParams
from shadowline.data.splits import halve
from shadowline.models.calibration import (
    Calibration,
    CalibrationResult,
    Pool,
    Recipe,
    RecipeCandidate,
    Scale,
    calibrate,
    candidate_weights,
    pooled,
    rank_recipes,
    raw_maps,
)
from shadowline.models.gaussian_bank.bank import Bank, Moments

SIDE = 8
IMAGE_IDS = st.sets(st.text("0123456789abcdef", min_size=4, max_size=8), max_size=40)


def calibration_params(**changes: object) -> CalibrationParams:
    small = {"target_fpr": 0.1, "bank_weights": [0.0, 0.5, 1.0], "poolings": [[0.02], [1.0]], "auroc_tie": 0.0}
    return CalibrationParams.model_validate({**project_params().calibration.model_dump(), **small, **changes})


def normal_maps(count: int, seed: int) -> np.ndarray:
    """(B, 3, P): a reconstruction map and two bank maps of unlike units; images differ a little as a whole."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 3, SIDE * SIDE)) + 0.3 * rng.normal(size=(count, 3, 1))
    return noise * np.array([0.02, 3.0, 1.0])[:, None] + np.array([0.1, 20.0, 15.0])[:, None]


def with_spot(maps: np.ndarray, *, on: int, sigmas: float = 12.0) -> np.ndarray:
    """A small bright spot on one of the maps; the others see nothing."""
    out = maps.copy().reshape(len(maps), 3, SIDE, SIDE)
    out[:, on, 2:4, 3:5] += sigmas * maps[:, on].std()
    return out.reshape(maps.shape)


def with_drift(maps: np.ndarray, *, on: int, sigmas: float = 1.5) -> np.ndarray:
    """Everything on one of the maps rises a little."""
    out = maps.copy()
    out[:, on] += sigmas * maps[:, on].std()
    return out


def calibrated(*, selecting: int = 30, calibrating: int = 30, on: int = 1, **changes: object) -> CalibrationResult:
    normals = normal_maps(selecting, 0)
    injected = {"scratch": with_spot(normals[:16], on=on)}
    return calibrate("bolt", normals, injected, normal_maps(calibrating, 1), calibration_params(**changes))


CALIBRATED = functools.cache(calibrated)  # for tests that only read


# --- halves ---------------------------------------------------------------------------------------------------------


@given(ids=IMAGE_IDS, seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_halves_are_disjoint_complete_equal_and_independent_of_the_order(ids, seed, order):
    selecting, calibrating = halve(sorted(ids), seed)
    assert not set(selecting) & set(calibrating)
    assert set(selecting) | set(calibrating) == ids
    assert 0 <= len(calibrating) - len(selecting) <= 1
    assert halve(order.sample(sorted(ids), len(ids)), seed) == (selecting, calibrating)


@given(ids=IMAGE_IDS, new=st.text("0123456789abcdef", min_size=9, max_size=9))
def test_a_new_image_moves_at_most_one_other(ids, new):
    before, _ = halve(sorted(ids), 7)
    after, _ = halve(sorted({*ids, new}), 7)
    assert len(set(before) ^ (set(after) - {new})) <= 1


def test_another_seed_gives_other_halves():
    ids = [f"{i:04x}" for i in range(40)]
    assert halve(ids, 7) != halve(ids, 8)


# --- scaling and pooling --------------------------------------------------------------------------------------------


def test_a_scale_reads_location_and_spread_of_a_normal_law_and_shrugs_off_outliers():
    values = np.random.default_rng(0).normal(5.0, 2.0, size=20_000)
    values[:200] = 1e9
    scale = Scale.of(values, "x")
    assert scale.median == pytest.approx(5.0, abs=0.1)
    assert scale.sigma == pytest.approx(2.0, rel=0.05)
    assert np.median(scale.apply(values)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "sigma"), [([9.792] * 50, "0.0"), ([9.792] * 40 + [1.0, 2.0], "0.0"), ([1.0, math.nan, 2.0], "nan")]
)
def test_a_saturated_map_is_an_error_with_the_reason(values, sigma):
    with pytest.raises(ValueError, match=f"bolt: normals have a robust sigma of {sigma}; the map is saturated"):
        Scale.of(np.array(values), "bolt")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 1.0])
def test_pooling_is_the_mean_of_the_largest_share(share):
    maps = np.random.default_rng(0).normal(size=(5, SIDE, SIDE))
    top = max(1, round(SIDE * SIDE * share))
    expected = [np.mean(sorted(score_map.ravel(), reverse=True)[:top]) for score_map in maps]
    np.testing.assert_allclose(pooled(maps, share), expected, rtol=1e-12)


def test_pooling_has_its_two_ends():
    maps = np.random.default_rng(0).normal(size=(5, SIDE, SIDE))
    np.testing.assert_array_equal(pooled(maps, 1e-9), maps.max(axis=(1, 2)))
    np.testing.assert_allclose(pooled(maps, 1.0), maps.mean(axis=(1, 2)))


# --- raw maps -------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return SPEC.build().eval()


@pytest.fixture
def bank() -> Bank:
    train = fake_fused(6, 0)[:, :, PREFIX:].transpose(0, 1).reshape(GROUPS, -1, WIDTH).numpy()
    return Bank.fit(Moments.of(train), "ledoit_wolf", num_images=6, fingerprint="f")


def test_raw_maps_are_the_reconstruction_then_one_bank_map_per_group(decoder, bank):
    fused = fake_fused(3, 0)
    maps = raw_maps(fused, decoder, bank, PREFIX)
    assert maps.shape == (3, 1 + GROUPS, PATCHES)
    assert maps.dtype == np.float64
    np.testing.assert_allclose(maps[:, 1:], bank.distance(fused[:, :, PREFIX:]).numpy(), rtol=1e-6)
    assert (maps[:, 0] >= 0).all() and (maps[:, 0] <= 2).all()


def test_a_raw_map_does_not_depend_on_the_images_beside_it(decoder, bank):
    """Over more images than one pass of the decoder takes."""
    fused = torch.cat([fake_fused(12, 0), 3 * fake_fused(9, 1)])
    together = raw_maps(fused, decoder, bank, PREFIX)
    alone = np.concatenate([raw_maps(features[None], decoder, bank, PREFIX) for features in fused])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


# --- scores ---------------------------------------------------------------------------------------------------------


@given(chosen=st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_a_score_does_not_depend_on_the_images_that_share_the_call(chosen):
    """Any selection, order or repetition of images: the same scores and maps, bit for bit."""
    calibration = CALIBRATED().calibration
    maps = with_spot(normal_maps(12, 3), on=1)
    np.testing.assert_array_equal(calibration.score_raw(maps[chosen]), calibration.score_raw(maps)[chosen])
    np.testing.assert_array_equal(calibration.fuse(maps[chosen]), calibration.fuse(maps)[chosen])


def test_the_score_is_the_largest_of_its_pools():
    calibration = calibrated(poolings=[[0.02, 1.0]]).calibration
    maps = normal_maps(6, 3)
    maps[:3] = with_spot(maps[:3], on=1)
    fused = calibration.fuse(maps)
    pools = calibration.recipe.pools
    singles = [calibration.score(fused, Recipe(calibration.recipe.weights, (pool,))) for pool in pools]
    assert [pool.share for pool in pools] == [0.02, 1.0]
    np.testing.assert_array_equal(calibration.score(fused), np.maximum(*singles))


def test_scores_are_robust_sigmas_of_the_selecting_normals():
    result = calibrated(selecting=400, poolings=[[1.0]])
    scores = result.calibration.score_raw(normal_maps(400, 0))
    assert np.median(scores) == pytest.approx(0.0, abs=1e-9)
    assert 1.4826 * np.median(np.abs(scores)) == pytest.approx(1.0, abs=1e-9)


def test_scaling_a_map_s_unit_changes_nothing():
    """Cosine distances and Mahalanobis distances may come in any unit."""
    normals, fresh, units = normal_maps(30, 0), normal_maps(30, 1), np.array([1000.0, 0.01, 7.0])[:, None]
    injected = with_spot(normals[:16], on=1)
    one = calibrate("bolt", normals, {"scratch": injected}, fresh, calibration_params())
    other = calibrate("bolt", units * normals, {"scratch": units * injected}, units * fresh, calibration_params())
    assert other.calibration.recipe.weights == one.calibration.recipe.weights
    assert other.calibration.threshold == pytest.approx(one.calibration.threshold)


def test_smoothing_spreads_a_spot_within_its_image_only():
    calibration = replace(calibrated().calibration, smoothing_sigma=1.0)
    maps = np.repeat(normal_maps(1, 3), 3, axis=0)
    maps[1] = with_spot(maps[1:2], on=1)[0]
    fused = calibration.fuse(maps)
    np.testing.assert_array_equal(fused[0], fused[2])
    assert fused[1, 5, 4] > fused[0, 5, 4]


# --- choosing -------------------------------------------------------------------------------------------------------


def candidate(auroc: float, separation: float) -> tuple[RecipeCandidate, Recipe]:
    return RecipeCandidate((1.0,), (1.0,), auroc, separation), Recipe((1.0,), ())


def test_within_the_tie_separation_decides_and_beyond_it_auroc():
    """1. Within the tie of the best AUROC: by separation.  2. The rest: after them, by AUROC alone."""
    tried = [candidate(*pair) for pair in [(0.90, 9.0), (0.99, 2.0), (1.00, 1.0), (0.95, 8.0), (0.985, 3.0)]]
    order = [(ranked.auroc, ranked.separation) for ranked, _ in rank_recipes(tried, 0.015)]
    assert order == [(0.985, 3.0), (0.99, 2.0), (1.00, 1.0), (0.95, 8.0), (0.90, 9.0)]


def test_within_the_tie_the_recipe_of_fewest_maps_leads():
    many = RecipeCandidate((0.5, 0.5), (1.0,), 0.99, 9.0), Recipe((0.5, 0.5), ())
    one = RecipeCandidate((0.0, 1.0), (1.0,), 0.985, 2.0), Recipe((0.0, 1.0), ())
    assert rank_recipes([many, one], 0.01)[0] is one
    assert rank_recipes([many, one], 0.001)[0] is many


def test_without_a_tie_only_auroc_counts_and_equals_are_separated():
    tried = [candidate(*pair) for pair in [(0.9, 9.0), (0.8, 99.0), (0.9, 10.0)]]
    order = [(ranked.auroc, ranked.separation) for ranked, _ in rank_recipes(tried, 0.0)]
    assert order == [(0.9, 10.0), (0.9, 9.0), (0.8, 99.0)]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 100), st.integers(-50, 50)), min_size=1, max_size=20),
    tie=st.integers(0, 30),
)
def test_the_winner_is_within_the_tie_and_best_separated_there(pairs, tie):
    ranked = rank_recipes([candidate(float(auroc), float(separation)) for auroc, separation in pairs], float(tie))
    best = max(auroc for auroc, _ in pairs)
    allowed = [separation for auroc, separation in pairs if auroc >= best - tie]
    assert ranked[0][0].auroc >= best - tie
    assert ranked[0][0].separation == max(allowed)
    assert len(ranked) == len(pairs)


@given(
    groups=st.integers(1, 4), bank_weights=st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=1, max_size=5)
)
def test_candidate_weights_sum_to_one_and_always_hold_each_part_alone(groups, bank_weights):
    found = candidate_weights(1 + groups, bank_weights)
    assert len(found) == len(set(found))
    assert all(len(weights) == 1 + groups and sum(weights) == pytest.approx(1.0) for weights in found)
    assert {1.0 - sum(weights[1:]) for weights in found} >= {1.0}
    assert any(weights[0] == 1.0 and not any(weights[1:]) for weights in found)
    assert any(weights[0] == 0.0 for weights in found)


@pytest.mark.parametrize("on", [0, 1, 2])
def test_the_map_that_sees_the_defect_gets_the_most_weight(on):
    weights = calibrated(on=on).calibration.recipe.weights
    assert int(np.argmax(weights)) == on
    assert weights[on] > 0.5


def test_a_spot_is_pooled_at_the_top_and_a_drift_over_everything():
    normals, fresh = normal_maps(30, 0), normal_maps(30, 1)
    chosen = {}
    for name, defect in (("spot", with_spot(normals, on=1, sigmas=4)), ("drift", with_drift(normals, on=1))):
        result = calibrate("bolt", normals, {name: defect}, fresh, calibration_params(smoothing_sigma=0.0))
        chosen[name] = [pool.share for pool in result.calibration.recipe.pools]
    assert chosen == {"spot": [0.02], "drift": [1.0]}


def test_the_parts_alone_use_nothing_of_each_other():
    result = calibrated(bank_weights=[0.5])
    alone = result.calibration.alone
    assert alone["reconstruction"].weights == (1.0, 0.0, 0.0)
    assert alone["bank"].weights[0] == 0.0
    assert sum(alone["bank"].weights) == pytest.approx(1.0)
    maps = normal_maps(5, 4)
    without_bank, without_decoder = maps.copy(), maps.copy()
    without_bank[:, 1:], without_decoder[:, 0] = math.nan, math.nan
    score = result.calibration.score_raw
    np.testing.assert_array_equal(score(without_bank, alone["reconstruction"]), score(maps, alone["reconstruction"]))
    np.testing.assert_array_equal(score(without_decoder, alone["bank"]), score(maps, alone["bank"]))


def test_every_candidate_is_recorded_and_exactly_the_first_is_chosen():
    result = calibrated()
    params = calibration_params()
    tried = {(candidate.weights, candidate.pool_shares) for candidate in result.candidates}
    assert len(result.candidates) == len(tried)
    assert len(tried) == len(candidate_weights(3, params.bank_weights)) * len(params.poolings)
    assert [candidate.chosen for candidate in result.candidates] == [True] + [False] * (len(tried) - 1)
    first, recipe = result.candidates[0], result.calibration.recipe
    assert (first.weights, first.pool_shares) == (recipe.weights, tuple(pool.share for pool in recipe.pools))
    assert all(0 <= candidate.auroc <= 1 for candidate in result.candidates)


def test_the_calibrating_half_moves_the_threshold_and_nothing_that_was_selected():
    normals = normal_maps(30, 0)
    injected = {"scratch": with_spot(normals[:16], on=1)}
    one, other = (calibrate("bolt", normals, injected, normal_maps(30, s), calibration_params()) for s in (1, 2))
    assert one.calibration.threshold != other.calibration.threshold
    selected = [replace(result.calibration, threshold=0.0, map_level=0.0) for result in (one, other)]
    assert selected[0] == selected[1]
    assert one.candidates == other.candidates


def test_the_threshold_is_the_conformal_one_of_the_recorded_scores():
    result = calibrated(calibrating=23)
    assert len(result.calibrating_scores) == result.calibration.num_calibrating == 23
    assert list(result.calibrating_scores) == sorted(result.calibrating_scores)
    assert result.calibration.threshold == conformal_threshold(result.calibrating_scores, 0.1)


def test_a_heat_map_begins_to_colour_above_almost_all_patches_of_normals():
    """`map_level` is read off the calibrating half: 99.5 % of its patches lie below."""
    calibration = calibrated(calibrating=30).calibration
    assert np.mean(calibration.fuse(normal_maps(30, 1)) > calibration.map_level) == pytest.approx(0.005, abs=0.001)


def test_the_order_of_images_does_not_matter():
    normals, fresh, order = normal_maps(30, 0), normal_maps(30, 1), np.random.default_rng(0).permutation(30)
    injected = with_spot(normals[:16], on=1)
    one = calibrate("bolt", normals, {"a": injected}, fresh, calibration_params())
    other = calibrate("bolt", normals[order], {"a": injected[::-1]}, fresh[order], calibration_params())
    assert other.calibration == one.calibration


def test_the_promise_survives_the_selection():
    """200 calibrations, each choosing its own recipe, each tried on fresh normals: on average the promised rate."""
    rate, count, repetitions, alarms = 0.1, 29, 200, []
    params = calibration_params(target_fpr=rate, bank_weights=[0.0, 1.0], poolings=[[0.02], [1.0]], auroc_tie=0.02)
    for seed in range(repetitions):
        maps = normal_maps(10 + count + 40, seed=1000 + seed)
        selecting, calibrating, fresh = np.split(maps, [10, 10 + count])
        injected = {"scratch": with_spot(selecting, on=seed % 3, sigmas=3.0)}
        calibration = calibrate("bolt", selecting, injected, calibrating, params).calibration
        alarms.append(np.mean(calibration.score_raw(fresh) > calibration.threshold))
    monte_carlo = 4 * np.std(alarms) / math.sqrt(repetitions)
    assert rate - 1 / (count + 1) - monte_carlo <= np.mean(alarms) <= rate + monte_carlo


# --- files and refusals ---------------------------------------------------------------------------------------------


def test_a_calibration_survives_json(tmp_path):
    calibration = calibrated(poolings=[[0.02, 1.0], [0.1]]).calibration
    loaded = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert loaded == calibration
    assert isinstance(loaded.recipe.pools[0], Pool)
    maps = normal_maps(4, 9)
    np.testing.assert_array_equal(loaded.score_raw(maps), calibration.score_raw(maps))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_saturated_map_names_class_and_map(index):
    normals = normal_maps(30, 0)
    normals[:, index] = 9.792
    name = ("reconstruction", "bank_0", "bank_1")[index]
    with pytest.raises(ValueError, match=f"class 'bolt', {name}: normals have a robust sigma of 0.0"):
        calibrate("bolt", normals, {"a": normals}, normal_maps(30, 1), calibration_params())


def test_a_map_that_is_not_finite_is_refused():
    normals = normal_maps(30, 0)
    normals[3, 1, 5] = math.nan
    with pytest.raises(ValueError, match="class 'bolt', bank_0: normals have a robust sigma of nan"):
        calibrate("bolt", normals, {"a": normals}, normal_maps(30, 1), calibration_params())


def test_with_too_few_calibrating_images_the_least_possible_rate_is_promised():
    """The target is 10 %, and 9 images are needed for it; then the threshold is the largest score."""
    few, enough = calibrated(calibrating=8), calibrated(calibrating=9)
    assert (few.calibration.target_fpr, few.calibration.promised_fpr) == (0.1, 1 / 9)
    assert few.calibration.threshold == max(few.calibrating_scores)
    assert (enough.calibration.target_fpr, enough.calibration.promised_fpr) == (0.1, 0.1)


@pytest.mark.parametrize(("selecting", "calibrating"), [(0, 30), (1, 30), (30, 1), (30, 0)])
def test_too_few_images_of_either_half_are_refused(selecting, calibrating):
    maps = normal_maps(30, 0)
    message = f"class 'bolt': {selecting} selecting and {calibrating} calibrating images, need 2 of each; add normal im"
    with pytest.raises(ValueError, match=message):
        calibrate("bolt", maps[:selecting], {"a": maps}, maps[:calibrating], calibration_params())
