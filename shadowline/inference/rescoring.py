"""Score recorded images with both models again for the gallery: thumbnails, heat maps, and the range of their colours.

    looks = look_at(pairs, find_models(state.of("bolt"), records), params.data, task)

A model is used only if it is still the model that judged, and a file only if it is still the image; otherwise the
reason takes its place. The caller says how a model is loaded: one that is deleted may come out of its archive.
"""

# h w cells of a map

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageOps
from safetensors import SafetensorError

from shadowline.core.params import DataParams
from shadowline.core.progress import Task
from shadowline.core.secrets import mask
from shadowline.data.bit_depth import DecodedImage, to_rgb, viewable
from shadowline.data.images import decode_image, read_bounded
from shadowline.data.manifest import content_id
from shadowline.models.detector import Detector
from shadowline.models.inspector_detector import CandidateDetector
from shadowline.models.loader import load_detector
from shadowline.records.model_locations import ModelLocation
from shadowline.records.pair import Side
from shadowline.records.stores import Records
from shadowline.rollout.state import ClassState

THUMBNAIL = 256  # pixels, longer side
QUANTILE = 0.995  # of the patches of good parts stay without colour
SIDES: tuple[Side, Side] = ("candidate", "legacy")

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RescoringModel:
    """One of the two models; `problem` says why it cannot draw a heat map, else it is empty."""

    fingerprint: str
    version: str
    detector: Detector | None
    problem: str
    coverage: float  # share of each side of an image that its maps cover, centred


@dataclass(frozen=True)
class ModelView:
    """One model's heat map of one image; None where `problem` says why there is none."""

    map_HW: Map | None
    problem: str


@dataclass(frozen=True)
class RescoredImage:
    """A thumbnail of one image, and its heat maps by both models."""

    image: Image.Image | None
    problem: str
    sights: dict[Side, ModelView]


Load = Callable[[ModelLocation], Detector]  # raises ValueError or OSError


def load_place(place: ModelLocation) -> Detector:
    return load_detector(place.location, place.class_name)


def find_models(cls: ClassState, records: Records, load: Load = load_place) -> dict[Side, RescoringModel]:
    return {
        "candidate": _find_model(cls.candidate, records, load),
        "legacy": _find_model(cls.legacy, records, load),
    }


def _find_model(fingerprint: str, records: Records, load: Load) -> RescoringModel:
    version = "unknown"
    try:
        place = records.locations.model(fingerprint)
        version = place.version
        detector = load(place)
        if detector.fingerprint != fingerprint:
            raise ValueError(f"{place.location} holds another model by now")
    except (ValueError, OSError, SafetensorError) as error:
        return RescoringModel(fingerprint, version, None, f"the model cannot be loaded: {mask(str(error))}", 1.0)
    return RescoringModel(fingerprint, version, detector, "", _coverage(detector))


def _coverage(detector: Detector) -> float:
    if not isinstance(detector, CandidateDetector):
        return 1.0
    config = detector.inspector.encoder.config
    return config.crop / config.resize


def look_at(
    pairs: pd.DataFrame, models: dict[Side, RescoringModel], limits: DataParams, task: Task
) -> list[RescoredImage]:
    looks = []
    for row in pairs.to_dict("records"):
        looks.append(_look(row["image_path"], row["image_id"], models, limits))
        task.advance()
    return looks


def _look(path: str, image_id: str, models: dict[Side, RescoringModel], limits: DataParams) -> RescoredImage:
    try:
        image = _open(path, image_id, limits)
    except ValueError as error:  # RefusedImage is a ValueError
        return RescoredImage(None, str(error), {side: ModelView(None, "no image to look at") for side in SIDES})
    small = ImageOps.contain(viewable(image), (THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return RescoredImage(small, "", {side: _sight(models[side], image) for side in SIDES})


def _open(path: str, image_id: str, limits: DataParams) -> DecodedImage:
    """Raises ValueError for an image that was not kept or is another one now, RefusedImage as `decode_image` does."""
    if not path:
        raise ValueError("the image was not kept")
    data = read_bounded(Path(path), limits.max_file_bytes + 1)
    if content_id(data) != image_id:
        raise ValueError(f"{path} is another image by now")
    return decode_image(data, limits, name=Path(path).name)


def _sight(model: RescoringModel, image: DecodedImage) -> ModelView:
    if model.detector is None:
        return ModelView(None, "the model cannot be loaded; see Models, below")
    try:
        rgb = to_rgb(image, model.detector.bit_depth)
        map_HW = np.asarray(model.detector.maps([rgb])[0], dtype=np.float32)
    except ValueError as error:
        return ModelView(None, str(error))
    return ModelView(map_HW, "") if np.isfinite(map_HW).all() else ModelView(None, "the heat map is not finite")


def maps_of(looks: Sequence[RescoredImage], side: Side) -> list[Map]:
    return [sight.map_HW for look in looks if (sight := look.sights[side]).map_HW is not None]


def colour_range(reference: Sequence[Map], shown: Sequence[Map]) -> tuple[float, float]:
    """Where one model's overlays begin to colour, and where they are brightest, in the unit of its maps.

    Colour begins above almost every patch of the reference: images that are good as far as is known.
    """
    if not reference or not shown:
        return 0.0, 1.0
    patches = np.concatenate([map_HW.ravel() for map_HW in reference])
    level, middle = float(np.quantile(patches, QUANTILE)), float(np.median(patches))
    peaks = [float(map_HW.max()) for map_HW in shown]
    return level, max(float(np.quantile(peaks, 0.9)), 2 * level - middle)
