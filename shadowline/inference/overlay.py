"""An anomaly map drawn over its image, with a contour at the threshold.

    heatmap_overlay(image, result.anomaly_map, threshold=4.0).save("overlay.png")

Below the threshold the image is untouched; above it a perceptually uniform colour (inferno, legible to colour-blind
readers and in grey print) grows more opaque with the map, inside a white contour with a dark edge.
"""

# H W pixels of the image · h w cells of the map · C colour channels

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float64]

INFERNO = Path(__file__).with_name("inferno.csv")  # by N. J. Smith and S. van der Walt, CC0; as in matplotlib
COLORMAP_START = 0.35  # the darker end of inferno would read as a shadow in the image
HALO_RGB = np.array([18.0, 18.0, 22.0])
CONTOUR_RGB = np.array([255.0, 255.0, 255.0])


def heatmap_overlay(
    image: Image.Image,
    map_HW: npt.NDArray[np.floating],
    threshold: float,
    *,
    high: float | None = None,
    opacity: float = 0.75,
    coverage: float = 1.0,
    line_width: float = 1.5,
) -> Image.Image:
    """`image` (RGB, any size) under its map, as a new RGB image of the same size.

    `map_HW` (h, w), finite, any resolution: it is upsampled (bicubic) to the image. `threshold` and `high` are in
    the map's unit; `high` is the value of the brightest colour (default: the map's maximum; give one value for a row
    of images that should be compared). `opacity` 0…1 is reached at `high`. `coverage` is the share of each side that
    the map covers, centred: `encoder.crop / encoder.resize`. `line_width` is the contour's, in pixels; 0 draws none.

    Raises ValueError for a map that is not two-dimensional, is empty or not finite, and for a `coverage` or
    `opacity` outside (0, 1].
    """
    _check(map_HW, threshold, coverage, opacity)
    left, top, width, height = _covered_box(image.size, coverage)
    field_HW = _upsample(map_HW, width, height)
    high = float(map_HW.max()) if high is None else high
    canvas_HWC = np.asarray(image.convert("RGB"), dtype=np.float64).copy()
    window = canvas_HWC[top : top + height, left : left + width]
    window[:] = _blend(window, *_colour(field_HW, threshold, high, opacity))
    if line_width > 0:
        distance_HW = _distance_to_level(field_HW, threshold)
        window[:] = _blend(window, HALO_RGB, 0.6 * _line(distance_HW, 2.2 * line_width))
        window[:] = _blend(window, CONTOUR_RGB, _line(distance_HW, line_width))
    return Image.fromarray(np.clip(np.rint(canvas_HWC), 0, 255).astype(np.uint8), "RGB")


def _check(map_HW: npt.NDArray[np.floating], threshold: float, coverage: float, opacity: float) -> None:
    if map_HW.ndim != 2 or not map_HW.size:
        raise ValueError(f"anomaly map: shape {map_HW.shape}, need (height, width), neither of them 0")
    if not np.isfinite(map_HW).all() or not np.isfinite(threshold):
        raise ValueError("anomaly map: the map or its threshold is not finite; check the features and the calibration")
    for name, value in (("coverage", coverage), ("opacity", opacity)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"anomaly map: {name} {value:g} is outside (0, 1]")


def _covered_box(size: tuple[int, int], coverage: float) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of the centred part that the map describes."""
    width, height = (max(1, round(side * coverage)) for side in size)
    return (size[0] - width) // 2, (size[1] - height) // 2, width, height


def _upsample(map_HW: npt.NDArray[np.floating], width: int, height: int) -> Array:
    small = Image.fromarray(np.asarray(map_HW, dtype=np.float32), "F")
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def _colour(field_HW: Array, threshold: float, high: float, opacity: float) -> tuple[Array, Array]:
    """RGB (H, W, C) 0…255 and opacity (H, W) of every pixel; opacity 0 below the threshold."""
    strength_HW = np.clip((field_HW - threshold) / max(high - threshold, 1e-9), 0.0, 1.0)
    colours_HWC = inferno(COLORMAP_START + (1.0 - COLORMAP_START) * strength_HW)
    alpha_HW = np.where(field_HW > threshold, opacity * (0.4 + 0.6 * strength_HW), 0.0)
    return colours_HWC * 255.0, alpha_HW


def inferno(values: Array) -> Array:
    """RGB in 0…1 (…, C) of values in 0…1 (…): the nearest lower of 256 colours, as matplotlib picks it."""
    table = _inferno_table()
    colours: Array = table[np.clip((values * len(table)).astype(int), 0, len(table) - 1)]
    return colours


@cache
def _inferno_table() -> Array:
    table: Array = np.loadtxt(INFERNO, delimiter=",", skiprows=1)
    return table


def _distance_to_level(field_HW: Array, level: float) -> Array:
    """First-order distance in pixels to the level set, |f − t| / |∇f|: smooth lines without tracing a contour."""
    slope_H = np.gradient(field_HW, axis=0) if field_HW.shape[0] > 1 else np.zeros_like(field_HW)
    slope_W = np.gradient(field_HW, axis=1) if field_HW.shape[1] > 1 else np.zeros_like(field_HW)
    return np.asarray(np.abs(field_HW - level) / np.maximum(np.hypot(slope_H, slope_W), 1e-9), dtype=np.float64)


def _line(distance_HW: Array, width: float) -> Array:
    """Coverage 0…1 of an antialiased line of `width` pixels around distance 0."""
    return np.clip(width / 2.0 + 0.5 - distance_HW, 0.0, 1.0)


def _blend(below: Array, above: Array, alpha_HW: Array) -> Array:
    return below + (above - below) * alpha_HW[..., None]
