"""How a bank keeps its covariance: as it is fitted, at half precision, or as a low rank plus a diagonal.

    covariance = compress(factor_GDD, CovarianceFormat.LOW_RANK, rank=64)
    distance_GN = covariance.distance(centred_GDN)

G groups · D width · R rank · L entries below a diagonal, D (D − 1) / 2 · N patches. Per group are kept, in bytes:
float32 4 D²; float16 2 L + 4 D; low_rank 4 D (R + 1). Memory holds the same tensors as the file.
Source of the low rank: factor analysis under Woodbury's identity (1950); the noise that is taken off every direction
is that of probabilistic PCA, Tipping & Bishop (1999).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor


class CovarianceFormat(StrEnum):
    """The formats of a bank's file."""

    FLOAT32 = "float32"  # the Cholesky factor, every entry
    FLOAT16 = "float16"  # its lower triangle at half precision
    LOW_RANK = "low_rank"  # Σ ≈ U Uᵀ + diag(d)


@dataclass(frozen=True)
class Exact:
    """Σ = L Lᵀ."""

    factor_GDD: Tensor  # L, float32

    def distance(self, centred_GDN: Tensor) -> Tensor:
        """√(xᵀ Σ⁻¹ x) of each column, float32: (G, N). The same in the other formats."""
        whitened_GDN = torch.linalg.solve_triangular(self.factor_GDD, centred_GDN, upper=False)
        distance_GN: Tensor = whitened_GDN.norm(dim=1)
        return distance_GN


@dataclass(frozen=True)
class Half:
    """L = diag(s) M with ones on M's diagonal; s stays exact, because every distance is divided by it."""

    scale_GD: Tensor  # s, float32
    below_GL: Tensor  # what M holds below its diagonal, row by row, float16

    @classmethod
    def of(cls, factor_GDD: Tensor) -> Half:
        scale_GD = factor_GDD.diagonal(dim1=1, dim2=2).contiguous()
        rows, columns = _below(factor_GDD.shape[1])
        below_GL = (factor_GDD / scale_GD[:, :, None])[:, rows, columns].half()
        if not torch.isfinite(below_GL).all():
            raise ValueError("bank.storage: float16 cannot hold this covariance, bound 65504; set bank.storage float32")
        return cls(scale_GD, below_GL)

    @property
    def factor_GDD(self) -> Tensor:  # noqa: N802 - axes, as everywhere
        G, D = self.scale_GD.shape
        rows, columns = _below(D)
        unit_GDD = torch.eye(D).repeat(G, 1, 1)
        unit_GDD[:, rows, columns] = self.below_GL.float()
        return self.scale_GD[:, :, None] * unit_GDD

    def distance(self, centred_GDN: Tensor) -> Tensor:
        return Exact(self.factor_GDD).distance(centred_GDN)


@dataclass(frozen=True)
class LowRank:
    """Σ ≈ U Uᵀ + diag(d), with the variances themselves exact."""

    loading_GDR: Tensor  # U, float32
    residual_GD: Tensor  # d, float32

    @classmethod
    def of(cls, factor_GDD: Tensor, rank: int) -> LowRank:
        """The `rank` leading directions of Σ; d takes what they leave of each variance."""
        D = factor_GDD.shape[1]
        if not 1 <= rank <= D:
            raise ValueError(f"bank.rank: {rank}, need 1…{D}, the width of the features; set bank.rank")
        covariance_GDD = factor_GDD.double() @ factor_GDD.double().mT
        values_GD, vectors_GDD = torch.linalg.eigh(covariance_GDD)
        noise_G1 = values_GD[:, :1]  # taken off every direction, so that d stays positive at any rank
        length_GR = (values_GD[:, -rank:] - noise_G1).clamp(min=0).sqrt()
        loading_GDR = vectors_GDD[:, :, -rank:] * length_GR[:, None]
        left_GD = covariance_GDD.diagonal(dim1=1, dim2=2) - loading_GDR.square().sum(dim=2)
        return cls(loading_GDR.float().contiguous(), torch.maximum(left_GD, noise_G1).float())

    @property
    def factor_GDD(self) -> Tensor:  # noqa: N802 - axes, as everywhere
        loading = self.loading_GDR.double()
        factor: Tensor = torch.linalg.cholesky(loading @ loading.mT + torch.diag_embed(self.residual_GD.double()))
        return factor.float()

    def distance(self, centred_GDN: Tensor) -> Tensor:
        """As ‖d^-½ (x − U z)‖² + ‖z‖² with z = (I + Uᵀ d⁻¹ U)⁻¹ Uᵀ d⁻¹ x, which equals Woodbury's difference.

        A sum of squares cannot turn negative, and because z minimises it, an error in z counts only squared.
        """
        loading = self.loading_GDR.double()
        scaled_GDR = loading / self.residual_GD.double()[:, :, None]
        inner_GRR = torch.eye(loading.shape[2], dtype=torch.float64) + loading.mT @ scaled_GDR
        z_GRN = torch.linalg.solve(inner_GRR, scaled_GDR.mT).float() @ centred_GDN
        left_GDN = (centred_GDN - self.loading_GDR @ z_GRN) / self.residual_GD.sqrt()[:, :, None]
        distance_GN: Tensor = (left_GDN.square().sum(dim=1) + z_GRN.square().sum(dim=1)).sqrt()
        return distance_GN


Covariance = Exact | Half | LowRank
_FORMATS: Mapping[CovarianceFormat, type[Covariance]] = {
    CovarianceFormat.FLOAT32: Exact,
    CovarianceFormat.FLOAT16: Half,
    CovarianceFormat.LOW_RANK: LowRank,
}


def compress(factor_GDD: Tensor, storage: CovarianceFormat, rank: int) -> Covariance:
    """The covariance in one of the formats; `rank` is used by low_rank alone.

    Raises ValueError for a rank beyond the width, or a covariance that half precision cannot hold.
    """
    if storage is CovarianceFormat.FLOAT16:
        return Half.of(factor_GDD)
    return LowRank.of(factor_GDD, rank) if storage is CovarianceFormat.LOW_RANK else Exact(factor_GDD)


def storage_of(covariance: Covariance) -> CovarianceFormat:
    return next(storage for storage, kind in _FORMATS.items() if isinstance(covariance, kind))


def to_tensors(covariance: Covariance) -> dict[str, Tensor]:
    """The fields by their names without the axes: what a file holds."""
    return {_plain(field.name): getattr(covariance, field.name) for field in fields(covariance)}


def from_tensors(storage: CovarianceFormat, tensors: Mapping[str, Tensor]) -> Covariance:
    """The inverse of `to_tensors`; raises KeyError where a tensor is missing."""
    kind = _FORMATS[storage]
    return kind(*(tensors[_plain(field.name)] for field in fields(kind)))


def _plain(name: str) -> str:
    return name.rpartition("_")[0]


def _below(width: int) -> Tensor:
    """Rows and columns of the entries below the diagonal: (2, L)."""
    return torch.tril_indices(width, width, offset=-1)
