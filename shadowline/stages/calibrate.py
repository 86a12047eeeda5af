"""`shadowline stage calibrate --class C`: choose a class's recipe, and its threshold for `target_fpr`; val only."""

from __future__ import annotations

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Split
from shadowline.data.manifest import read_manifest
from shadowline.data.splits import halve
from shadowline.features.cache import FeatureKey
from shadowline.features.keys import defect_keys, ids_of
from shadowline.models.calibration import CalibrationResult, calibrate
from shadowline.models.calibration_file import CalibrationFile
from shadowline.models.class_maps import ClassMaps


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> CalibrationResult:
    manifest = read_manifest([layout.manifest(class_name)])
    maps = ClassMaps(class_name, layout)
    selecting, calibrating = halve(ids_of(manifest, Split.VAL), params.seed)
    defects = defect_keys(manifest, params)
    result = calibrate(
        class_name,
        maps.of([FeatureKey(image_id) for image_id in selecting]),
        {kind: maps.of(keys) for kind, keys in defects.items()},
        maps.of([FeatureKey(image_id) for image_id in calibrating]),
        params.calibration_of(class_name),
    )
    CalibrationFile.of(result, tuple(defects)).write(layout.calibration(class_name))
    return result
