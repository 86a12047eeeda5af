"""Sizes, modes and bit depths are those of the files, seen in their headers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from shadowline.data.images import ImageLimits, Refusal, RefusedImage
from shadowline.data.labels import Label
from shadowline.data.sources import SourceImage
from shadowline.project import image_survey
from shadowline.project.image_survey import survey_images

LIMITS = ImageLimits(max_pixels=10_000, max_file_bytes=1 << 22)


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def source(name: str, data: bytes) -> SourceImage:
    return SourceImage(name, Label.NORMAL, "", None, partial(_first_bytes, data))


def _first_bytes(data: bytes, limit: int) -> bytes:
    return data[:limit]


def deep(largest: int, kind: str) -> bytes:
    values = np.linspace(0, largest, 64 * 48).astype(np.uint16).reshape(48, 64)
    return file(Image.fromarray(values), kind)


def test_sizes_and_modes_are_counted() -> None:
    files = [file(Image.new("RGB", (64, 48)))] * 3 + [file(Image.new("L", (32, 32)), "JPEG")]
    survey = survey_images([source(f"{n}.png", data) for n, data in enumerate(files)], LIMITS)
    assert (survey.num_images, survey.num_looked_at, survey.refused) == (4, 4, ())
    assert survey.sizes == {(64, 48): 3, (32, 32): 1}
    assert survey.modes == {"RGB": 3, "L": 1}


@pytest.mark.parametrize(("largest", "bits"), [(255, 8), (1023, 10), (4095, 12), (16383, 14), (65535, 16)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_camera_s_bits_are_found_in_the_values(largest: int, bits: int, kind: str) -> None:
    survey = survey_images([source("a", deep(largest, kind))], LIMITS)
    assert survey.modes == {f"I;16, {bits} bits used": 1}


def test_a_header_at_the_end_of_a_large_file_is_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (99, 100, 3)).astype(np.uint8)
    data = bytearray(file(Image.fromarray(pixels), "TIFF"))
    directory = int.from_bytes(data[4:8], "little")
    moved = bytes(data[:directory]) + b"\0" * (1 << 16) + bytes(data[directory:])
    moved = moved[:4] + (directory + (1 << 16)).to_bytes(4, "little") + moved[8:]
    survey = survey_images([source("a.tif", moved)], LIMITS)
    assert survey.num_looked_at == 1
    assert len(survey.sizes) + len(survey.refused) == 1


def test_a_turned_image_is_counted() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file(Image.new("RGB", (64, 48)), "JPEG", exif=exif)
    survey = survey_images([source("a.jpg", turned), source("b.jpg", file(Image.new("RGB", (64, 48)), "JPEG"))], LIMITS)
    assert survey.num_turned == 1


def _unreadable(limit: int) -> bytes:
    raise RefusedImage(Refusal.UNREADABLE, "c.png: cannot be read (Permission denied)")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_a_file_without_a_header_is_named(data: bytes) -> None:
    survey = survey_images([source("a.png", data)], LIMITS)
    assert survey.refused == ("a.png: no readable image header",)


def test_a_file_that_cannot_be_read_is_named() -> None:
    survey = survey_images([SourceImage("c.png", Label.NORMAL, "", None, _unreadable)], LIMITS)
    assert survey.refused == ("c.png: cannot be read (Permission denied)",)


def test_of_many_images_an_even_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_survey, "MAX_LOOKED_AT", 10)
    read: list[int] = []
    data = file(Image.new("L", (8, 8)))

    def reader(number: int) -> Callable[[int], bytes]:
        return lambda limit: read.append(number) or data[:limit]  # type: ignore[func-returns-value]

    many = [SourceImage(str(number), Label.NORMAL, "", None, reader(number)) for number in range(95)]
    survey = survey_images(many, LIMITS)
    assert (survey.num_images, survey.num_looked_at) == (95, 10)
    assert read == list(range(0, 95, 10))
