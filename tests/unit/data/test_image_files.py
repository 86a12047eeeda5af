"""Files that are no files, files that are damaged, and images that come as something else than a file."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shadowline.data.bit_depth import DecodedImage
from shadowline.data.image_files import ImageLimits, Refusal, RefusedImage, read_bounded
from shadowline.data.images import ImageFiles, decode_image, measure_image, open_within

LIMITS = ImageLimits(max_pixels=100_000, max_file_bytes=1_000_000)
RANDOM = np.random.default_rng(0)
GREY12 = RANDOM.integers(0, 4096, (20, 30), dtype=np.uint16)
RGB12 = RANDOM.integers(0, 4096, (20, 30, 3), dtype=np.uint16)
RGBA8 = RANDOM.integers(0, 256, (20, 30, 4), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(values: np.ndarray, colour_type: int) -> bytes:
    """16 bits a channel, which Pillow does not write for colours."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tiff(values: np.ndarray, order: str, planar: int = 1) -> bytes:
    """16 bits a channel in one strip, little or big endian, as cameras write it."""
    height, width, channels = values.shape
    pixels = (values if planar == 1 else np.moveaxis(values, 2, 0)).astype(f"{order}u2").tobytes()
    bits = 8 + len(pixels)
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(pixels)), (284, 3, 1, planar),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value))
        for tag, kind, count, value in tags
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", bits + 2 * channels)
    sizes = struct.pack(f"{order}{channels}H", *[16] * channels)
    return start + pixels + sizes + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def refusal_of(source: object) -> RefusedImage:
    with pytest.raises(RefusedImage) as caught:
        decode_image(source, LIMITS)  # type: ignore[arg-type]
    return caught.value


def pixels(image: DecodedImage) -> np.ndarray:
    return np.asarray(image)


# --- one decoding -------------------------------------------------------------------------------------------------

FILES = {
    "grey, 12 bits": (encode(Image.fromarray(GREY12), "TIFF"), GREY12),
    "RGB, 12 bits, PNG": (png(RGB12, 2), RGB12),
    "RGB, 12 bits, TIFF": (tiff(RGB12, "<"), RGB12),
    "RGB, 12 bits, TIFF, big endian": (tiff(RGB12, ">"), RGB12),
    "RGBA": (encode(Image.fromarray(RGBA8)), RGBA8),
    "LA": (
        encode(Image.fromarray(RGBA8).convert("LA")),
        np.asarray(Image.fromarray(RGBA8).convert("LA").convert("RGBA")),
    ),
    "grey": (encode(Image.fromarray(RGBA8[..., 0])), RGBA8[..., 0]),
    "RGB": (encode(Image.fromarray(RGBA8[..., :3])), RGBA8[..., :3]),
}


@pytest.mark.parametrize("kind", FILES)
def test_path_bytes_pillow_and_array_give_the_same_pixels(kind: str, tmp_path: Path) -> None:
    data, array = FILES[kind]
    path = tmp_path / "image"
    path.write_bytes(data)
    expected = pixels(decode_image(data, LIMITS))
    sources = [path, str(path), Image.open(path), Image.open(BytesIO(data)), array]
    assert all(np.array_equal(pixels(decode_image(source, LIMITS)), expected) for source in sources)
    if array.ndim == 3:
        swapped = array[..., [2, 1, 0, 3][: array.shape[2]]]
        assert np.array_equal(pixels(decode_image(swapped, LIMITS, bgr=True)), expected)


@pytest.mark.parametrize("kind", [kind for kind in FILES if "12" in kind])
def test_all_bits_of_a_deep_file_are_read(kind: str) -> None:
    data, values = FILES[kind]
    assert np.array_equal(decode_image(data, LIMITS), values)
    assert len(np.unique(np.asarray(open_within(data, LIMITS, 12)))) > 200
    assert measure_image(data, LIMITS).mode == ("I;12" if values.ndim == 2 else "RGB;12")
    assert measure_image(data, LIMITS, 14).mode.endswith(";14")


def test_transparency_of_16_bits_is_composited_on_black() -> None:
    half = np.dstack([RGB12, np.full((20, 30), 32768, np.uint16)])
    assert np.abs(pixels(decode_image(png(half, 6), LIMITS)).astype(int) - RGB12 // 2).max() <= 1
    assert np.array_equal(pixels(decode_image(half, LIMITS)), pixels(decode_image(png(half, 6), LIMITS)))


def test_an_image_that_pillow_has_read_is_taken_from_memory(tmp_path: Path) -> None:
    image = Image.open(BytesIO(FILES["RGBA"][0]))
    image.load()
    assert np.array_equal(pixels(decode_image(image, LIMITS)), pixels(decode_image(FILES["RGBA"][0], LIMITS)))
    assert decode_image(Image.fromarray(GREY12), LIMITS).dtype == np.uint16  # type: ignore[union-attr]


@pytest.mark.parametrize("array", [np.ones((20, 20)), np.ones((20, 20, 2), np.uint8), np.ones(400, np.uint16)])
def test_other_arrays_are_refused_by_type_and_shape(array: np.ndarray) -> None:
    error = refusal_of(array)
    assert error.refusal is Refusal.UNSUPPORTED_MODE and str(array.dtype) in str(error) and "uint16" in str(error)


@pytest.mark.parametrize("data", [png(RGB12[..., :2], 4), tiff(RGB12, "<", planar=2)], ids=["grey and alpha", "planar"])
def test_deep_files_that_would_lose_bits_are_refused(data: bytes) -> None:
    assert refusal_of(data).refusal is Refusal.UNSUPPORTED_MODE


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 7)])
def test_what_is_too_small_to_show_a_part_is_refused(size: tuple[int, int]) -> None:
    for source in (encode(Image.new("L", size)), Image.new("L", size), np.zeros(size[::-1], np.uint16)):
        error = refusal_of(source)
        assert error.refusal is Refusal.TOO_SMALL and f"{size[0]} × {size[1]}" in str(error)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_the_exif_orientation_is_applied_where_it_is_asked_for(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° to view
    grey = Image.fromarray(GREY12) if kind != "JPEG" else Image.fromarray(RGBA8[..., 0])
    data = encode(grey, kind, exif=exif)
    upright = ImageLimits(100_000, 1_000_000, exif_orientation=True)
    stored, turned = pixels(decode_image(data, LIMITS)), pixels(decode_image(data, upright))
    assert np.array_equal(turned, np.rot90(stored, -1))
    assert kind == "JPEG" or np.array_equal(stored, GREY12)
    assert measure_image(data, upright).width == 20


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [b"IHDR", b"IDAT"])
def test_a_png_that_is_not_what_its_checksum_says_is_refused(chunk: bytes) -> None:
    data = bytearray(encode(Image.fromarray(RGBA8)))
    place = data.index(chunk)
    (length,) = struct.unpack_from(">I", data, place - 4)
    data[place + 4 + length] ^= 1
    error = refusal_of(bytes(data))
    assert error.refusal in {Refusal.TRUNCATED, Refusal.NOT_AN_IMAGE}


# --- files that are none --------------------------------------------------------------------------------------------


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x_mask.png")
    with pytest.raises(RefusedImage, match=r"x_mask\.png.*not a regular file"):
        read_bounded(tmp_path / "x_mask.png", 10)


def test_a_device_is_refused() -> None:
    with pytest.raises(RefusedImage, match="zero: cannot be read"):
        read_bounded(Path("/dev/zero"), 10)


def test_a_loop_of_links_a_dangling_link_and_a_long_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for name in ("a.png", "gone.png", "x" * 300 + ".png"):
        with pytest.raises(RefusedImage) as caught:
            read_bounded(tmp_path / name, 10)
        assert caught.value.refusal is Refusal.UNREADABLE and name in str(caught.value)


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_sequence_of_files_opens_each_when_it_is_asked_for(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.tif" for number in range(3))
    paths[1].write_bytes(FILES["grey, 12 bits"][0])
    images = ImageFiles(paths, LIMITS, 12)
    assert len(images) == 3 and len(images[1:]) == 2 and images[5:].paths == ()
    assert np.array_equal(pixels(images[1]), pixels(open_within(paths[1], LIMITS, 12)))
    with pytest.raises(RefusedImage):
        list(images)
