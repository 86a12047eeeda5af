"""The fixed work beside which latency is timed (`shadowline.evaluation.latency`)."""

from __future__ import annotations

import torch
from torch.nn import functional

_CHANNELS, _SIDE, _WIDTH = 64, 56, 768  # of a ResNet's first stage, a ViT-B's embedding


class ReferenceWorkload:
    """Two 3×3 convolutions (64 channels, 56×56) and one 768×768 matrix product: 1.37·10⁹ floating-point operations.

    It is the same for every version, class and project, and made of the operations on which encoders and legacy models
    spend their time.
    """

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self._image = torch.randn(1, _CHANNELS, _SIDE, _SIDE, generator=generator).to(device)
        self._kernel = (torch.randn(_CHANNELS, _CHANNELS, 3, 3, generator=generator) / _CHANNELS).to(device)
        self._matrix = torch.randn(_WIDTH, _WIDTH, generator=generator).to(device)

    @torch.inference_mode()
    def __call__(self) -> float:
        """The value has no meaning; reading it waits for the device."""
        image = functional.conv2d(self._image, self._kernel, padding=1)
        image = functional.conv2d(image, self._kernel, padding=1)
        return float(image.sum() + (self._matrix @ self._matrix).sum())
