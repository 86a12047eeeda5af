"""The class-conditional memory bank: one Gaussian per feature group of a product class's normal patches.

    moments = Moments.empty(groups, width)
    moments = moments.add(patches_GND)         # streaming, and merge-able: moments_a + moments_b
    bank = Bank.fit(moments, "ledoit_wolf")
    distance_BGP = bank.distance(patches_BGPD)  # Mahalanobis distance per patch

G groups · N patches · D width · B images · P patches of an image. Adding a class touches no other class's bank.
Source: Mahalanobis scoring of frozen features, Rippel et al., arXiv 2005.14140; shrinkage: Ledoit & Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices" (2004), Chen et al., "Shrinkage algorithms
for MMSE covariance estimation" (2010, OAS).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from torch import Tensor

from shadowline.core.atomic_files import replace_file
from shadowline.models.gaussian_bank.covariance import (
    Covariance,
    CovarianceFormat,
    Exact,
    compress,
    from_tensors,
    storage_of,
    to_tensors,
)

Array = npt.NDArray[np.float64]
Shrinkage = Literal["ledoit_wolf", "oas"]

_ROUNDING = 1e-12  # of the mean square: what is left of a variance of zero after subtracting equal sums


@dataclass(frozen=True)
class Moments:
    """The sums over patches that a shrunk Gaussian needs; adding two Moments is adding two data sets."""

    count: Array  # () number of patches
    first_GD: Array  # Σ x
    second_GDD: Array  # Σ x xᵀ
    squared_norm_first_GD: Array  # Σ ‖x‖² x
    squared_norm_second_G: Array  # Σ ‖x‖⁴

    @classmethod
    def empty(cls, groups: int, width: int) -> Moments:
        zeros = np.zeros
        return cls(
            zeros(()), zeros((groups, width)), zeros((groups, width, width)), zeros((groups, width)), zeros(groups)
        )

    @classmethod
    def of(cls, patches_GND: npt.ArrayLike) -> Moments:
        """The moments of N patches per group. Raises ValueError on values that are not finite."""
        x = np.asarray(patches_GND, dtype=np.float64)
        if not np.isfinite(x).all():
            raise ValueError(
                f"bank: {int((~np.isfinite(x)).sum())} feature values are not finite; rebuild the features"
            )
        norm_GN = np.einsum("gnd,gnd->gn", x, x)
        return cls(
            count=np.float64(x.shape[1]) * np.ones(()),
            first_GD=x.sum(axis=1),
            second_GDD=x.transpose(0, 2, 1) @ x,
            squared_norm_first_GD=np.einsum("gn,gnd->gd", norm_GN, x),
            squared_norm_second_G=(norm_GN**2).sum(axis=1),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def save(self, path: Path) -> None:
        arrays = {field.name: np.asarray(getattr(self, field.name), order="C") for field in fields(self)}
        with replace_file(path) as temporary:
            save_arrays(arrays, temporary)

    @classmethod
    def load(cls, path: Path) -> Moments:
        return cls(**load_arrays(path))


def shrunk_covariance(moments: Moments, group: int, method: Shrinkage) -> tuple[Array, Array, float]:
    """Mean (D,), covariance (D, D) shrunk towards a multiple of the identity, and the shrinkage in 0…1.

    Equals scikit-learn's `LedoitWolf` and `OAS` on the same patches, from the moments alone.
    """
    n, D = float(moments.count), moments.first_GD.shape[1]
    if n < 2:
        raise ValueError(f"bank: {n:g} patches, need at least 2; add normal images")
    mean = moments.first_GD[group] / n
    covariance = moments.second_GDD[group] / n - np.outer(mean, mean)
    scale = float(np.trace(covariance)) / D
    if scale <= _ROUNDING * float(np.trace(moments.second_GDD[group])) / (n * D):
        raise ValueError("bank: all patches are identical; check the images of this class")
    weight = _ledoit_wolf(moments, group, mean, covariance) if method == "ledoit_wolf" else _oas(n, covariance)
    return mean, (1.0 - weight) * covariance + weight * scale * np.eye(D), weight


def _ledoit_wolf(moments: Moments, group: int, mean: Array, covariance: Array) -> float:
    """Ledoit & Wolf (2004), theorem 3.2 with the estimators of §3.3."""
    n, D = float(moments.count), mean.size
    scale = np.trace(covariance) / D
    fourth = _centred_fourth_moment(moments, group, mean) / n
    delta = (np.sum(covariance**2) - D * scale**2) / D
    beta = (fourth - np.sum(covariance**2)) / (D * n)
    return float(np.clip(min(beta, delta) / delta, 0.0, 1.0)) if delta > 0 else 1.0


def _centred_fourth_moment(moments: Moments, group: int, mean: Array) -> float:
    """Σ ‖x − μ‖⁴, expanded in the raw sums."""
    n, m2 = float(moments.count), float(mean @ mean)
    second = moments.second_GDD[group]
    norm_sum = float(np.trace(second))
    cross = float(mean @ second @ mean)
    linear = float(mean @ moments.squared_norm_first_GD[group])
    # (‖x‖² − 2μ·x + ‖μ‖²)² summed over x, with Σx = nμ
    return (
        float(moments.squared_norm_second_G[group])
        + 4 * cross
        + n * m2**2
        - 4 * linear
        + 2 * m2 * norm_sum
        - 4 * n * m2**2
    )


def _oas(n: float, covariance: Array) -> float:
    """Chen et al. (2010), equation 23, in scikit-learn's form."""
    D = covariance.shape[0]
    alpha, scale = float(np.mean(covariance**2)), float(np.trace(covariance)) / D
    denominator = (n + 1.0) * (alpha - scale**2 / D)
    return 1.0 if denominator <= 0 else min((alpha + scale**2) / denominator, 1.0)


@dataclass(frozen=True)
class Bank:
    """Mean and covariance per group, the covariance in any format of shadowline/models/gaussian_bank/covariance.py."""

    mean_GD: Tensor
    covariance: Covariance
    num_patches: int
    num_images: int
    shrinkage: tuple[float, ...]  # per group
    fingerprint: str  # of the encoder whose features it holds

    @classmethod
    def fit(cls, moments: Moments, method: Shrinkage, *, num_images: int, fingerprint: str) -> Bank:
        fits = [shrunk_covariance(moments, group, method) for group in range(len(moments.first_GD))]
        factor_GDD = torch.from_numpy(np.stack([np.linalg.cholesky(cov) for _, cov, _ in fits])).float()
        return cls(
            mean_GD=torch.from_numpy(np.stack([mean for mean, _, _ in fits])).float(),
            covariance=Exact(factor_GDD),
            num_patches=int(moments.count),
            num_images=num_images,
            shrinkage=tuple(weight for _, _, weight in fits),
            fingerprint=fingerprint,
        )

    def compressed(self, storage: CovarianceFormat, rank: int) -> Bank:
        """This bank in another format; raises ValueError as `compress` does. Lost precision does not come back."""
        return replace(self, covariance=compress(self.factor_GDD, storage, rank))

    @property
    def factor_GDD(self) -> Tensor:  # noqa: N802 - axes, as everywhere
        """Lower Cholesky factor of the covariance, float32, whatever its format."""
        return self.covariance.factor_GDD

    def distance(self, patches_BGPD: Tensor) -> Tensor:
        """Mahalanobis distance of each patch to its group's Gaussian: (B, G, P), float32."""
        B, G, P, D = patches_BGPD.shape
        centred_GDN = (patches_BGPD - self.mean_GD[:, None]).permute(1, 3, 0, 2).reshape(G, D, B * P)
        return self.covariance.distance(centred_GDN).reshape(G, B, P).permute(1, 0, 2)

    @property
    def storage(self) -> CovarianceFormat:
        """The format of the covariance."""
        return storage_of(self.covariance)

    @property
    def exact_num_bytes(self) -> int:
        """Size without compression."""
        G, D = self.mean_GD.shape
        return 4 * G * (D + D * D)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def save(self, path: Path) -> None:
        storage = storage_of(self.covariance)
        facts = {
            "num_patches": self.num_patches,
            "num_images": self.num_images,
            "shrinkage": list(self.shrinkage),
            "fingerprint": self.fingerprint,
            **(
                {} if storage is CovarianceFormat.FLOAT32 else {"storage": storage}
            ),  # so that older files stay as they are
        }
        arrays = {name: tensor.numpy() for name, tensor in self._tensors().items()}
        with replace_file(path) as temporary:
            save_arrays(arrays, temporary, metadata={"bank": json.dumps(facts, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> Bank:
        """Load a bank in any format; raises ValueError for a format that this version does not know."""
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["bank"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        storage, shrinkage = facts.pop("storage", CovarianceFormat.FLOAT32), tuple(facts.pop("shrinkage"))
        if storage not in list(CovarianceFormat):
            raise ValueError(
                f"{path}: bank storage {storage!r}, known: {', '.join(CovarianceFormat)}; update shadowline"
            )
        covariance = from_tensors(CovarianceFormat(storage), tensors)
        return cls(mean_GD=tensors["mean"], covariance=covariance, shrinkage=shrinkage, **facts)

    def _tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean_GD, **to_tensors(self.covariance)}
