"""The images that the report shows of a class, each beside a copy under its heat map, as small data URIs.

Mistakes are shown from the gravest on. Correct decisions are spread evenly from the surest to the closest call, so that
the choice does not favour the model.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageOps

from shadowline.data.bit_depth import viewable
from shadowline.data.images import Limits, RefusedImage, decode_image
from shadowline.data.labels import Label
from shadowline.inference.overlay import heatmap_overlay
from shadowline.report.evaluation_data import ClassContents

THUMBNAIL = 160  # pixels, longer side
MAX_PER_KIND = 6
BYTE_BUDGET = 6_000_000  # of all galleries together: the page stays below 8 MB
MAX_THUMBNAIL_BYTES = 9_000  # of one JPEG; base64 adds a third
BYTES_PER_SHOT = 2 * MAX_THUMBNAIL_BYTES * 4 // 3
QUALITIES = (85, 70, 50, 30, 15)  # of the JPEG: the first that fits

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GalleryImage:
    """One test image; `image` and `overlay` are data URIs, "" where there is no file or no map."""

    image: str
    overlay: str
    path: str
    name: str  # the user's own name of the file; the path where it is not known
    defect_type: str
    score: float | None
    ratio: float | None  # score / threshold, where both are positive


@dataclass(frozen=True)
class Group:
    title: str
    meaning: str
    total: int
    shots: tuple[GalleryImage, ...]


KINDS = (  # title, meaning, label, decision, mistakes first by: highest score, lowest score, or spread
    ("Missed defects", "defective, but passed", Label.ANOMALOUS, "normal", "lowest"),
    ("False alarms", "good, but stopped", Label.NORMAL, "anomalous", "highest"),
    ("Defects found", "defective, and stopped", Label.ANOMALOUS, "anomalous", "spread"),
    ("Good parts passed", "good, and passed", Label.NORMAL, "normal", "spread"),
)


def shots_per_kind(num_classes: int) -> int:
    """At most six; fewer for many classes, at least one."""
    return int(np.clip(BYTE_BUDGET // (BYTES_PER_SHOT * len(KINDS) * max(num_classes, 1)), 1, MAX_PER_KIND))


def gallery(contents: ClassContents, root: Path, limits: Limits, *, limit: int, coverage: float) -> tuple[Group, ...]:
    """All four kinds, also the empty ones. `coverage` as in `heatmap_overlay`."""
    level, high = display_range(contents)
    groups = []
    for title, meaning, label, decision, order in KINDS:
        matches = (contents.scores["label"] == label.value) & (contents.scores["decision"] == decision)
        rows = np.flatnonzero(matches.to_numpy())
        chosen = _choose(rows, contents.scores["score"].to_numpy(dtype=np.float64), order, limit)
        shots = tuple(_shot(contents, root, limits, int(row), level, high, coverage) for row in chosen)
        groups.append(Group(title, meaning, len(rows), shots))
    return tuple(groups)


def display_range(contents: ClassContents) -> tuple[float, float]:
    """Where colour starts and where it is brightest in this class's overlays, in the maps' robust sigmas.

    It starts at the 99.5 % quantile of the patches of good test parts. The class's threshold would be another unit: it
    bounds an image score, which pools the map and scales the result anew.
    """
    if contents.maps is None or not contents.maps.size:
        return 0.0, 1.0
    maps_NHW = np.nan_to_num(contents.maps)
    normal_NHW = maps_NHW[(contents.scores["label"] == Label.NORMAL.value).to_numpy()]
    level = float(np.quantile(normal_NHW if normal_NHW.size else maps_NHW, 0.995))
    peaks_N = maps_NHW.max(axis=(1, 2))
    return level, max(float(np.quantile(peaks_N, 0.9)), level + 1.0)


def _choose(
    rows: npt.NDArray[np.intp], scores: npt.NDArray[np.float64], order: str, limit: int
) -> npt.NDArray[np.intp]:
    ranked = rows[np.argsort(scores[rows], kind="stable")]
    if order == "lowest":
        return ranked[:limit]
    if order == "highest" or len(ranked) <= limit:
        return ranked[::-1][:limit]
    return ranked[::-1][np.unique(np.linspace(0, len(ranked) - 1, limit).round().astype(np.intp))]


def _shot(
    contents: ClassContents, root: Path, limits: Limits, row: int, level: float, high: float, coverage: float
) -> GalleryImage:
    record = contents.scores.iloc[row]
    image = _thumbnail(root / record["path"], limits)
    overlay = None
    if image is not None and contents.maps is not None:
        map_HW = np.nan_to_num(contents.maps[row])
        overlay = heatmap_overlay(image, map_HW, level, high=high, coverage=coverage, line_width=1.2)
    score, threshold = _finite(record["score"]), _finite(record["threshold"])
    ratio = score / threshold if score is not None and threshold is not None and min(score, threshold) > 0 else None
    path = record["path"]
    name = contents.source_names.get(path, path)
    return GalleryImage(data_uri(image), data_uri(overlay), path, name, record["defect_type"], score, ratio)


def _finite(value: float) -> float | None:
    return float(value) if pd.notna(value) and np.isfinite(value) else None


def _thumbnail(path: Path, limits: Limits) -> Image.Image | None:
    """RGB, its longer side THUMBNAIL pixels; None for a file that is missing or is no image."""
    try:
        picture = viewable(decode_image(path, limits))
    except RefusedImage:
        return None
    return ImageOps.contain(picture, (THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)


def data_uri(image: Image.Image | None, max_bytes: int = MAX_THUMBNAIL_BYTES) -> str:
    """A JPEG in base64, of the best quality that fits; "" for no image."""
    if image is None:
        return ""
    encoded = (_jpeg(image, quality) for quality in QUALITIES)
    fitting = next((data for data in encoded if len(data) <= max_bytes), None)
    return "data:image/jpeg;base64," + base64.b64encode(fitting or _jpeg(image, QUALITIES[-1])).decode("ascii")


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
