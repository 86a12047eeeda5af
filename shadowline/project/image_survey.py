"""What the images of a class are, seen in their headers: sizes, modes, bit depths, and files that are none.

    survey = survey_images(images, limits)
    survey.modes                        # {"L": 12, "I;16, 12 bits used": 200}

Of many images an even sample is looked at. Nothing is decoded but the few 16-bit ones that tell how many bits are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO

from PIL import ExifTags, Image

from shadowline.data.bit_depth import bit_depth_of
from shadowline.data.images import FORMATS, Limits, RefusedImage, decode_image
from shadowline.data.sources import SourceImage

MAX_LOOKED_AT = 500  # images per class
_MAX_DECODED = 4  # 16-bit images per class
_HEADER_BYTES = 1 << 16
_UPRIGHT = 1  # EXIF's orientation of an image that is stored as it is shown


@dataclass(frozen=True)
class ImageSurvey:
    num_images: int
    num_looked_at: int
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)  # (width, height) in pixels → images
    modes: Mapping[str, int] = field(default_factory=dict)  # Pillow's mode, with the bits that are used → images
    num_turned: int = 0  # images whose EXIF orientation is another than upright
    refused: tuple[str, ...] = ()  # a line for each file that has no readable header, or is too large


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]
    mode: str
    is_turned: bool


def survey_images(images: Sequence[SourceImage], limits: Limits) -> ImageSurvey:
    """Look at the headers of at most MAX_LOOKED_AT images, evenly over their order."""
    step = max(1, -(-len(images) // MAX_LOOKED_AT))
    looked_at = images[::step]
    headers: list[tuple[SourceImage, _Header]] = []
    refused: list[str] = []
    for image in looked_at:
        try:
            headers.append((image, _header(image, limits)))
        except RefusedImage as error:
            refused.append(str(error))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            refused.append(f"{image.name}: no readable image header")
    bits = _bits_used([image for image, header in headers if header.mode.startswith("I;16")], limits)
    modes = Counter(f"{header.mode}, {bits} bits used" if header.mode.startswith("I;16") else header.mode
                    for _, header in headers)  # fmt: skip
    return ImageSurvey(
        num_images=len(images),
        num_looked_at=len(looked_at),
        sizes=Counter(header.size for _, header in headers),
        modes=modes,
        num_turned=sum(header.is_turned for _, header in headers),
        refused=tuple(refused),
    )


def _header(image: SourceImage, limits: Limits) -> _Header:
    data = image.read(_HEADER_BYTES)
    try:
        return _parse(data)
    except (OSError, ValueError, SyntaxError):
        if len(data) < _HEADER_BYTES:
            raise
        return _parse(image.read(limits.max_file_bytes))  # a TIFF's header may lie at its end


def _parse(data: bytes) -> _Header:
    with Image.open(BytesIO(data), formats=FORMATS) as opened:
        orientation = opened.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
        return _Header(opened.size, opened.mode, orientation != _UPRIGHT)


def _bits_used(images: Sequence[SourceImage], limits: Limits) -> int:
    """The camera's bits, by the largest value in a few of the images; those that cannot be read say nothing."""
    pictures = []
    for image in images[:: max(1, len(images) // _MAX_DECODED)][:_MAX_DECODED]:
        with suppress(RefusedImage):
            pictures.append(decode_image(image.read(limits.max_file_bytes), limits, name=image.name))
    return bit_depth_of(pictures)
