"""Which features each stage needs of a class: (image, view) keys, derived from its manifest and params.yaml."""

from __future__ import annotations

import pandas as pd

from shadowline.core.params import Params
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import class_bit_depth
from shadowline.data.perturbations import DEFECT_PREFIX
from shadowline.data.splits import halve
from shadowline.features.cache import FeatureKey

KNOWN_DEFECTS = "known defects"


def decoding_of(manifest: pd.DataFrame, params: Params) -> str:
    """What of the decoding of a class's files is not as for 8 bit RGB; "" where nothing is: part of a feature file."""
    depth = class_bit_depth(manifest)
    return ", ".join([*([f"{depth} bit"] if depth else []), *(["upright"] if params.data.exif_orientation else [])])


def wanted_keys(class_name: str, manifest: pd.DataFrame, params: Params) -> list[FeatureKey]:
    """Every (image, view) of a class that a later stage reads; the stream split is encoded when it is inspected."""
    used = manifest[manifest["split"] != Split.STREAM]
    return [
        *(FeatureKey(image_id) for image_id in used["image_id"]),
        *(key for key in train_keys(class_name, manifest, params) if key.view != "original"),
        *(key for keys in defect_keys(manifest, params).values() for key in keys),
        *(key for keys in robustness_keys(manifest, params).values() for key in keys),
    ]


def ids_of(manifest: pd.DataFrame, split: Split) -> list[str]:
    return sorted(manifest.loc[manifest["split"] == split, "image_id"])


def train_keys(class_name: str, manifest: pd.DataFrame, params: Params) -> list[FeatureKey]:
    """Training images as they are, then in each view that the class declares."""
    views = ("original", *params.classes[class_name].augment)
    return [FeatureKey(image_id, view) for view in views for image_id in ids_of(manifest, Split.TRAIN)]


def defect_keys(manifest: pd.DataFrame, params: Params) -> dict[str, list[FeatureKey]]:
    """What selection judges recipes by: known defects where there are any, injected ones otherwise."""
    known_defects = ids_of(manifest, Split.TUNE)
    return (
        {KNOWN_DEFECTS: [FeatureKey(image_id) for image_id in known_defects]}
        if known_defects
        else injected_keys(manifest, params)
    )


def injected_keys(manifest: pd.DataFrame, params: Params) -> dict[str, list[FeatureKey]]:
    """Per kind of injected defect, the first images of the selecting half of val that carry it."""
    selecting, _ = halve(ids_of(manifest, Split.VAL), params.seed)
    chosen = selecting[: params.calibration.injected_images]
    kinds = params.calibration.injected
    return {kind: [FeatureKey(image_id, DEFECT_PREFIX + kind) for image_id in chosen] for kind in kinds}


def robustness_keys(manifest: pd.DataFrame, params: Params) -> dict[str, list[FeatureKey]]:
    """Per robustness view, the same test images: normal and anomalous in equal number, as far as they go."""
    test = manifest[manifest["split"] == Split.TEST].sort_values("image_id")
    half = params.evaluation.robustness_images // 2
    chosen: list[str] = []
    for label in (Label.NORMAL, Label.ANOMALOUS):
        chosen += list(test.loc[test["label"] == label, "image_id"][:half])
    return {view: [FeatureKey(image_id, view) for image_id in chosen] for view in params.evaluation.robustness_views}
