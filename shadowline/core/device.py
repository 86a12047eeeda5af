"""Which device computes: SHADOWLINE_DEVICE, else a GPU when there is one."""

from __future__ import annotations

import torch

from shadowline.core.settings import Settings


def pick_device() -> torch.device:
    wanted = Settings().device
    if wanted != "auto":
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
