"""`shadowline stage evaluate --class C`: the test split, once, for one class; nothing is chosen here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.images import read_mask
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.evaluation.class_metrics import BankSize, ClassMetrics, Components, Decisions, ViewPracticality
from shadowline.evaluation.metrics import (
    PixelMetrics,
    auroc,
    bootstrap,
    flip_share,
    image_metrics,
    pixel_metrics,
    practicality,
)
from shadowline.features.cache import FeatureKey
from shadowline.features.keys import robustness_keys
from shadowline.models.calibration import Calibration
from shadowline.models.calibration_file import load_calibration
from shadowline.models.class_maps import ClassMaps

Array = npt.NDArray[np.float64]

_COMPONENT_COLUMNS = {
    "fused": "score",
    "bank": "bank_score",
    "reconstruction": "reconstruction_score",
    "legacy": "legacy_score",
}


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> ClassMetrics:
    """Write metrics.json, scores.parquet and maps.safetensors of the class; returns the metrics."""
    manifest = read_manifest([layout.manifest(class_name)])
    test = manifest[manifest["split"] == Split.TEST].sort_values("image_id").reset_index(drop=True)
    calibration = load_calibration(class_name, layout)
    maps = ClassMaps(class_name, layout)
    raw = maps.of([FeatureKey(image_id) for image_id in test["image_id"]])
    fused = calibration.fuse(raw)
    scores = _score_table(class_name, test, raw, calibration, layout)
    anomalous = (scores["label"] == Label.ANOMALOUS).to_numpy()
    metrics = ClassMetrics(
        class_name=calibration.class_name,
        num_test_normal=int((~anomalous).sum()),
        num_test_anomalous=int(anomalous.sum()),
        image=image_metrics(scores["score"].to_numpy(), anomalous, **_sampling(params)),
        components=Components(
            **{
                part: bootstrap(auroc, scores[column].to_numpy(), anomalous, **_sampling(params))
                for part, column in _COMPONENT_COLUMNS.items()
            }
        ),
        decisions=_decisions(scores, calibration),
        bank=BankSize(maps.bank.storage, maps.bank.num_bytes, maps.bank.exact_num_bytes),
        pixel=_pixel_section(test, fused, params, layout),
        practicality=_practicality(manifest, scores, maps, calibration, params),
    )
    folder = layout.evaluation(class_name)
    metrics.write(layout.metrics(class_name))
    with replace_file(folder / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    with replace_file(folder / "maps.safetensors") as temporary:
        save_file({"maps": torch.from_numpy(fused).half()}, temporary)
    return metrics


def _score_table(
    class_name: str, test: pd.DataFrame, raw_BMP: Array, calibration: Calibration, layout: Layout
) -> pd.DataFrame:
    scores = test[["image_id", "path", "label", "defect_type", "mask_path"]].copy()
    scores["score"] = calibration.score_raw(raw_BMP)
    scores["threshold"] = calibration.threshold
    scores["decision"] = np.where(scores["score"] > calibration.threshold, Label.ANOMALOUS, Label.NORMAL)
    for name, recipe in calibration.alone.items():
        scores[f"{name}_score"] = calibration.score_raw(raw_BMP, recipe)
    legacy = pd.read_parquet(layout.legacy_scores(class_name)).set_index("image_id")["score"]
    scores["legacy_score"] = scores["image_id"].map(legacy)
    return scores


def _decisions(scores: pd.DataFrame, calibration: Calibration) -> Decisions:
    anomalous = (scores["label"] == Label.ANOMALOUS).to_numpy()
    flagged = (scores["decision"] == Label.ANOMALOUS).to_numpy()
    return Decisions(
        threshold=calibration.threshold,
        target_fpr=calibration.target_fpr,
        promised_fpr=calibration.promised_fpr,
        false_alarms=int((flagged & ~anomalous).sum()),
        misses=int((~flagged & anomalous).sum()),
        fpr=float(flagged[~anomalous].mean()),
        fnr=float((~flagged)[anomalous].mean()),
    )


def _pixel_section(test: pd.DataFrame, fused_BHW: Array, params: Params, layout: Layout) -> PixelMetrics | None:
    """Pixel metrics at the map's own resolution, or None for a class without masks that can be seen there."""
    if not (test["mask_path"] != "").any():
        return None
    is_known = ((test["label"] == Label.NORMAL) | (test["mask_path"] != "")).to_numpy()
    size = (fused_BHW.shape[2], fused_BHW.shape[1])
    masks = np.stack([_small_mask(path, size, params, layout) for path in test.loc[is_known, "mask_path"]])
    if not masks.any():
        return None
    return pixel_metrics(fused_BHW[is_known], masks, **_sampling(params))


def _small_mask(path: str, size: tuple[int, int], params: Params, layout: Layout) -> npt.NDArray[np.bool_]:
    if not path:
        return np.zeros(size[::-1], dtype=bool)
    bounds = params.data
    mask_HW = read_mask(layout.root / path, bounds)
    mask = Image.fromarray(mask_HW.astype(np.uint8) * 255)
    return np.asarray(mask.resize(size, Image.Resampling.BOX)) >= 128


def _practicality(
    manifest: pd.DataFrame, scores: pd.DataFrame, maps: ClassMaps, calibration: Calibration, params: Params
) -> ViewPracticality:
    anomalous = (scores["label"] == Label.ANOMALOUS).to_numpy()
    decided = dict(zip(scores["image_id"], scores["decision"] == Label.ANOMALOUS, strict=True))
    flips = {}
    for view, keys in robustness_keys(manifest, params).items():
        under_view = calibration.score_raw(maps.of(keys, calibration.recipe)) > calibration.threshold
        flips[view] = flip_share([decided[key.image_id] for key in keys], under_view)
    shares = list(flips.values())
    measured = practicality(scores["score"].to_numpy(), anomalous)
    return ViewPracticality(**asdict(measured), flips=flips, flip_share=float(np.mean(shares)) if shares else None)


class _Sampling(TypedDict):
    resamples: int
    confidence: float
    seed: int


def _sampling(params: Params) -> _Sampling:
    """The resampling of every interval: all use the same resamples."""
    sample = params.evaluation
    return _Sampling(resamples=sample.bootstrap, confidence=sample.confidence, seed=params.seed)
