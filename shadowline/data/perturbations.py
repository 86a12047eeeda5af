"""Views of an image: declared augmentations, robustness perturbations, injected defects.

A view is a named, pure function of an image and a seed, so that a cached feature can be keyed by
(image_id, view) and come out the same on every machine.

    view = apply_view(rgb, "defect:cutpaste", seed=view_seed(7, image_id, "defect:cutpaste"))
    view.image, view.mask_HW

H, W pixels. Sources: CutPaste (Li et al., arXiv 2104.04015), Perlin-masked texture (DRÆM, Zavrtanik et al.,
arXiv 2108.07610).
"""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

Pixels = npt.NDArray[np.float64]  # (H, W, 3) in 0…255
Mask = npt.NDArray[np.bool_]  # (H, W)
Random = np.random.Generator

ORIGINAL = "original"
DEFECT_PREFIX = "defect:"


@dataclass(frozen=True)
class View:
    image: Image.Image  # RGB
    mask_HW: Mask | None = None  # where the defect is; only for injected defects


def view_seed(seed: int, image_id: str, view: str) -> int:
    """A seed that depends on the image's content, the view and the project's seed, and on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{image_id}:{view}".encode()).digest()[:8], "big")


def apply_view(rgb: Image.Image, name: str, seed: int) -> View:
    """The view `name` of `rgb`; raises ValueError naming the nearest view for an unknown name."""
    if name == ORIGINAL:
        return View(rgb)
    if name in _PLAIN:
        return View(_PLAIN[name](rgb, np.random.default_rng(seed)))
    kind = name.removeprefix(DEFECT_PREFIX)
    if name.startswith(DEFECT_PREFIX) and kind in _DEFECTS:
        pixels, mask = _DEFECTS[kind](np.asarray(rgb, dtype=np.float64), np.random.default_rng(seed))
        return View(_to_image(pixels), mask)
    names = [ORIGINAL, *_PLAIN, *(DEFECT_PREFIX + kind for kind in _DEFECTS)]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    raise ValueError(f"unknown view {name!r}{f'; did you mean {nearest[0]!r}?' if nearest else ''}; known: {names}")


def _to_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), "RGB")


# --- augmentations and robustness -------------------------------------------------------------------------------


def _scale_brightness(factor: float) -> Callable[[Image.Image, Random], Image.Image]:
    return lambda rgb, _: _to_image(np.asarray(rgb, dtype=np.float64) * factor)


def _noise(rgb: Image.Image, random: Random) -> Image.Image:
    """Gaussian noise with a standard deviation of 3 % of full scale."""
    pixels = np.asarray(rgb, dtype=np.float64)
    grey_noise = random.normal(0.0, 0.03 * 255, size=(*pixels.shape[:2], 1))
    return _to_image(pixels + grey_noise)


def _jpeg(rgb: Image.Image, _: Random) -> Image.Image:
    """JPEG at quality 50."""
    buffer = io.BytesIO()
    rgb.save(buffer, format="JPEG", quality=50)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _transposed(method: Image.Transpose) -> Callable[[Image.Image, Random], Image.Image]:
    return lambda rgb, _: rgb.transpose(method)


_PLAIN: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "hflip": _transposed(Image.Transpose.FLIP_LEFT_RIGHT),
    "vflip": _transposed(Image.Transpose.FLIP_TOP_BOTTOM),
    "rot90": _transposed(Image.Transpose.ROTATE_90),
    "rot180": _transposed(Image.Transpose.ROTATE_180),
    "rot270": _transposed(Image.Transpose.ROTATE_270),
    "brightness-30": _scale_brightness(0.7),
    "brightness+30": _scale_brightness(1.3),
    "noise": _noise,
    "jpeg": _jpeg,
}


# --- injected defects -------------------------------------------------------------------------------------------


def _cutpaste(pixels: Pixels, random: Random) -> tuple[Pixels, Mask]:
    """A small rectangle of the image, turned and slightly brightened or darkened, pasted somewhere else."""
    H, W = pixels.shape[:2]
    h, w = (max(4, int(side * random.uniform(0.04, 0.15))) for side in (H, W))
    patch = _window(pixels, random, h, w)[0].copy()
    patch = np.rot90(patch, 2) if random.random() < 0.5 else patch[::-1]
    patch = patch * random.uniform(0.8, 1.25)
    out, mask = pixels.copy(), np.zeros((H, W), dtype=bool)
    target, (top, left) = _window(out, random, h, w)
    target[:] = patch
    mask[top : top + h, left : left + w] = True
    return out, mask


def _window(pixels: Pixels, random: Random, h: int, w: int) -> tuple[Pixels, tuple[int, int]]:
    top = int(random.integers(0, pixels.shape[0] - h + 1))
    left = int(random.integers(0, pixels.shape[1] - w + 1))
    return pixels[top : top + h, left : left + w], (top, left)


def _perlin(pixels: Pixels, random: Random) -> tuple[Pixels, Mask]:
    """Blobs of smooth noise in which the image is blended with a scrambled copy of itself."""
    H, W = pixels.shape[:2]
    noise = ndimage.gaussian_filter(random.normal(size=(H, W)), sigma=random.uniform(0.03, 0.08) * min(H, W))
    mask = noise > np.quantile(noise, random.uniform(0.96, 0.995))
    texture = np.roll(pixels[::-1, ::-1], tuple(random.integers(0, side) for side in (H, W)), axis=(0, 1))
    texture = 255.0 - texture if random.random() < 0.5 else np.clip(texture * 1.6 - 40.0, 0, 255)
    strength = random.uniform(0.15, 0.6)
    soft = ndimage.gaussian_filter(mask.astype(np.float64), 1.0)[..., None] * strength
    return pixels * (1.0 - soft) + texture * soft, mask


def _scratch(pixels: Pixels, random: Random) -> tuple[Pixels, Mask]:
    """A thin, bent line, darker or brighter than what is below it."""
    H, W = pixels.shape[:2]
    angle, length = random.uniform(0, np.pi), random.uniform(0.08, 0.3) * min(H, W)
    start = random.uniform(0.25, 0.75, size=2) * (W, H)
    turns = angle + np.cumsum(random.normal(0, 0.2, size=8))
    points = start + np.cumsum(length / 8 * np.stack([np.cos(turns), np.sin(turns)], axis=1), axis=0)
    canvas = Image.new("L", (W, H), 0)
    width = max(1, round(random.uniform(0.003, 0.01) * min(H, W)))
    ImageDraw.Draw(canvas).line([tuple(point) for point in points], fill=255, width=width)
    soft = np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float64)[..., None] / 255.0
    shift = random.choice([-1.0, 1.0]) * random.uniform(15, 50)
    return np.clip(pixels + soft * shift, 0, 255), np.asarray(canvas) > 0


def _drift(pixels: Pixels, random: Random) -> tuple[Pixels, Mask]:
    """The whole surface changes its scale by up to a fifth, as when a process runs away."""
    H, W = pixels.shape[:2]
    zoom = random.uniform(1.04, 1.2)
    window, _ = _window(pixels, random, int(H / zoom), int(W / zoom))
    rgb = _to_image(window).resize((W, H), Image.Resampling.BICUBIC)
    return np.asarray(rgb, dtype=np.float64), np.ones((H, W), dtype=bool)


_DEFECTS: dict[str, Callable[[Pixels, Random], tuple[Pixels, Mask]]] = {
    "cutpaste": _cutpaste,
    "perlin": _perlin,
    "scratch": _scratch,
    "drift": _drift,
}
