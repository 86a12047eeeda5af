"""The mathematics of WinCLIP, on embeddings alone; equations as numbered in Jeong et al., arXiv 2303.14814.

B images · W windows of one scale · k patches along a window's side · P patches of the grid · H, W_ rows and columns of
the grid · D feature width

Windows are k × k patches, at every place where they fit. A score of a window belongs to all patches that it covers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int]  # rows and columns of patches


def window_patches(grid: Grid, side: int) -> Tensor:
    """Which patches each window covers: (W, k²) indices, row by row. Raises ValueError for a window beyond the grid."""
    rows, columns = grid
    if not 1 <= side <= min(rows, columns):
        raise ValueError(
            f"zero_shot.window_scales: a window of {side} patches, need 1…{min(rows, columns)} on a grid of "
            f"{rows} × {columns}; name a smaller one"
        )
    places = torch.arange(rows * columns).reshape(rows, columns)
    return places.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)


def anomaly_share(features: Tensor, text_2D: Tensor, temperature: float) -> Tensor:
    """How much nearer the anomalous side of the text is, in 0…1 (eq. 1): features (…, D) → (…)."""
    cosine = functional.normalize(features, dim=-1) @ functional.normalize(text_2D, dim=-1).T
    return (cosine / temperature).softmax(dim=-1)[..., 1]


def harmonic_mean(scores: Tensor, dim: int) -> Tensor:
    """Harmonic mean of scores ≥ 0; 0 where any score is 0."""
    return scores.shape[dim] / (1.0 / scores).sum(dim)


def harmonic_map(scores_BW: Tensor, windows_Wk: Tensor, grid: Grid) -> Tensor:
    """Per patch the harmonic mean of all windows that cover it (eq. 3): (B, H, W_)."""
    patches = torch.arange(grid[0] * grid[1], device=windows_Wk.device)
    covered_PW = (windows_Wk[None] == patches[:, None, None]).any(dim=2)
    inverse_BPW = torch.where(covered_PW, (1.0 / scores_BW)[:, None], 0.0)
    return (covered_PW.sum(dim=1) / inverse_BPW.sum(dim=2)).reshape(-1, *grid)


def language_map(image_B: Tensor, scales: Sequence[Tensor], windows: Sequence[Tensor], grid: Grid) -> Tensor:
    """The zero-shot map: harmonic mean of the window scales and of the whole image's score (§4.2): (B, H, W_)."""
    whole = image_B[:, None, None].expand(-1, *grid)
    maps = [harmonic_map(scores, places, grid) for scores, places in zip(scales, windows, strict=True)]
    return harmonic_mean(torch.stack([whole, *maps]), dim=0)
