"""The memory bank: moments that add up, covariances against scikit-learn, distances against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import OAS, LedoitWolf

from fixtures.effort import examples
from shadowline.models.gaussian_bank.bank import Bank, Moments, shrunk_covariance

METHODS = ("ledoit_wolf", "oas")
FIELDS = ("count", "first_GD", "second_GDD", "squared_norm_first_GD", "squared_norm_second_G")


def patches(count: int, seed: int, *, groups: int = 2, width: int = 6) -> np.ndarray:
    """(G, N, D): correlated, off-centre Gaussian patches."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(groups, width, width))
    return rng.normal(size=(groups, count, width)) @ mixing + rng.normal(2.0, 1.0, size=(groups, 1, width))


@st.composite
def some_patches(draw: st.DrawFn) -> np.ndarray:
    """(2, N, 3) of any finite features up to fp16's size, N from 0."""
    count = draw(st.integers(0, 7))
    return draw(hnp.arrays(np.float64, (2, count, 3), elements=st.floats(-1000, 1000)))


def assert_same(one: Moments, other: Moments, *magnitudes: np.ndarray) -> None:
    """Equal to 1e-9 of the sum of magnitudes: what rounding in another order may change."""
    scale = max((float(np.abs(values).max(initial=0.0)) for values in magnitudes), default=1.0)
    for power, name in enumerate(FIELDS):
        left, right = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9 * 100 * max(scale, 1e-9) ** power)


# --- moments --------------------------------------------------------------------------------------------------------


@given(a=some_patches(), b=some_patches())
def test_merging_is_commutative(a, b):
    one, other = Moments.of(a), Moments.of(b)
    assert_same(one + other, other + one, a, b)


@given(a=some_patches(), b=some_patches(), c=some_patches())
def test_merging_is_associative(a, b, c):
    x, y, z = map(Moments.of, (a, b, c))
    assert_same((x + y) + z, x + (y + z), a, b, c)


@given(whole=some_patches(), cut=st.integers(0, 7))
def test_chunks_add_up_to_the_whole(whole, cut):
    assert_same(Moments.of(whole[:, :cut]) + Moments.of(whole[:, cut:]), Moments.of(whole), whole)


@given(a=some_patches())
def test_the_empty_moments_change_nothing(a):
    one = Moments.of(a)
    summed = Moments.empty(2, 3) + one
    assert all(np.array_equal(getattr(summed, name), getattr(one, name)) for name in FIELDS)


@given(a=some_patches(), order=st.randoms(use_true_random=False))
def test_the_order_of_patches_does_not_matter(a, order):
    rows = list(range(a.shape[1]))
    order.shuffle(rows)
    assert_same(Moments.of(a[:, rows]), Moments.of(a), a)


def test_moments_survive_the_disk_bit_for_bit(tmp_path):
    moments = Moments.of(patches(20, 0))
    moments.save(tmp_path / "deep/moments.safetensors")
    loaded = Moments.load(tmp_path / "deep/moments.safetensors")
    assert all(np.array_equal(getattr(loaded, name), getattr(moments, name)) for name in FIELDS)
    assert loaded.count.shape == ()


# --- covariance -----------------------------------------------------------------------------------------------------


def reference(method: str, x: np.ndarray, block_size: int = 1000):
    return LedoitWolf(block_size=block_size).fit(x) if method == "ledoit_wolf" else OAS().fit(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("count", "width"), [(300, 6), (40, 64), (5, 30), (2, 3), (4000, 8)])
def test_shrinkage_and_covariance_are_scikit_learns(method, count, width):
    """From many patches of few dimensions to fewer patches than dimensions."""
    x = patches(count, seed=count, width=width)
    for group in range(2):
        mean, covariance, weight = shrunk_covariance(Moments.of(x), group, method)
        theirs = reference(method, x[group])
        assert weight == pytest.approx(theirs.shrinkage_, abs=1e-6)
        np.testing.assert_allclose(mean, theirs.location_, atol=1e-9)
        np.testing.assert_allclose(covariance, theirs.covariance_, atol=1e-6 * np.abs(theirs.covariance_).max())


def test_scikit_learns_block_size_is_irrelevant():
    x = patches(100, 1, width=40)
    _, _, weight = shrunk_covariance(Moments.of(x), 0, "ledoit_wolf")
    for block_size in (1, 7, 39, 1000):
        assert reference("ledoit_wolf", x[0], block_size).shrinkage_ == pytest.approx(weight, abs=1e-6)


@settings(max_examples=examples(30))
@given(
    seed=st.integers(0, 10_000), count=st.integers(3, 60), offset=st.floats(-20, 20), method=st.sampled_from(METHODS)
)
def test_shrinkage_agrees_wherever_the_data_lies(seed, count, offset, method):
    """The raw sums are centred late; an offset of twenty standard deviations must not cost the agreement."""
    x = np.random.default_rng(seed).normal(size=(1, count, 5)) + offset
    _, covariance, weight = shrunk_covariance(Moments.of(x), 0, method)
    theirs = reference(method, x[0])
    assert weight == pytest.approx(theirs.shrinkage_, abs=1e-6)
    np.testing.assert_allclose(covariance, theirs.covariance_, atol=1e-6)


# --- distances ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bank() -> Bank:
    return Bank.fit(Moments.of(patches(200, 0)), "ledoit_wolf", num_images=10, fingerprint="f" * 64)


@pytest.mark.parametrize("method", METHODS)
def test_distances_are_scipys_and_scikit_learns(method):
    train, fresh = patches(200, 0), patches(15, 0)
    bank = Bank.fit(Moments.of(train), method, num_images=10, fingerprint="f" * 64)
    images_BGPD = torch.from_numpy(fresh).float().reshape(2, 3, 5, 6).transpose(0, 1)
    found = bank.distance(images_BGPD).numpy()
    assert found.shape == (3, 2, 5)
    for group in range(2):
        theirs = reference(method, train[group])
        assert found[:, group].ravel() ** 2 == pytest.approx(theirs.mahalanobis(fresh[group]), rel=1e-4)
        one = mahalanobis(fresh[group, 7], theirs.location_, theirs.precision_)
        assert found[1, group, 2] == pytest.approx(one, rel=1e-4)


def test_the_mean_itself_is_at_distance_zero(bank):
    assert not bank.distance(bank.mean_GD[None, :, None]).any()


def test_distance_is_unbounded_where_a_cosine_would_saturate(bank):
    direction = torch.ones(1, 2, 1, 6)
    near, far = (bank.distance(bank.mean_GD[None, :, None] + k * direction) for k in (1.0, 1e4))
    assert torch.allclose(far, 1e4 * near, rtol=1e-3)


def test_distance_knows_the_directions_of_its_class(bank):
    """A step along the widest axis of the class is nearer than the same step along the narrowest."""
    covariance = (bank.factor_GDD[0] @ bank.factor_GDD[0].T).double()
    axes = torch.linalg.eigh(covariance).eigenvectors.float()
    narrow, wide = (bank.distance((bank.mean_GD + axes[:, k])[None, :, None])[0, 0, 0].item() for k in (0, -1))
    assert wide < narrow


def test_adding_images_equals_fitting_all_of_them():
    x = patches(90, 3)
    grown = Moments.of(x[:, :40]) + Moments.of(x[:, 40:])
    one, other = (Bank.fit(m, "oas", num_images=9, fingerprint="f") for m in (grown, Moments.of(x)))
    torch.testing.assert_close(one.factor_GDD, other.factor_GDD)
    assert one.shrinkage == pytest.approx(other.shrinkage)


# --- files and refusals ---------------------------------------------------------------------------------------------


def test_a_bank_survives_the_disk_bit_for_bit(bank, tmp_path):
    bank.save(tmp_path / "banks/bolt.safetensors")
    loaded = Bank.load(tmp_path / "banks/bolt.safetensors")
    assert torch.equal(loaded.mean_GD, bank.mean_GD)
    assert torch.equal(loaded.factor_GDD, bank.factor_GDD)
    for name in ("num_patches", "num_images", "shrinkage", "fingerprint"):
        assert getattr(loaded, name) == getattr(bank, name)
    assert (loaded.num_patches, loaded.num_images) == (200, 10)


def test_equal_banks_are_equal_files(bank, tmp_path):
    for name in ("one", "two"):
        bank.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_size_of_a_bank_is_that_of_its_tensors(bank):
    assert bank.num_bytes == 4 * (2 * 6 + 2 * 6 * 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_refused(value):
    x = patches(4, 0)
    x[0, 1, :2] = value
    with pytest.raises(ValueError, match="bank: 2 feature values are not finite; rebuild the features"):
        Moments.of(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 123.456])
def test_identical_patches_are_refused(method, value):
    with pytest.raises(ValueError, match="bank: all patches are identical; check the images of this class"):
        Bank.fit(Moments.of(np.full((1, 50, 4), value)), method, num_images=1, fingerprint="f")


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_patches_are_refused(count):
    with pytest.raises(ValueError, match=f"bank: {count} patches, need at least 2; add normal images"):
        Bank.fit(Moments.of(patches(count, 0)), "oas", num_images=1, fingerprint="f")
