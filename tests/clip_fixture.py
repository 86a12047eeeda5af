"""A CLIP in small: open_clip's real towers on a 6 × 6 grid, seeded random weights, the same files as a real one's.

params = tiny_clip(folder)               # ZeroShotParams that name both files
clip = load_clip(params, Path())
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from shadowline.core.params import ZeroShotParams
from shadowline.models.winclip.weights import build_network

SIDE, GRID = 48, (6, 6)  # pixels, patches
TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def random_network(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """Weights so large that texts, images and windows differ: an untrained network's own tell nothing apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(config)
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.3)
    return network.eval()


def tiny_clip(folder: Path, seed: int = 0, **vision: Any) -> ZeroShotParams:
    """Writes the architecture and the weights; `vision` changes the vision tower."""
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], **vision}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(random_network(config, seed).state_dict(), folder / "tiny.safetensors")
    return ZeroShotParams(
        architecture=str(folder / "tiny.json"),
        pretrained="",
        weights="file",
        location=str(folder / "tiny.safetensors"),
        prompts="prompts",
        prompt_set="states",
        window_scales=(2, 3),
        temperature=0.07,
        threshold=0.5,
    )
