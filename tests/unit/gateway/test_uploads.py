"""From a request to a decoded image; what is said of an upload that is refused speaks of uploads, not of folders."""

from __future__ import annotations

import asyncio
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from fixtures.learning import ROOT
from shadowline.core.params import Params, load_params
from shadowline.data.bit_depth import viewable
from shadowline.data.images import RefusedImage, open_within
from shadowline.data.near_duplicates import frame_signature
from shadowline.gateway.errors import RefusedRequestError
from shadowline.gateway.shadow_worker import UploadedImage
from shadowline.gateway.uploads import read_sample, refusal_of

PARAMS = load_params(ROOT / "params.yaml")
GREY12 = np.random.default_rng(0).integers(0, 4096, (20, 30), dtype=np.uint16)


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


def upload(image: Image.Image, kind: str) -> UploadedImage:
    buffer = BytesIO()
    image.save(buffer, kind)
    sent = httpx.Request(
        "POST", "http://gateway", files={"image": ("part", buffer.getvalue())}, data={"class_name": "bolt"}
    )
    body = sent.read()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(name.lower(), value) for name, value in sent.headers.raw]
    return asyncio.run(read_sample(Request({"type": "http", "method": "POST", "headers": headers}, receive), PARAMS))


def test_a_deep_image_reaches_its_model_with_all_its_bits() -> None:
    sample = upload(Image.fromarray(GREY12), "TIFF")
    assert np.array_equal(sample.image, GREY12)
    assert sample.num_bytes == GREY12.nbytes + len(sample.data)
    assert sample.frame_signature == frame_signature(viewable(GREY12))
    assert len(set(sample.frame_signature)) > 50  # with the grey levels of 16 bits different frames would look the same


def test_an_image_too_small_to_show_a_part_is_refused() -> None:
    with pytest.raises(RefusedRequestError, match="1 × 1 pixels, at least 8 a side") as caught:
        upload(Image.new("L", (1, 1)), "PNG")
    assert caught.value.status_code == 422
