"""Bank formats: float32 is the file it always was, low rank at full rank is exact, and moments merge to a refit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import Tensor

from fixtures.effort import examples
from shadowline.models.gaussian_bank.bank import Bank, Moments
from shadowline.models.gaussian_bank.covariance import CovarianceFormat, Exact, Half, LowRank, compress

HALF_TOLERANCE = 1e-3  # relative, of a distance; the demo's banks stay below 3e-4
WIDTH = 24
STORAGES = [(CovarianceFormat.FLOAT32, 1), (CovarianceFormat.FLOAT16, 1), (CovarianceFormat.LOW_RANK, 5)]


def patches(count: int, seed: int, *, width: int = WIDTH, tail: float = 1.0) -> np.ndarray:
    """(2, N, D): correlated Gaussian patches off the centre, whose variances fall by `tail` powers of ten."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(2, width, width)) * np.logspace(0, -tail, width)[None, :, None]
    return rng.normal(size=(2, count, width)) @ mixing + rng.normal(2.0, 1.0, size=(2, 1, width))


def bank_of(x: np.ndarray) -> Bank:
    return Bank.fit(Moments.of(x), "ledoit_wolf", num_images=10, fingerprint="f" * 64)


def images(count: int, seed: int, *, width: int = WIDTH) -> Tensor:
    """(B, G, P, D) with four patches an image, near the bank's centre and far from it."""
    spread = torch.logspace(-2, 2, count)[:, None, None, None]
    return 2.0 + spread * torch.randn(count, 2, 4, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def bank() -> Bank:
    return bank_of(patches(400, 0))


# --- float32: nothing changes ---------------------------------------------------------------------------------------


def test_a_float32_file_is_byte_for_byte_what_it_was_before_there_were_formats(bank, tmp_path):
    facts = {"num_patches": 400, "num_images": 10, "shrinkage": list(bank.shrinkage), "fingerprint": "f" * 64}
    tensors = {"mean": bank.mean_GD.numpy(), "factor": bank.factor_GDD.numpy()}
    save_file(tensors, tmp_path / "before", metadata={"bank": json.dumps(facts, sort_keys=True)})
    bank.save(tmp_path / "now")
    assert (tmp_path / "now").read_bytes() == (tmp_path / "before").read_bytes()


def test_float32_is_the_bank_as_it_was_fitted(bank):
    kept = bank.compressed(CovarianceFormat.FLOAT32, rank=1)
    assert torch.equal(kept.factor_GDD, bank.factor_GDD)
    assert torch.equal(kept.distance(images(3, 1)), bank.distance(images(3, 1)))


# --- the formats against the exact distance -------------------------------------------------------------------------


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(3, 200), tail=st.floats(0.0, 2.0))
def test_half_precision_stays_within_its_tolerance(seed, count, tail):
    bank = bank_of(patches(count, seed, tail=tail))
    found = bank.compressed(CovarianceFormat.FLOAT16, rank=1).distance(images(4, seed))
    torch.testing.assert_close(found, bank.distance(images(4, seed)), rtol=HALF_TOLERANCE, atol=0.0)


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(3, 200), tail=st.floats(0.0, 2.0))
def test_a_low_rank_of_full_rank_is_the_exact_distance_to_rounding(seed, count, tail):
    bank = bank_of(patches(count, seed, tail=tail))
    found = bank.compressed(CovarianceFormat.LOW_RANK, rank=WIDTH).distance(images(4, seed))
    torch.testing.assert_close(found, bank.distance(images(4, seed)), rtol=1e-3, atol=0.0)


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, WIDTH))
def test_a_low_rank_keeps_every_variance_and_distances_solve_its_own_covariance(seed, rank):
    """The distance through the inner system is that of the dense U Uᵀ + diag(d), whatever was lost."""
    exact = bank_of(patches(100, seed)).factor_GDD
    low = LowRank.of(exact, rank)
    torch.testing.assert_close((low.factor_GDD**2).sum(2), (exact**2).sum(2), rtol=1e-4, atol=0.0)
    columns = torch.randn(2, WIDTH, 9, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(low.distance(columns), Exact(low.factor_GDD).distance(columns), rtol=1e-3, atol=0.0)


def test_a_higher_rank_is_a_better_covariance():
    """Frobenius norm of what the off-diagonal loses; it falls with the rank and ends at rounding."""
    exact = bank_of(patches(400, 2, tail=1.5)).factor_GDD.double()
    lost = []
    for rank in (1, 4, 12, WIDTH):
        found = LowRank.of(exact.float(), rank).factor_GDD.double()
        lost.append(float((found @ found.mT - exact @ exact.mT).norm()))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 1e-5 * lost[0]


@pytest.mark.parametrize(("storage", "rank"), STORAGES)
@settings(max_examples=examples(20), deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_format_gives_a_distance_below_zero_and_the_mean_is_at_zero(storage, rank, seed):
    bank = bank_of(patches(60, seed)).compressed(storage, rank)
    assert (bank.distance(images(5, seed)) >= 0).all()
    assert not bank.distance(bank.mean_GD[None, :, None]).any()


def test_distances_of_a_low_rank_survive_a_covariance_that_is_all_but_singular():
    """Woodbury's difference of two large numbers would lose it; the sum of squares does not."""
    exact = bank_of(patches(3000, 1, tail=4.0)).factor_GDD
    columns = exact @ torch.randn(2, WIDTH, 50, generator=torch.Generator().manual_seed(0))  # typical normals
    found = LowRank.of(exact, WIDTH).distance(columns)
    torch.testing.assert_close(found, Exact(exact).distance(columns), rtol=0.02, atol=0.0)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "rank"), STORAGES)
def test_a_bank_of_any_format_survives_the_disk_bit_for_bit(bank, storage, rank, tmp_path):
    compressed = bank.compressed(storage, rank)
    compressed.save(tmp_path / "bolt.safetensors")
    loaded = Bank.load(tmp_path / "bolt.safetensors")
    assert (
        type(loaded.covariance)
        is {CovarianceFormat.FLOAT32: Exact, CovarianceFormat.FLOAT16: Half, CovarianceFormat.LOW_RANK: LowRank}[
            storage
        ]
    )
    assert torch.equal(loaded.distance(images(3, 1)), compressed.distance(images(3, 1)))
    for name in ("num_patches", "num_images", "shrinkage", "fingerprint", "num_bytes"):
        assert getattr(loaded, name) == getattr(bank if name != "num_bytes" else compressed, name)


@pytest.mark.parametrize(("storage", "rank"), STORAGES)
def test_the_size_of_a_bank_is_that_of_its_file_but_for_the_header(bank, storage, rank, tmp_path):
    compressed = bank.compressed(storage, rank)
    compressed.save(tmp_path / "bolt.safetensors")
    assert compressed.num_bytes == sum(tensor.nbytes for tensor in load_file(tmp_path / "bolt.safetensors").values())
    below = WIDTH * (WIDTH - 1) // 2
    per_group = {"float32": 4 * WIDTH**2, "float16": 2 * below + 4 * WIDTH, "low_rank": 4 * WIDTH * (rank + 1)}
    assert compressed.num_bytes == 2 * (4 * WIDTH + per_group[storage])


def test_an_unknown_format_is_refused_by_name(bank, tmp_path):
    facts = {"num_patches": 1, "num_images": 1, "shrinkage": [0, 0], "fingerprint": "f", "storage": "int8"}
    save_file({"mean": bank.mean_GD.numpy()}, tmp_path / "new", metadata={"bank": json.dumps(facts)})
    with pytest.raises(ValueError, match="bank storage 'int8', known: float32, float16, low_rank; update shadowline"):
        Bank.load(tmp_path / "new")


@pytest.mark.parametrize("rank", [0, -1, WIDTH + 1])
def test_a_rank_beyond_the_width_is_refused(bank, rank):
    with pytest.raises(ValueError, match=rf"bank.rank: {rank}, need 1…{WIDTH}, the width of the features"):
        bank.compressed(CovarianceFormat.LOW_RANK, rank)


def test_a_covariance_that_half_precision_cannot_hold_is_refused():
    steep = torch.tensor([[[1.0, 0.0], [1.0, 1e-6]]])
    with pytest.raises(ValueError, match=r"float16 cannot hold this covariance, bound 65504"):
        compress(steep, CovarianceFormat.FLOAT16, rank=1)


# --- moments --------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(25), deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    method=st.sampled_from(["ledoit_wolf", "oas"]),
)
def test_moments_streamed_in_any_chunks_give_the_bank_of_a_refit(seed, cuts, method):
    x = patches(60, seed, width=6)
    streamed = Moments.empty(2, 6)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        streamed += Moments.of(x[:, start:end])
    one, refit = (Bank.fit(m, method, num_images=3, fingerprint="f") for m in (streamed, Moments.of(x)))
    assert one.num_patches == refit.num_patches == 60
    assert one.shrinkage == pytest.approx(refit.shrinkage, rel=1e-6)
    fresh = images(3, seed, width=6)
    torch.testing.assert_close(one.distance(fresh), refit.distance(fresh), rtol=1e-4, atol=0.0)
