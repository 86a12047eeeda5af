"""CLIP's vision tower: embeddings of the whole image and of every window of it, from the same patch tokens.

    tower = build_tower(design)
    embedding = embed_images(tower, pixels_B3SS, windows)

B images · S input size, pixels · W windows · k² patches of a window · P patches · T tokens · C tower width ·
D embedding width

A window's embedding is the tower's output for the class token and that window's patches alone, so its transformer
runs once per window: a map costs about a dozen times as much as an image score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shadowline.features import backbones
from shadowline.models.winclip.scoring import Grid


@dataclass(frozen=True)
class TowerDesign:
    """What open_clip builds a vision tower from; raises ValueError for a tower whose patches cannot be masked."""

    embed_dim: int  # D
    quick_gelu: bool
    vision: dict[str, Any]  # open_clip's `vision_cfg`

    def __post_init__(self) -> None:
        if self.vision.get("timm_model_name") or not isinstance(self.vision.get("layers", 12), int):
            raise ValueError(
                "zero_shot.architecture: windows need open_clip's own vision transformer, not a convolution or one of "
                "timm's; take another, e.g. ViT-B-16-plus-240"
            )


@dataclass(frozen=True)
class Embedding:
    """Embeddings of whole images and of their windows, not normalised."""

    image_BD: Tensor
    windows: tuple[Tensor, ...]  # (B, W, D) per scale


def build_tower(design: TowerDesign) -> nn.Module:
    """The tower with random weights, in evaluation mode."""
    tower: nn.Module = backbones.open_clip().model._build_vision_tower(
        design.embed_dim, dict(design.vision), design.quick_gelu
    )
    return tower.eval().requires_grad_(False)


def grid_of(tower: nn.Module) -> Grid:
    rows, columns = tower.grid_size  # type: ignore[misc]
    return int(rows), int(columns)


def size_of(tower: nn.Module) -> Grid:
    """Height and width of the input, pixels."""
    height, width = tower.image_size  # type: ignore[misc]
    return int(height), int(width)


@torch.inference_mode()
def embed_image(tower: nn.Module, pixels: Tensor) -> Tensor:
    """The whole image alone, (B, D): all that an image score needs."""
    return _pool(tower, _transform(tower, _tokens(tower, pixels)))


@torch.inference_mode()
def embed_images(tower: nn.Module, pixels: Tensor, windows: Sequence[Tensor]) -> Embedding:
    """`windows` holds per scale the indices of the covered patches, (W, k²)."""
    tokens_BTC = _tokens(tower, pixels)
    hidden_BTC = _transform(tower, tokens_BTC)
    return Embedding(
        image_BD=_pool(tower, hidden_BTC),
        windows=tuple(_embed_windows(tower, tokens_BTC, places) for places in windows),
    )


def _tokens(tower: Any, pixels: Tensor) -> Tensor:
    """The class token and the patches with their positions, before the first norm: (B, 1 + P, C)."""
    patches_BPC = tower.conv1(pixels).flatten(2).transpose(1, 2)
    first_B1C = tower.class_embedding.expand(len(patches_BPC), 1, -1)
    tokens: Tensor = torch.cat([first_B1C, patches_BPC], dim=1) + tower.positional_embedding
    return tokens


def _transform(tower: Any, tokens_BTC: Tensor) -> Tensor:
    hidden: Tensor = tower.transformer(tower.ln_pre(tokens_BTC))
    return hidden


def _pool(tower: Any, hidden_BTC: Tensor) -> Tensor:
    """Pooled as the architecture pools, in the space that it shares with text: (B, D)."""
    pooled: Tensor = tower._pool(hidden_BTC)[0]
    return pooled @ tower.proj if tower.proj is not None else pooled


def _embed_windows(tower: nn.Module, tokens_BTC: Tensor, places_Wk: Tensor) -> Tensor:
    """(B, W, D); image by image, which bounds memory."""
    first_W1 = torch.zeros(len(places_Wk), 1, dtype=places_Wk.dtype, device=places_Wk.device)
    chosen = torch.cat([first_W1, places_Wk + 1], dim=1)
    return torch.stack([_pool(tower, _transform(tower, tokens_TC[chosen])) for tokens_TC in tokens_BTC])
