"""Which device computes: SHADOWLINE_DEVICE, else a GPU when there is one."""

from __future__ import annotations

import torch

from shadowline.core.settings import Settings


def pick_device() -> torch.device:
    """Raises ValueError for a name that torch does not know, and for a device that is not there."""
    wanted = Settings().device
    if wanted != "auto":
        return _named(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _named(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"SHADOWLINE_DEVICE={name}: no such device; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"SHADOWLINE_DEVICE={name}: torch sees no GPU here; check the driver, or use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"SHADOWLINE_DEVICE={name}: there are {torch.cuda.device_count()} GPUs, from cuda:0 on")
    return device
