"""Image files as they are stored: bytes in, a decoded image in the mode of its file out, or a refusal with its reason.

    stored = read_stored(Path("cell0042.tif"), params.data, "cell0042.tif")
    stored.image.mode                                                     # as Pillow has it: L, P, I;16, RGB, CMYK, …

`shadowline/data/images.py` makes one picture of it.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
import zlib
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from shadowline.data.file_names import readable

FileSource = Path | str | bytes | Image.Image
SUFFIX_OF = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif"}
FORMATS = tuple(SUFFIX_OF)  # all that is decoded; the rest of Pillow's stay closed

_COLOUR16 = ("RGB;16", "RGBA;16", "RGBX;16", "RGBa;16")  # Pillow's raw modes; their last letter is the order of bytes
_LITTLE = ("L", "N") if sys.byteorder == "little" else ("L",)
GREY16 = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_PNG, _PNG_PIXELS = b"\x89PNG\r\n\x1a\n", frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274  # tags of a TIFF
_TURNED_BACK = {  # the inverse of what an orientation asks for
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
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
    TOO_SMALL = "too_small"  # fewer than 8 pixels along a side
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


class Limits(Protocol):
    """How an image is read: `params.data`, or what a packaged model keeps of it."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def max_file_bytes(self) -> int: ...
    @property
    def exif_orientation(self) -> bool: ...


@dataclass(frozen=True)
class ImageLimits:
    """The limits alone, as a packaged model keeps them."""

    max_pixels: int  # pixels per image
    max_file_bytes: int  # bytes per image file
    exif_orientation: bool = False  # whether pictures are turned upright as their EXIF orientation says


@dataclass(frozen=True, eq=False)
class StoredImage:
    """A decoded image in the mode of its file."""

    image: Image.Image
    low: Image.Image | None  # the low bytes of a colour image of 16 bits a channel, whose high bytes `image` holds
    format: str  # one of FORMATS; "" for an image that was in memory


def read_stored(source: FileSource, limits: Limits, name: str) -> StoredImage:
    """The decoded image; `name` stands for it in messages. Raises RefusedImage.

    The size is judged by the header, before any pixel is decoded; Pillow's own bound (about 179 million pixels) holds
    as well.
    """
    unread = _unread_bytes(source, limits) if isinstance(source, Image.Image) else source
    if isinstance(unread, Image.Image):
        check_size(*unread.size, limits.max_pixels, name)
        return StoredImage(_load(unread, limits, name), None, unread.format or "")
    data = _read(unread, limits.max_file_bytes, name)
    image = _open(data, name)
    check_size(*image.size, limits.max_pixels, name)
    if data.startswith(_PNG):
        _check_png(data, name)
    has_low_bytes = image.mode not in GREY16 and _is_deep(image)
    loaded = _load(image, limits, name)
    low = _load(_low_bytes(data, name), limits, name) if has_low_bytes else None
    return StoredImage(loaded, low, image.format or "")


def _unread_bytes(image: Image.Image, limits: Limits) -> bytes | Image.Image:
    """The bytes of a file that Pillow has opened and not read yet: its pixels may be deeper than its mode tells."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None) or image.format not in FORMATS or not file.seekable():
        return image
    place = file.tell()
    file.seek(0)
    data: bytes = file.read(limits.max_file_bytes + 1)
    file.seek(place)
    return data


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except _BOMBS as error:
        raise RefusedImage(Refusal.DECOMPRESSION_BOMB, f"{name}: {error}; check the file") from None
    except _DAMAGE:
        way_out = f"save it as one of {', '.join(FORMATS)} or take it out of the folder"
        raise RefusedImage(Refusal.NOT_AN_IMAGE, f"{name}: no readable image header; {way_out}") from None


def _load(image: Image.Image, limits: Limits, name: str) -> Image.Image:
    try:
        _check_frames(image, name)
        turned_back = _TURNED_BACK.get(_tiff_orientation(image))
        image.load()
        if limits.exif_orientation:
            return ImageOps.exif_transpose(image)
        return image if turned_back is None else image.transpose(turned_back)
    except RefusedImage:
        raise
    except _DAMAGE as error:
        message = f"{name}: {image.format} header, but the pixels end early or are damaged ({error}); copy it again"
        raise RefusedImage(Refusal.TRUNCATED, message) from None


def _tiff_orientation(image: Image.Image) -> int:
    """The orientation that Pillow applies of itself while it reads a TIFF; 1 for any other image."""
    return int(image.getexif().get(_ORIENTATION, 1)) if image.format == "TIFF" else 1


def _low_bytes(data: bytes, name: str) -> Image.Image:
    """The low bytes of a colour image of 16 bits a channel, not loaded yet.

    Pillow keeps the high byte of each of its values: told that the bytes are in the other order, it keeps the low one.
    """
    low: Any = _open(data, name)
    _ = getattr(low, "n_frames", 1)  # Pillow reads the tiles of a TIFF again when it first counts the pages
    tiles = []
    for tile in low.tile:
        raw_mode, *others = [tile.args] if isinstance(tile.args, str) else tile.args
        if not raw_mode.startswith(_COLOUR16):
            message = f"{name}: 16 bit values stored as {raw_mode}; save it as 16 bit grey or RGB, in one plane"
            raise RefusedImage(Refusal.UNSUPPORTED_MODE, message)
        other_order = raw_mode[:-1] + ("B" if raw_mode.endswith(_LITTLE) else "L")
        tiles.append(tile._replace(args=(other_order, *others) if others else other_order))
    low.tile = tiles
    return low  # type: ignore[no-any-return]


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel of the file has 16 bits, by the header."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ()) if image.format == "TIFF" else ()
    return 16 in np.atleast_1d(bits) or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _check_png(data: bytes, name: str) -> None:
    """Raises RefusedImage where a chunk that holds pixels or their meaning is not what its checksum says."""
    place, view = len(_PNG), memoryview(data)
    while place + 12 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        end = place + 8 + length
        is_whole = kind in _PNG_PIXELS and end + 4 <= len(data)  # the decoder refuses what ends early
        if is_whole and zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            message = f"{name}: damaged, its part {kind.decode()} is not what its checksum says; copy it again"
            raise RefusedImage(Refusal.TRUNCATED, message)
        place = end + 4


def name_of(source: FileSource, name: str) -> str:
    """What messages call it: the given name, or that of its file."""
    if isinstance(source, Image.Image) and not name:
        name = Path(os.fsdecode(getattr(source, "filename", "") or "")).name
    return readable(name or (Path(source).name if isinstance(source, str | Path) else "image"))


def _read(source: Path | str | bytes, max_file_bytes: int, name: str) -> bytes:
    data = source if isinstance(source, bytes) else read_bounded(Path(source), max_file_bytes + 1)
    if not data:
        raise RefusedImage(Refusal.EMPTY, f"{name}: 0 bytes; copy it again or take it out of the folder")
    if len(data) > max_file_bytes:
        message = f"{name}: more than {max_file_bytes} bytes; shrink it or raise data.max_file_bytes"
        raise RefusedImage(Refusal.TOO_LARGE_FILE, message)
    return data


def read_bounded(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a regular file; raises RefusedImage if it cannot be read or is anything else.

    A pipe without a writer does not hold it up.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    return file.read(limit)
            reason = "not a regular file"
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    message = f"{readable(path.name)}: cannot be read ({reason}); check that it exists and its permissions"
    raise RefusedImage(Refusal.UNREADABLE, message)


def check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raises RefusedImage for more pixels than a picture may have."""
    if width * height > max_pixels:
        message = f"{name}: {width} × {height} pixels, at most {max_pixels} in all; shrink it or raise data.max_pixels"
        raise RefusedImage(Refusal.DECOMPRESSION_BOMB, message)


def _check_frames(image: Image.Image, name: str) -> None:
    num_frames: int = getattr(image, "n_frames", 1)
    if num_frames > 1:
        message = f"{name}: {num_frames} frames or pages, at most 1; save the one to be inspected"
        raise RefusedImage(Refusal.ANIMATED, message)
