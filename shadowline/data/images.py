"""Safe reading of one image file of any origin: the result is one picture, or a refusal with its reason.

    image = open_within(Path("cell0042.png"), params.data)

Every stored mode ends as 8 bit RGB:

    RGB                          as it is (16 bits a channel: the high byte, as Pillow reads it)
    1, L, P, CMYK, YCbCr, HSV    converted by Pillow
    LA, PA, RGBA, transparency   composited on black
    I;16 (16 bit grey)           value / 257, rounded: linear, the same for every image, never stretched
    I, F, LAB (32 bit, other)    refused: the file does not say which value is white

The EXIF orientation is not applied: cameras on a line do not turn, and a mask is drawn on the pixels as stored.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

SUFFIX_OF = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif"}
FORMATS = tuple(SUFFIX_OF)  # all that is decoded; the rest of Pillow's stay closed

_CONVERTED = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_GREY16 = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_DAMAGE = (  # what Pillow's decoders raise on damaged bytes; OSError includes its UnidentifiedImageError
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class Refusal(StrEnum):
    """Why a file is not taken in."""

    UNREADABLE = "unreadable"  # the file itself: missing, no permission, a folder, a broken archive
    OUTSIDE_SOURCE = "outside_source"  # its path leaves the folder or archive that was named
    EMPTY = "empty"  # zero bytes
    TOO_LARGE_FILE = "too_large_file"  # more bytes than data.max_file_bytes
    NOT_AN_IMAGE = "not_an_image"  # no header of an accepted format
    DECOMPRESSION_BOMB = "decompression_bomb"  # more pixels than data.max_pixels, by the header
    ANIMATED = "animated"  # several frames or pages
    UNSUPPORTED_MODE = "unsupported_mode"  # 32 bit and other pixels without a known white
    TRUNCATED = "truncated"  # a good header, then pixels that end early or are damaged
    BAD_MASK = "bad_mask"  # the image is fine, its mask is not
    CONTRADICTORY_LABELS = "contradictory_labels"  # the same content under two labels


class RefusedImage(ValueError):  # noqa: N818 - a verdict on a file, named as one
    """A file that is not taken in: `refusal` for machines, the message for people."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True)
class ImageProperties:
    """What the manifest keeps of an image; grey values are 0…1 (ITU-R 601 luma of the RGB picture)."""

    width: int  # pixels
    height: int  # pixels
    mode: str  # Pillow's mode of the file as stored
    brightness: float  # mean grey value
    contrast: float  # standard deviation of the grey values
    sharpness: float  # standard deviation of their 4-neighbour Laplacian, inner pixels only
    format: str  # one of FORMATS, by content and not by name


class Limits(Protocol):
    """Limits of an image: `params.data`, or those of a packaged model."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def max_file_bytes(self) -> int: ...


@dataclass(frozen=True)
class ImageLimits:
    """The limits alone, as a packaged model keeps them."""

    max_pixels: int  # pixels per image
    max_file_bytes: int  # bytes per image file


def open_within(source: Path | str | bytes, limits: Limits, *, name: str = "") -> Image.Image:
    """The fully decoded picture, always RGB with 8 bits a channel; `name` stands for bytes in messages.

    Raises RefusedImage. The size is judged by the header, before any pixel is decoded; Pillow's own bound
    (about 179 million pixels) holds as well.
    """
    return _to_rgb(_decode(source, limits, name), _name_of(source, name))


def measure_image(source: Path | str | bytes, limits: Limits, *, name: str = "") -> ImageProperties:
    """The properties of an image that is safe to take in; raises RefusedImage as `open_within` does."""
    image = _decode(source, limits, name)
    grey = _to_rgb(image, _name_of(source, name)).convert("L")
    statistics = ImageStat.Stat(grey)
    return ImageProperties(
        width=image.width,
        height=image.height,
        mode=image.mode,
        brightness=statistics.mean[0] / 255,
        contrast=statistics.stddev[0] / 255,
        sharpness=_sharpness(np.asarray(grey)),
        format=image.format or "",
    )


def read_mask(source: Path | str | bytes, limits: Limits, *, name: str = "") -> npt.NDArray[np.bool_]:
    """(H, W), True where a mask marks a defect: any stored value but 0, since data sets write 255, 1 or 1…n.

    Palette masks count their indices, alpha is ignored. Raises RefusedImage as `open_within` does.
    """
    image = _decode(source, limits, name)
    if image.mode in {"1", "L", "P", "I", *_GREY16}:
        return np.asarray(np.asarray(image) != 0)
    colours = image if image.mode == "RGB" else _opaque(image, _name_of(source, name))
    return np.asarray(np.asarray(colours).any(axis=2))


def _decode(source: Path | str | bytes, limits: Limits, name: str) -> Image.Image:
    name = _name_of(source, name)
    data = _read(source, limits.max_file_bytes, name)
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except _BOMBS as error:
        raise RefusedImage(Refusal.DECOMPRESSION_BOMB, f"{name}: {error}; check the file") from None
    except _DAMAGE:
        way_out = f"save it as one of {', '.join(FORMATS)} or take it out of the folder"
        raise RefusedImage(Refusal.NOT_AN_IMAGE, f"{name}: no readable image header; {way_out}") from None
    _check_size(image, limits.max_pixels, name)
    try:
        _check_frames(image, name)
        image.load()
    except RefusedImage:
        raise
    except _DAMAGE as error:
        message = f"{name}: {image.format} header, but the pixels end early or are damaged ({error}); copy it again"
        raise RefusedImage(Refusal.TRUNCATED, message) from None
    return image


def _name_of(source: Path | str | bytes, name: str) -> str:
    return name or ("image" if isinstance(source, bytes) else Path(source).name)


def _read(source: Path | str | bytes, max_file_bytes: int, name: str) -> bytes:
    data = source if isinstance(source, bytes) else read_bounded(Path(source), max_file_bytes + 1)
    if not data:
        raise RefusedImage(Refusal.EMPTY, f"{name}: 0 bytes; copy it again or take it out of the folder")
    if len(data) > max_file_bytes:
        message = f"{name}: more than {max_file_bytes} bytes; shrink it or raise data.max_file_bytes"
        raise RefusedImage(Refusal.TOO_LARGE_FILE, message)
    return data


def read_bounded(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a file; raises RefusedImage if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        message = f"{path.name}: cannot be read ({error.strerror}); check that it exists and its permissions"
        raise RefusedImage(Refusal.UNREADABLE, message) from None


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        message = f"{name}: {width} × {height} pixels, at most {max_pixels} in all; shrink it or raise data.max_pixels"
        raise RefusedImage(Refusal.DECOMPRESSION_BOMB, message)


def _check_frames(image: Image.Image, name: str) -> None:
    num_frames: int = getattr(image, "n_frames", 1)
    if num_frames > 1:
        message = f"{name}: {num_frames} frames or pages, at most 1; save the one to be inspected"
        raise RefusedImage(Refusal.ANIMATED, message)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _GREY16:
        grey16 = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey16 + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in _WITH_ALPHA or (image.mode in _CONVERTED and image.has_transparency_data):
        rgba = _with_alpha(image)
        black = Image.new("RGB", image.size)
        black.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        return black
    return _opaque(image, name)


def _with_alpha(image: Image.Image) -> Image.Image:
    return image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")


def _opaque(image: Image.Image, name: str) -> Image.Image:
    if image.mode not in _CONVERTED | _WITH_ALPHA:
        message = f"{name}: pixels of mode {image.mode} have no known white; save as 8 or 16 bit grey or 8 bit RGB"
        raise RefusedImage(Refusal.UNSUPPORTED_MODE, message)
    return (_with_alpha(image) if image.mode in _WITH_ALPHA else image).convert("RGB")


def _sharpness(grey_HW: npt.NDArray[np.uint8]) -> float:
    """0…4 in principle; 0 for images without inner pixels."""
    g = grey_HW.astype(np.int16)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return float(laplacian.std() / 255) if laplacian.size else 0.0
