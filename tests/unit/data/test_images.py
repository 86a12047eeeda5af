"""What a camera, a share or a stranger may leave in a folder, and what becomes of it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fixtures.effort import examples
from shadowline.data.images import FORMATS, ImageLimits, Refusal, RefusedImage, measure_image, open_within, read_mask

LIMITS = ImageLimits(max_pixels=100_000, max_file_bytes=1_000_000)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header is sound and whose pixels are missing."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    idat = b"IDAT" + zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(body))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(idat) - 4)
        + idat
        + struct.pack(">I", zlib.crc32(idat))
    )


def refusal_of(source: bytes | Path, **limits: int) -> RefusedImage:
    with pytest.raises(RefusedImage) as caught:
        open_within(source, replace(LIMITS, **limits), name="cell.png" if isinstance(source, bytes) else "")
    return caught.value


RGB = Image.fromarray(NOISE)
SAMPLES = {kind: encode(RGB, kind) for kind in FORMATS}


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA"])
def test_every_mode_ends_as_rgb_with_8_bits(mode: str) -> None:
    stored = RGB.convert(mode)
    data = encode(stored, "PNG" if mode in {"P", "LA"} else "TIFF")
    picture = open_within(data, LIMITS)
    assert (picture.mode, picture.size) == ("RGB", (50, 40))
    assert np.array_equal(np.asarray(picture), np.asarray(stored.convert("RGB")))
    assert measure_image(data, LIMITS).mode == mode


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_is_read_from_bytes_and_from_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.of.unknown.kind"
    path.write_bytes(SAMPLES[kind])
    assert open_within(path, LIMITS).tobytes() == open_within(SAMPLES[kind], LIMITS).tobytes()
    assert measure_image(path, LIMITS).format == kind


def test_transparency_is_composited_on_black() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., :3] = 200
    rgba[:4, :, 3] = 255
    rgba[4:6, :, 3] = 128
    rows = np.asarray(open_within(encode(Image.fromarray(rgba)), LIMITS))[::2, 0, 0]
    assert rows.tolist() == [200, 200, 100, 0]


def test_the_transparent_colour_of_a_palette_is_black() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([9, 9, 9, 250, 240, 230])
    assert open_within(encode(palette), LIMITS).getpixel((0, 0)) == (250, 240, 230)
    assert open_within(encode(palette, transparency=1), LIMITS).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_linearly_and_never_stretched(kind: str) -> None:
    grey16 = np.array([[0, 257, 300, 386, 32768, 65535, 0, 0]] * 8, np.uint16)
    data = encode(Image.fromarray(grey16), kind)
    assert np.asarray(open_within(data, LIMITS))[0, :6, 1].tolist() == [0, 1, 1, 2, 128, 255]
    assert measure_image(data, LIMITS).mode == "I;16"


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° to view
    assert open_within(encode(RGB, "JPEG", exif=exif), LIMITS).size == (50, 40)


def test_no_bytes_is_empty() -> None:
    assert refusal_of(b"").refusal == Refusal.EMPTY


def test_a_file_over_the_bound_is_refused_with_value_and_way_out(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(SAMPLES["PNG"])
    error = refusal_of(path, max_file_bytes=len(SAMPLES["PNG"]) - 1)
    assert error.refusal == Refusal.TOO_LARGE_FILE
    assert "huge.png" in str(error) and "data.max_file_bytes" in str(error)
    open_within(path, ImageLimits(2000, len(SAMPLES["PNG"])))


@pytest.mark.parametrize(
    "data", [b"name,label\n", b"\x00" * 64, encode(RGB, "PPM"), encode(RGB, "ICO"), SAMPLES["PNG"][:20]]
)
def test_what_no_accepted_decoder_knows_is_not_an_image(data: bytes) -> None:
    assert refusal_of(data).refusal == Refusal.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused_in_every_format(kind: str, share: float) -> None:
    data = SAMPLES[kind][: int(len(SAMPLES[kind]) * share)]
    # TIFF keeps its directory at the end and WebP its length at the front: cut off, neither opens at all.
    assert refusal_of(data).refusal in ({Refusal.TRUNCATED} if kind not in {"TIFF", "WEBP"} else set(Refusal))


def test_a_truncated_png_is_named_so_with_its_file() -> None:
    error = refusal_of(SAMPLES["PNG"][:-200])
    assert error.refusal == Refusal.TRUNCATED and "cell.png" in str(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(400, 251), (12_000, 12_000), (60_000, 60_000)])
def test_a_bomb_is_refused_by_its_header_before_any_pixel(width: int, height: int) -> None:
    # The pixels are not there: had decoding begun, the answer would be TRUNCATED.
    assert refusal_of(png_header(width, height)).refusal == Refusal.DECOMPRESSION_BOMB
    assert refusal_of(png_header(400, 250)).refusal == Refusal.TRUNCATED


def test_the_bound_on_pixels_is_inclusive() -> None:
    assert open_within(SAMPLES["PNG"], ImageLimits(2000, 10_000)).size == (50, 40)
    error = refusal_of(SAMPLES["PNG"], max_pixels=1999)
    assert "50 × 40" in str(error) and "1999" in str(error) and "data.max_pixels" in str(error)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_several_frames_or_pages_are_refused(kind: str) -> None:
    error = refusal_of(encode(RGB, kind, save_all=True, append_images=[Image.new("RGB", RGB.size)]))
    assert error.refusal == Refusal.ANIMATED and "2 frames" in str(error)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bit_pixels_are_refused_by_their_mode(dtype: type) -> None:
    image = Image.fromarray(np.ones((8, 8), dtype))
    error = refusal_of(encode(image, "TIFF"))
    assert error.refusal == Refusal.UNSUPPORTED_MODE and f"mode {image.mode} " in str(error)


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "nowhere.png").refusal == Refusal.UNREADABLE
    assert refusal_of(tmp_path).refusal == Refusal.UNREADABLE


@settings(max_examples=examples(200), deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    cut=st.floats(0.02, 1.0),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_a_named_refusal(kind: str, cut: float, flips: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLES[kind][: int(len(SAMPLES[kind]) * cut)])
    for place, value in flips:
        data[place % len(data)] = value
    try:
        picture = open_within(bytes(data), LIMITS)
    except RefusedImage as error:
        assert error.refusal in Refusal
    else:
        assert picture.mode == "RGB" and picture.width * picture.height <= LIMITS.max_pixels


def test_properties_of_a_flat_and_of_a_checkered_image() -> None:
    flat = measure_image(encode(Image.new("L", (10, 8), 51)), LIMITS)
    assert (flat.width, flat.height, flat.mode) == (10, 8, "L")
    assert (flat.brightness, flat.contrast, flat.sharpness) == (0.2, 0.0, 0.0)
    checkered = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    properties = measure_image(encode(Image.fromarray(checkered)), LIMITS)
    assert (properties.brightness, properties.contrast) == (0.5, 0.5)
    assert properties.sharpness == 4.0  # every inner pixel differs from its four neighbours by 1


def test_sharpness_is_the_deviation_of_the_laplacian() -> None:
    grey = NOISE[..., 0]
    expected = ndimage.laplace(grey.astype(np.float64))[1:-1, 1:-1].std() / 255
    assert measure_image(encode(Image.fromarray(grey)), LIMITS).sharpness == pytest.approx(expected, rel=1e-12)
    assert measure_image(encode(Image.new("L", (8, 8), 9)), LIMITS).sharpness == 0.0


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(np.array([[0, 1], [255, 3]], np.uint8)),
        Image.fromarray(np.array([[0, 1], [255, 3]], np.uint16)),
        Image.fromarray(np.array([[False, True], [True, True]])),
        Image.fromarray(np.array([[0, 1], [255, 3]], np.uint8)).convert("RGB"),
        Image.fromarray(np.array([[0, 1], [255, 3]], np.uint8)).convert("RGBA"),
    ],
    ids=lambda mask: mask.mode,
)
def test_a_mask_marks_every_value_but_zero(mask: Image.Image) -> None:
    assert read_mask(encode(mask), LIMITS).tolist() == [[False, True], [True, True]]


def test_a_palette_mask_counts_its_indices_not_its_colours() -> None:
    mask = Image.fromarray(np.array([[0, 1]], np.uint8))
    mask.putpalette([255, 0, 0, 0, 0, 0])
    assert mask.mode == "P"
    assert read_mask(encode(mask), LIMITS).tolist() == [[False, True]]
