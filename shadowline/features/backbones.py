"""The only module that imports timm and open_clip (and through them torchvision); it never downloads unasked.

Both import torchvision, and a CPU-only torch beside a registry torchvision cannot load torchvision's compiled
operators: the import then fails with `operator torchvision::nms does not exist`. The workaround is here alone, and
ruff (TID251) forbids those imports everywhere else. Background: docs/decisions/0003-one-door-to-timm.md
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

_OPERATOR_SCHEMAS = ("nms", "qnms")
_keep_alive: list[torch.library.Library] = []


@functools.cache
def _prepare_torchvision() -> None:
    """Load torchvision's compiled operators, or declare their schemas where they cannot load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed; run `make venv`")
    for binary in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(binary))
        except OSError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in _OPERATOR_SCHEMAS:
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _keep_alive.append(library)
            return


def timm() -> Any:
    """The timm module, imported safely on machines with and without torchvision's operators."""
    _prepare_torchvision()
    import timm as timm_module

    return timm_module


def open_clip() -> Any:
    """The open_clip module, imported like timm; raises ValueError where the extra `zero_shot` is not installed."""
    if importlib.util.find_spec("open_clip") is None:
        raise ValueError("open_clip is not installed; run `pip install 'shadowline[zero_shot]'`")
    _prepare_torchvision()
    import open_clip as open_clip_module

    return open_clip_module


def hub_file(repository: str, filename: str, *, allow_network: bool) -> Path:
    """One file of the model hub: from the local cache, or over the network where allowed. Raises OSError if missing."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, filename, local_files_only=not allow_network))


def build(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build timm's network `name` in evaluation mode; `options` go to `timm.create_model`.

    Raises ValueError when timm does not know the name.
    """
    library = timm()
    if not library.is_model(name):
        raise ValueError(f"encoder.name: timm has no model {name!r}; see timm.list_models('*dinov2*')")
    model: nn.Module = library.create_model(name, pretrained=pretrained, **options)
    return model.eval()


def resample_positions(positions: torch.Tensor, *, side: int, num_prefix: int) -> torch.Tensor:
    """Position embedding (1, prefix + P, D) at `side` × `side` patches: bicubic, antialiased, as timm loads one."""
    resampled: torch.Tensor = timm().layers.resample_abs_pos_embed(
        positions, new_size=[side, side], num_prefix_tokens=num_prefix
    )
    return resampled
