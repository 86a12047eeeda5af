"""`shadowline stage calibrate --class C`: choose how a class is scored, and promise its false-alarm rate; val only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.manifest import Split, read_manifest
from shadowline.data.splits import halve
from shadowline.features.cache import Key
from shadowline.features.keys import defect_keys, ids_of
from shadowline.models.calibration import Calibration, CalibrationResult, calibrate
from shadowline.models.class_maps import ClassMaps


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> CalibrationResult:
    manifest = read_manifest([layout.manifest(class_name)])
    maps = ClassMaps(class_name, layout)
    selecting, calibrating = halve(ids_of(manifest, Split.VAL), params.seed)
    defects = defect_keys(manifest, params)
    result = calibrate(
        class_name,
        maps.of([Key(image_id) for image_id in selecting]),
        {kind: maps.of(keys) for kind, keys in defects.items()},
        maps.of([Key(image_id) for image_id in calibrating]),
        params.calibration_of(class_name),
    )
    write_json(layout.calibration(class_name), describe(result, tuple(defects)))
    return result


def describe(result: CalibrationResult, kinds: Sequence[str]) -> dict[str, Any]:
    """The calibration, and for the report what was tried and chosen; the inspector needs `calibration` alone."""
    calibration = result.calibration
    return {
        "class_name": calibration.class_name,
        "calibration": calibration.to_dict(),
        "weights": _by_name(calibration, calibration.recipe.weights),
        "pooling": _pooling([pool.share for pool in calibration.recipe.pools]),
        "threshold": calibration.threshold,
        "target_fpr": calibration.target_fpr,
        "num_selection": calibration.num_selecting,
        "num_calibration": calibration.num_calibrating,
        "injected_kinds": list(kinds),
        "candidates": [
            {
                "weights": _by_name(calibration, one.weights),
                "pooling": _pooling(one.pool_shares),
                "auroc": one.auroc,
                "separation": one.separation,
                "chosen": one.chosen,
            }
            for one in result.candidates
        ],
        "calibration_scores": list(result.calibrating_scores),
    }


def _by_name(calibration: Calibration, weights: Sequence[float]) -> dict[str, float]:
    return dict(zip(calibration.map_names, weights, strict=True))


def _pooling(shares: Sequence[float]) -> str:
    """Words for a pooling: `top 1 %`, `mean`, or `top 1 % or mean` where the larger wins."""
    return " or ".join("mean" if share == 1.0 else f"top {share:.0%}".replace("%", " %") for share in shares)
