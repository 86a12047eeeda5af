"""The decoder that learns to reconstruct a frozen encoder's features of normal images.

    B images · G groups · T tokens (prefix first) · P patch tokens · D width · H heads · K blocks

It sees only the fused features (B, G, T, D) of the encoder: the means of the encoder's first and last layers. Its input
is their mean over groups, which equals the mean over all layers because the groups are equally large. Source: arXiv
2405.14325 §3.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from shadowline.core.atomic_files import replace_file

HEAD_WIDTH = 64  # of every DINOv2, S to g
_NORM_EPS = 1e-8  # the reference implementation's decoder norm
_MLP_RATIO = 4


class LinearAttention(nn.Module):
    """Attention without softmax: φ(q)·(φ(k)ᵀv) / φ(q)·Σφ(k), φ = ELU + 1; it cannot focus, on purpose (§3.3)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).reshape(B, T, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = functional.elu(q) + 1.0, functional.elu(k) + 1.0
        weighted = q @ (k.transpose(-2, -1) @ v)
        normaliser = (q * k.sum(dim=-2, keepdim=True)).sum(dim=-1, keepdim=True)
        mixed: Tensor = self.proj((weighted / normaliser).transpose(1, 2).reshape(B, T, D))
        return mixed


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class NoisyBottleneck(Mlp):
    """An MLP with dropout before, inside and after: the noise that keeps the decoder from copying (§3.2)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width)
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.fc1(self._drop(x)))
        return self._drop(self.fc2(self._drop(hidden)))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = LinearAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Decoder(nn.Module):
    """Noisy bottleneck and K blocks; `forward` maps fused (B, G, T, D) to its reconstruction, same shape.

    Blocks are averaged in G groups in reverse order: the last blocks reconstruct the encoder's first group.
    Raises ValueError when K is not a multiple of G or D not of the heads.
    """

    def __init__(self, width: int, num_heads: int, num_blocks: int, num_groups: int, dropout: float) -> None:
        super().__init__()
        if num_blocks % num_groups:
            raise ValueError(f"train.decoder_blocks: {num_blocks} is not a multiple of encoder.groups {num_groups}")
        if width % num_heads:
            raise ValueError(f"decoder: width {width} is not a multiple of {num_heads} heads")
        self.num_groups = num_groups
        self.bottleneck = NoisyBottleneck(width, dropout)
        self.blocks = nn.ModuleList(DecoderBlock(width, num_heads) for _ in range(num_blocks))
        self.apply(_initialise)

    def forward(self, fused_BGTD: Tensor) -> Tensor:
        x = self.bottleneck(fused_BGTD.mean(dim=1))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        B, T, D = x.shape
        grouped = torch.stack(outputs[::-1], dim=1).reshape(B, self.num_groups, -1, T, D)
        return grouped.mean(dim=2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
        nn.init.zeros_(module.bias)


def reconstruction_map(fused_BGTD: Tensor, rebuilt_BGTD: Tensor, num_prefix: int) -> Tensor:
    """Mean over groups of 1 − cosine per patch: (B, P), in 0…2. Class and register tokens are dropped."""
    cosine_BGP = functional.cosine_similarity(fused_BGTD[:, :, num_prefix:], rebuilt_BGTD[:, :, num_prefix:], dim=-1)
    return (1.0 - cosine_BGP).mean(dim=1)


@dataclass(frozen=True)
class DecoderSpec:
    """The shape of the decoder that fits an encoder's features."""

    width: int
    num_groups: int
    num_prefix: int  # class and register tokens: part of the decoder's input, not of the loss
    num_blocks: int
    dropout: float

    def build(self) -> Decoder:
        heads = max(1, self.width // HEAD_WIDTH)
        return Decoder(self.width, heads, self.num_blocks, self.num_groups, self.dropout)


def save_decoder(decoder: Decoder, spec: DecoderSpec, path: Path) -> None:
    with replace_file(path) as temporary:
        state = {name: value.detach().cpu().contiguous() for name, value in decoder.state_dict().items()}
        save_file(state, temporary, metadata={"spec": json.dumps(asdict(spec), sort_keys=True)})


def load_decoder(path: Path) -> tuple[Decoder, DecoderSpec]:
    """The decoder in evaluation mode; raises FileNotFoundError for a missing file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no decoder; run `dvc repro train`")
    with safe_open(path, framework="pt") as file:
        spec = DecoderSpec(**json.loads(file.metadata()["spec"]))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    decoder = spec.build()
    decoder.load_state_dict(state)
    return decoder.eval(), spec
