"""What a packaged model keeps of how its images are decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shadowline.data.bit_depth import to_rgb
from shadowline.data.images import RefusedImage
from shadowline.models.decoding import Decoding

DEEP = np.arange(400, dtype=np.uint16).reshape(20, 20) * 10
FLAT = Image.new("RGB", (20, 20), "grey")


def test_a_model_of_8_bit_images_has_no_file(tmp_path: Path) -> None:
    Decoding().write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert Decoding.load(tmp_path) == Decoding()
    assert Decoding().facts_of("bolt") == ()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    decoding = Decoding({"bolt": 12}, exif_orientation=True)
    decoding.write(tmp_path)
    assert Decoding.load(tmp_path) == decoding
    assert decoding.facts_of("bolt") == ("12 bit", "upright")


def test_a_class_without_deep_files_takes_the_one_depth_of_the_others() -> None:
    assert Decoding({"bolt": 12, "nut": 12}).bit_depth_of("plate") == 12
    assert Decoding({"bolt": 12, "nut": 10}).bit_depth_of("plate") == Decoding().bit_depth_of("plate") == 16


def test_a_deep_image_without_a_class_is_refused_where_the_depths_differ() -> None:
    same, mixed = Decoding({"bolt": 12, "nut": 12}), Decoding({"bolt": 12, "nut": 10})
    assert np.array_equal(np.asarray(same.to_rgb(DEEP, None)), np.asarray(to_rgb(DEEP, 12)))
    assert np.array_equal(np.asarray(mixed.to_rgb(DEEP, "nut")), np.asarray(to_rgb(DEEP, 10)))
    assert mixed.to_rgb(FLAT, None) is FLAT
    with pytest.raises(RefusedImage, match=r"\[10, 12\] bits; name its class"):
        mixed.to_rgb(DEEP, None)
