"""From a request to a decoded image: 16 bits wait for the white of their class, what is too small is refused."""

from __future__ import annotations

import asyncio
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from fixtures.learning import ROOT
from shadowline.core.params import load_params
from shadowline.data.bit_depth import viewable
from shadowline.data.near_duplicates import frame_signature
from shadowline.gateway.errors import RefusedRequestError
from shadowline.gateway.shadow_worker import UploadedImage
from shadowline.gateway.uploads import read_sample

PARAMS = load_params(ROOT / "params.yaml")
GREY12 = np.random.default_rng(0).integers(0, 4096, (20, 30), dtype=np.uint16)


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
