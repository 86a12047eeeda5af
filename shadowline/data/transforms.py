"""What a network sees of an image: RGB, squeezed to the network's size by bicubic resampling, normalised per channel.

    pixels_3HW = to_tensor(image, (224, 224), mean, std)

Squeezed and not cropped, because a defect at the edge is a defect; `crop` is for a network that was trained that way.

Axes: H W pixels · 3 channels
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor


def to_array(
    image: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], *, crop: int = 0
) -> npt.NDArray[np.float32]:
    """(H, W, 3); `size`: height and width, pixels. `mean`, `std`: per channel, of pixels in 0…1.

    `crop`: side of the square that is kept of the middle of a squeezed square, pixels; 0: all of it.
    """
    height, width = size
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    small = rgb.resize((width, height), Image.Resampling.BICUBIC)
    if crop:
        left, top = (width - crop) // 2, (height - crop) // 2
        small = small.crop((left, top, left + crop, top + crop))
    pixels_HW3 = np.asarray(small, np.float32) / 255
    return np.asarray((pixels_HW3 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32), np.float32)


def to_tensor(
    image: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], *, crop: int = 0
) -> Tensor:
    """(3, H, W) float32, a view of `to_array`: its channels lie side by side in memory."""
    return torch.from_numpy(to_array(image, size, mean, std, crop=crop)).permute(2, 0, 1)
