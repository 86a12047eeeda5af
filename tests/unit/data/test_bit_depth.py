"""Values of up to 16 bits, whose white only a class can tell."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from shadowline.data.bit_depth import BIT_DEPTHS, bit_depth_of, from_grey8, to_rgb, viewable

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def up_to(largest: int) -> np.ndarray:
    return np.linspace(0, largest, 256).astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize(
    ("largest", "depth"), [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (9000, 14), (65535, 16)]
)
def test_the_depth_is_the_smallest_that_holds_all_values_of_a_class(largest: int, depth: int) -> None:
    assert bit_depth_of([up_to(largest)]) == bit_depth_of([up_to(0), up_to(largest), Image.new("RGB", (8, 8))]) == depth


def test_images_of_8_bits_say_nothing_of_deeper_ones() -> None:
    assert bit_depth_of([Image.new("RGB", (8, 8))]) == bit_depth_of([]) == 16


@pytest.mark.parametrize("depth", BIT_DEPTHS)
def test_white_and_what_is_beyond_it_is_white_and_the_scale_is_linear(depth: int) -> None:
    white = (1 << depth) - 1
    values = np.array([[0, white // 2, white, 65535]] * 8, np.uint16)
    assert np.asarray(to_rgb(values, depth))[0, :, 0].tolist() == [0, 127, 255, 255]


@pytest.mark.parametrize("depth", BIT_DEPTHS)
def test_grey_of_8_bits_comes_back_from_every_depth(depth: int) -> None:
    rgb = Image.fromarray(RAMP).convert("RGB")
    deep = from_grey8(rgb, depth)
    assert int(deep.max()) == (1 << depth) - 1
    assert np.array_equal(np.asarray(to_rgb(deep, depth)), np.asarray(rgb))


def test_an_image_is_given_back_as_it_is() -> None:
    rgb = Image.fromarray(RAMP).convert("RGB")
    assert to_rgb(rgb, 12) is viewable(rgb) is rgb


def test_12_bits_keep_their_256_grey_levels() -> None:
    assert len(np.unique(np.asarray(to_rgb(up_to(4095), 12)))) == 256
    assert len(np.unique(np.asarray(viewable(up_to(4095))))) == 256
    assert len(np.unique(np.asarray(to_rgb(up_to(4095))))) == 17
