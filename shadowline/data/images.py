"""Safe reading of one image of any origin: the result is one picture, or a refusal with its reason.

    image = open_within(Path("cell0042.png"), params.data)            # 8 bit RGB
    picture = decode_image(array, params.data, bgr=True)              # not scaled yet, where it is deeper than 8 bits

One decoding for paths, bytes, Pillow's images and NumPy arrays. Every stored mode ends as 8 bit RGB:

    RGB                          as it is
    1, L, P, CMYK, YCbCr, HSV    converted by Pillow
    LA, PA, RGBA, transparency   composited on black
    16 bit grey, RGB, RGBA       scaled by the bit depth of the class (shadowline/data/bit_depth.py), never stretched
    I, F, LAB (32 bit, other)    refused: the file does not say which value is white

The EXIF orientation is applied only where `data.exif_orientation` says so: most cameras on a line do not turn, and a
mask is drawn on the pixels as stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

from shadowline.data.bit_depth import FULL_DEPTH, DecodedImage, Deep, bit_depth_of, size_of, to_rgb
from shadowline.data.image_files import (
    FORMATS,
    GREY16,
    SUFFIX_OF,
    FileSource,
    ImageLimits,
    Limits,
    Refusal,
    RefusedImage,
    StoredImage,
    check_size,
    name_of,
    read_bounded,
    read_stored,
)

__all__ = [
    "FORMATS",
    "MIN_SIDE",
    "SUFFIX_OF",
    "ImageFiles",
    "ImageLimits",
    "ImageProperties",
    "ImageSource",
    "Limits",
    "Refusal",
    "RefusedImage",
    "decode_image",
    "measure_image",
    "open_within",
    "read_bounded",
    "read_mask",
]

ImageSource = FileSource | npt.NDArray[Any]
MIN_SIDE = 8  # pixels; what is smaller shows no part

_CONVERTED = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True)
class ImageProperties:
    """What the manifest keeps of an image; grey values are 0…1 (ITU-R 601 luma of the RGB picture)."""

    width: int  # pixels
    height: int  # pixels
    mode: str  # Pillow's mode of the file as stored; values of more than 8 bits with their bit depth: I;12, RGB;16
    brightness: float  # mean grey value
    contrast: float  # standard deviation of the grey values
    sharpness: float  # standard deviation of their 4-neighbour Laplacian, inner pixels only
    format: str  # one of FORMATS, by content and not by name


def open_within(source: ImageSource, limits: Limits, bit_depth: int = FULL_DEPTH, *, name: str = "") -> Image.Image:
    """The fully decoded picture, always RGB with 8 bits a channel; `bit_depth`: of its class, for deeper files.

    Raises RefusedImage as `decode_image` does.
    """
    return to_rgb(decode_image(source, limits, name=name), bit_depth)


def decode_image(source: ImageSource, limits: Limits, *, bgr: bool = False, name: str = "") -> DecodedImage:
    """The fully decoded picture, not scaled yet where it has more than 8 bits; `name` stands for bytes in messages.

    Arrays are (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16, in the order RGB or, with `bgr`, BGR. An image file that
    Pillow has opened and not yet read is read as its bytes. Raises RefusedImage. The size is judged by the header,
    before any pixel is decoded; Pillow's own bound (about 179 million pixels) holds as well.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source, limits, bgr, name or "array")
    name = name_of(source, name)
    return _of_image(read_stored(source, limits, name), name)


def measure_image(source: FileSource, limits: Limits, bit_depth: int = 0, *, name: str = "") -> ImageProperties:
    """The properties of an image that is safe to take in; raises RefusedImage as `open_within` does.

    `bit_depth`: of its class, for files with more than 8 bits; 0: not known yet, the image's own is used.
    """
    name = name_of(source, name)
    stored = read_stored(source, limits, name)
    picture = _of_image(stored, name)
    depth = bit_depth or bit_depth_of([picture])
    grey = to_rgb(picture, depth).convert("L")
    statistics = ImageStat.Stat(grey)
    width, height = size_of(picture)
    return ImageProperties(
        width=width,
        height=height,
        mode=f"{stored.image.mode.partition(';')[0]};{depth}" if isinstance(picture, np.ndarray) else stored.image.mode,
        brightness=statistics.mean[0] / 255,
        contrast=statistics.stddev[0] / 255,
        sharpness=_sharpness(np.asarray(grey)),
        format=stored.format,
    )


@dataclass(frozen=True)
class ImageFiles(Sequence[Image.Image]):
    """Image files as a sequence of RGB images, each opened when it is asked for: memory holds those in use alone."""

    paths: tuple[Path, ...]
    limits: Limits
    bit_depth: int = FULL_DEPTH  # of their class

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...
    def __getitem__(self, index: int | slice) -> Image.Image | ImageFiles:
        """Raises RefusedImage as `open_within` does."""
        if isinstance(index, slice):
            return replace(self, paths=self.paths[index])
        return open_within(self.paths[index], self.limits, self.bit_depth)


def read_mask(source: FileSource, limits: Limits, *, name: str = "") -> npt.NDArray[np.bool_]:
    """(H, W), True where a mask marks a defect: any stored value but 0, since data sets write 255, 1 or 1…n.

    Palette masks count their indices, alpha is ignored. Raises RefusedImage as `open_within` does.
    """
    image = read_stored(source, limits, name_of(source, name)).image
    if image.mode in {"1", "L", "P", "I", *GREY16}:
        return np.asarray(np.asarray(image) != 0)
    colours = image if image.mode == "RGB" else _opaque(image, name_of(source, name))
    return np.asarray(np.asarray(colours).any(axis=2))


def _of_image(stored: StoredImage, name: str) -> DecodedImage:
    image = stored.image
    _check_shown(*image.size, name)
    if image.mode in GREY16:
        return np.asarray(image).astype(np.uint16)
    if stored.low is not None:
        return _composited(np.asarray(image).astype(np.uint16) << 8 | np.asarray(stored.low))
    if image.mode in _WITH_ALPHA or (image.mode in _CONVERTED and image.has_transparency_data):
        rgba = _with_alpha(image)
        black = Image.new("RGB", image.size)
        black.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        return black
    return _opaque(image, name)


def _of_array(array: npt.NDArray[Any], limits: Limits, bgr: bool, name: str) -> DecodedImage:
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or array.shape[2:] not in {(), (3,), (4,)}:
        message = f"{name}: {array.dtype} {array.shape}, need uint8 or uint16 in (H, W), (H, W, 3) or (H, W, 4)"
        raise RefusedImage(Refusal.UNSUPPORTED_MODE, message)
    height, width = array.shape[:2]
    check_size(width, height, limits.max_pixels, name)
    ordered = array[..., [2, 1, 0, 3][: array.shape[2]]] if bgr and array.ndim == 3 else array
    if ordered.dtype == np.uint8:
        return _of_image(StoredImage(Image.fromarray(np.ascontiguousarray(ordered)), None, ""), name)
    _check_shown(width, height, name)
    return np.array(ordered) if ordered.ndim == 2 else _composited(np.array(ordered))


def _check_shown(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        message = f"{name}: {width} × {height} pixels, at least {MIN_SIDE} a side; take it out"
        raise RefusedImage(Refusal.TOO_SMALL, message)


def _composited(values: Deep) -> Deep:
    """(H, W, 3) of (H, W, 3), or of (H, W, 4) on black."""
    if values.shape[2] == 3:
        return values
    colours, alpha = values[..., :3].astype(np.uint32), values[..., 3:].astype(np.uint32)
    return np.asarray((colours * alpha + 32767) // 65535, np.uint16)


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
