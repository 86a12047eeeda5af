"""How a packaged model's images are decoded, where that is not as for 8 bit RGB: decoding.json, in its fingerprint.

decoding = Decoding({"bolt": 12})
decoding.to_rgb(picture, "bolt")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from PIL import Image

from shadowline.core.atomic_files import read_json, write_json
from shadowline.data.bit_depth import FULL_DEPTH, DecodedImage, to_rgb
from shadowline.data.images import Refusal, RefusedImage

_FILE = "decoding.json"


@dataclass(frozen=True)
class Decoding:
    """The bit depths of the classes with files of more than 8 bits, and whether the EXIF orientation is applied."""

    bit_depths: Mapping[str, int] = field(default_factory=dict)
    exif_orientation: bool = False

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Of a packaged model; packages without the file hold images of 8 bits, or of 16 in full."""
        path = directory / _FILE
        return cls(**read_json(path)) if path.is_file() else cls()

    def write(self, directory: Path) -> None:
        """Write decoding.json, unless it would say nothing."""
        if self != Decoding():
            write_json(directory / _FILE, asdict(self))

    def bit_depth_of(self, class_name: str) -> int:
        """A class without deep files of its own takes what all others have in common: one camera serves one line."""
        others = set(self.bit_depths.values())
        return self.bit_depths.get(class_name, others.pop() if len(others) == 1 else FULL_DEPTH)

    def to_rgb(self, picture: DecodedImage, class_name: str | None) -> Image.Image:
        """Raises RefusedImage for a picture of more than 8 bits without a class, where the classes' depths differ."""
        if class_name is not None:
            return to_rgb(picture, self.bit_depth_of(class_name))
        depths = sorted(set(self.bit_depths.values()))
        if len(depths) > 1 and not isinstance(picture, Image.Image):
            message = f"image with more than 8 bits: the classes' files have {depths} bits; name its class"
            raise RefusedImage(Refusal.UNSUPPORTED_MODE, message)
        return to_rgb(picture, depths[0] if depths else FULL_DEPTH)

    def facts_of(self, class_name: str) -> tuple[str, ...]:
        """What a class's fingerprint holds of it; nothing where it is as for 8 bit RGB."""
        depth = self.bit_depth_of(class_name)
        return (*([f"{depth} bit"] if depth != FULL_DEPTH else []), *(["upright"] if self.exif_orientation else []))
