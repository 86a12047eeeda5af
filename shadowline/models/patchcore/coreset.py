"""The mathematics of PatchCore's memory bank: join the layers to patches, choose the bank, query it.

Source: Roth et al., arXiv 2106.08265. The integration tests compare each part with another implementation's.

Axes: P patches of an image · D feature width · M patches in the bank · N patches in the pool · Q queries
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from shadowline.core.progress import Progress

PROJECTED_WIDTH = 128  # for choosing the coreset only; as in the authors' code
CHUNK = 1024  # queries per distance matrix; bounds memory at CHUNK · M


def join_layers(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each layer averaged over 3 × 3 patches, upsampled to the first one's size, and concatenated: (N, D, H, W)."""
    pooled = [functional.avg_pool2d(layer, kernel_size=3, stride=1, padding=1) for layer in layers]
    size = pooled[0].shape[-2:]
    upsampled = [functional.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in pooled[1:]]
    return torch.cat([pooled[0], *upsampled], dim=1)


def choose_coreset(pool_ND: torch.Tensor, share: float, generator: torch.Generator, progress: Progress) -> torch.Tensor:
    """Indices of the coreset, chosen on a Gaussian random projection (Johnson-Lindenstrauss) where that is narrower."""
    size = max(1, int(len(pool_ND) * share))
    start = int(torch.randint(len(pool_ND), (1,), generator=generator))
    width = pool_ND.shape[1]
    if width > PROJECTED_WIDTH:
        projection = torch.randn(width, PROJECTED_WIDTH, generator=generator) / math.sqrt(PROJECTED_WIDTH)
        pool_ND = pool_ND @ projection.to(pool_ND.device)
    return k_center_greedy(pool_ND, size, start, progress)


def k_center_greedy(points_ND: torch.Tensor, size: int, start: int, progress: Progress | None = None) -> torch.Tensor:
    """Indices (size,) of a coreset: from `start` on, always the point farthest from all chosen ones (Sener, Savarese,
    ICLR 2018). No index is chosen twice. Raises ValueError for a size outside 1…N.
    """
    if not 1 <= size <= len(points_ND):
        raise ValueError(
            f"coreset: {size} of {len(points_ND)} patches, need 1…{len(points_ND)}; set legacy.coreset_share"
        )
    points = points_ND - points_ND.mean(dim=0)  # smaller norms, less cancellation below
    square_N = points.square().sum(dim=1)
    gap_N = torch.full_like(square_N, math.inf)  # squared distance to the nearest chosen point
    chosen, distance_N = [start], torch.empty_like(square_N)
    with (progress or Progress()).task("coreset", total=size) as task:
        while len(chosen) < size:
            last = chosen[-1]
            torch.addmv(square_N, points, points[last], alpha=-2, out=distance_N).add_(square_N[last]).clamp_(min=0)
            torch.minimum(gap_N, distance_N, out=gap_N)
            gap_N[last] = -1.0  # below any distance, so that duplicates do not bring it back
            chosen.append(int(gap_N.argmax()))
            task.advance()
        task.advance()
    return torch.tensor(chosen)


def nearest(queries_QD: torch.Tensor, bank_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Euclidean distance (Q,) to the nearest patch of the bank, and its index (Q,).

    The neighbour is found through the expanded square, and its distance is then taken directly, without cancellation.
    """
    chunks = (queries_QD[first : first + CHUNK] for first in range(0, len(queries_QD), CHUNK))
    index_Q = torch.cat([torch.cdist(q, bank_MD, compute_mode="use_mm_for_euclid_dist").argmin(1) for q in chunks])
    return torch.linalg.vector_norm(queries_QD - bank_MD[index_Q], dim=1), index_Q


def reweighted_image_score(patches_PD: torch.Tensor, bank_MD: torch.Tensor, neighbours: int) -> float:
    """The distance s* of the farthest patch, weighted by how alone its nearest bank patch m* is (paper, eq. 6 and 7).

    s = (1 − exp(‖m_test − m*‖) / Σ exp(‖m_test − m‖)) · s*, the sum over the `neighbours` bank patches nearest to m*,
    itself among them. With one neighbour there is no weight and s = s*.
    """
    distance_P, index_P = nearest(patches_PD, bank_MD)
    worst = distance_P.argmax()
    if min(neighbours, len(bank_MD)) == 1:
        return float(distance_P[worst])
    nearest_patch = bank_MD[index_P[worst]]
    around_m = torch.linalg.vector_norm(bank_MD - nearest_patch, dim=1)
    support = bank_MD[around_m.topk(min(neighbours, len(bank_MD)), largest=False).indices]
    to_support = torch.linalg.vector_norm(support - patches_PD[worst], dim=1)
    weight = 1 - 1 / torch.exp(to_support - distance_P[worst]).sum()  # exponents ≥ 0; one that overflows gives weight 1
    return float(weight * distance_P[worst])
