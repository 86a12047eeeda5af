"""What is said of an upload that is refused speaks of uploads, not of folders and files."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from shadowline.core.params import Params
from shadowline.data.images import RefusedImage, open_within
from shadowline.gateway.uploads import refusal_of


def png(width: int = 64, height: int = 64) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((width, height), 50).save(buffer, "PNG")
    return buffer.getvalue()


def gif() -> bytes:
    buffer = BytesIO()
    first, second = (Image.new("L", (32, 32), grey) for grey in (0, 200))
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"", 422, "image: 0 bytes; send the whole file"),
        (b"hello", 422, "image: no readable image header; send one of PNG, JPEG, BMP, TIFF, WEBP, GIF"),
        (png()[:-60], 422, "; send the whole file"),
        (png(1001, 10), 422, "image: 1001 × 10 pixels, at most 10000 in all; send a smaller image"),
        (png() + bytes(20_000), 413, "image: more than 20000 bytes; send a smaller image"),
        (gif(), 422, "image: 2 frames or pages, at most 1; send the one to be inspected"),
    ],
)
def test_the_way_out_of_a_refusal_is_one_that_a_caller_has(params: Params, data: bytes, status: int, text: str) -> None:
    limits = params.data.model_copy(update={"max_pixels": 10_000, "max_file_bytes": 20_000})
    with pytest.raises(RefusedImage) as caught:
        open_within(data, limits)
    refusal = refusal_of(caught.value)
    assert (refusal.status_code, refusal.detail[-len(text) :]) == (status, text)
    assert refusal.detail.startswith("image: ")
