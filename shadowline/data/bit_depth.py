"""A decoded picture: RGB with 8 bits a channel, or values of up to 16 bits whose white its class must tell.

    picture = decode_image(Path("cell0042.tif"), params.data)    # shadowline/data/images.py
    rgb = to_rgb(picture, bit_depth=12)

A camera with 10, 12 or 14 bits writes files with 16 bits a value, and a single picture cannot tell which value would
have been white: a dark one uses few of them. The images of a class together can (`bit_depth_of`); the import records
what they say, and models keep it.

Axes: H W pixels · C channels
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

Deep = npt.NDArray[np.uint16]  # (H, W) grey or (H, W, 3) RGB
DecodedImage = Image.Image | Deep  # an image is RGB

BIT_DEPTHS = (8, 10, 12, 14, 16)
FULL_DEPTH = 16  # of a class that has no image with more than 8 bits


def bit_depth_of(pictures: Iterable[DecodedImage]) -> int:
    """The smallest of `BIT_DEPTHS` that holds all values of the pictures; 16 where none has more than 8 bits."""
    largest = [int(picture.max()) for picture in pictures if isinstance(picture, np.ndarray)]
    return next(depth for depth in BIT_DEPTHS if max(largest) < 1 << depth) if largest else FULL_DEPTH


def to_rgb(picture: DecodedImage, bit_depth: int = FULL_DEPTH) -> Image.Image:
    """RGB with 8 bits a channel. An image is given back as it is; of deeper values 2^bit_depth − 1 and all above it are
    white, as where a sensor saturates, and what lies below is scaled linearly and never stretched."""
    if isinstance(picture, Image.Image):
        return picture
    white = (1 << bit_depth) - 1
    values = np.minimum(picture, white).astype(np.uint32)
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")


def viewable(picture: DecodedImage) -> Image.Image:
    """RGB for eyes and for comparing frames, where no class is known: the white is that of the picture's own depth."""
    return to_rgb(picture, bit_depth_of([picture]))


def from_grey8(rgb: Image.Image, bit_depth: int) -> Deep:
    """The inverse of `to_rgb` for grey: (H, W) values that it turns into the given image again."""
    grey_HW = np.asarray(rgb.convert("L"), np.uint32)
    white = (1 << bit_depth) - 1
    return ((grey_HW * white + 127) // 255).astype(np.uint16)


def size_of(picture: DecodedImage) -> tuple[int, int]:
    """Width and height, pixels."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def num_bytes_of(picture: DecodedImage) -> int:
    """Bytes of its pixels in memory."""
    return 3 * picture.width * picture.height if isinstance(picture, Image.Image) else picture.nbytes
