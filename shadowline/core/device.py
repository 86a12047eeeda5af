"""Which device computes: SHADOWLINE_DEVICE, else a GPU when there is one."""

from __future__ import annotations

import torch

from shadowline.core.settings import Settings


def pick_device() -> torch.device:
    """Raises ValueError for a device that this machine does not have."""
    wanted = Settings().device
    if wanted not in ("auto", "cpu"):
        _require(torch.device(wanted))
    if wanted != "auto":
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _require(device: torch.device) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without such devices
        reason = str(error).partition("\n")[0]
        raise ValueError(f"SHADOWLINE_DEVICE {device}: {reason}; unset it, or name a device that is here") from None
