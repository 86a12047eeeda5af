"""One transform in the place of four: their bits, as each of them was written before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from shadowline.data.transforms import to_array, to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(1, 1), (37, 91), (224, 224), (501, 17), (640, 333)]
Transform = Callable[[Image.Image], torch.Tensor]


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoder_wrote(image: Image.Image, side: int = 257, crop: int = 224) -> torch.Tensor:
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    left = (side - crop) // 2
    window = np.asarray(resized.crop((left, left, left + crop, left + crop)), dtype=np.float32) / 255.0
    normalised = (window - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1)


def patchcore_wrote(image: Image.Image, size: int = 225) -> torch.Tensor:
    small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels - mean) / std


def onnx_wrote(image: Image.Image, size: int = 225) -> torch.Tensor:
    small = image.convert("RGB").resize((size,) * 2, Image.Resampling.BICUBIC)
    pixels_HWC = np.asarray(small, dtype=np.float32) / 255
    mean, std = (np.asarray(values, dtype=np.float32) for values in (MEAN, STD))
    return torch.from_numpy((pixels_HWC - mean) / std).permute(2, 0, 1)


def winclip_wrote(image: Image.Image, size: tuple[int, int] = (240, 181)) -> torch.Tensor:
    height, width = size
    small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)
    return (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        (encoder_wrote, lambda image: to_tensor(image, (257, 257), MEAN, STD, crop=224)),
        (patchcore_wrote, lambda image: to_tensor(image, (225, 225), MEAN, STD)),
        (onnx_wrote, lambda image: to_tensor(image, (225, 225), MEAN, STD)),
        (winclip_wrote, lambda image: to_tensor(image, (240, 181), CLIP_MEAN, CLIP_STD)),
    ],
)
def test_every_network_sees_the_bits_that_it_saw_before(
    size: tuple[int, int], mode: str, before: Transform, now: Transform
) -> None:
    if before is encoder_wrote and mode != "RGB":
        pytest.skip("the encoder took RGB alone")
    old, new = before(picture(size, mode)), now(picture(size, mode))
    assert (new.dtype, new.shape, new.stride()) == (old.dtype, old.shape, old.stride())
    assert torch.equal(new, old)


def test_height_comes_before_width_and_nothing_is_cut_off() -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (30, 0, 40, 20))  # the right quarter is white
    pixels_HW3 = to_array(image, (8, 16), (0, 0, 0), (1, 1, 1))
    assert pixels_HW3.shape == (8, 16, 3)
    assert (pixels_HW3[:, 0] == 0).all() and (pixels_HW3[:, -1] == 1).all()
