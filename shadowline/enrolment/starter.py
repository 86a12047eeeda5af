"""Starter models, which inspect a new product until it has a bank: by words (WinCLIP), or a handful of normal images.

    trial = try_few_shot("bolt", normals, defects, encoder, params)
    build_few_shot("bolt", normals, encoder, params).save(directory, encoder_directory)

A trial never judges an image by references that it is among, and says whether its defects are real or injected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from shadowline.core.params import Params
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.perturbations import DEFECT_PREFIX, apply_view, view_seed
from shadowline.enrolment.policy import Trial
from shadowline.features.encoder import Encoder
from shadowline.models.detector import Detector
from shadowline.models.few_shot.detector import FewShot
from shadowline.models.few_shot.model import encode_references
from shadowline.models.winclip.detector import WinClip
from shadowline.models.winclip.prompts import choose
from shadowline.models.winclip.weights import load_clip

_MIN_HELD_OUT = 2  # normal images in each half of a trial

Images = Sequence[Image.Image]


def build_few_shot(
    class_name: str, normals: Images, encoder: Encoder, params: Params, *, bit_depth: int = FULL_DEPTH
) -> FewShot:
    """A model of the first `enrolment.few_shot_images` normals; `bit_depth`: that they were opened with."""
    chosen = normals[: params.enrolment.few_shot_images]
    references = encode_references(class_name, chosen, encoder, params.few_shot.views)
    promise = params.promise(class_name)
    return FewShot.fit(class_name, references, encoder, params.few_shot, promise, bit_depth=bit_depth)


def try_few_shot(class_name: str, normals: Images, defects: Images, encoder: Encoder, params: Params) -> Trial:
    """Judge each half of the normals by the other half; the mean of the two AUROCs."""
    chosen = normals[: params.enrolment.few_shot_images]
    halves = chosen[::2], chosen[1::2]
    if len(halves[1]) < _MIN_HELD_OUT:
        return Trial(None, len(chosen), len(defects), injected=not defects)
    aurocs, num_anomalous = [], 0
    for references, held_out in (halves, halves[::-1]):
        shown = defects or inject_defects(class_name, held_out, params)
        detector = build_few_shot(class_name, references, encoder, params)
        auroc, num_shown = _separation(detector, held_out, shown)
        aurocs.append(auroc)
        num_anomalous += num_shown
    return Trial(float(np.mean(aurocs)), len(chosen), len(defects) or num_anomalous, injected=not defects)


def build_zero_shot(class_name: str, params: Params, root: Path, *, bit_depth: int = FULL_DEPTH) -> WinClip:
    """A model made of words alone. Raises ValueError that names missing weights; there is no fallback for them."""
    prompts = choose(root / params.zero_shot.prompts, class_name, params.zero_shot.prompt_set)
    return WinClip.from_words(
        class_name, prompts, load_clip(params.zero_shot, root), params.zero_shot, bit_depth=bit_depth
    )


def try_zero_shot(detector: WinClip, normals: Images, defects: Images, params: Params) -> Trial:
    """Judge all normals at once: a model made of words has no references among them."""
    chosen = normals[: params.enrolment.few_shot_images]
    if len(chosen) < _MIN_HELD_OUT:
        return Trial(None, len(chosen), len(defects), injected=not defects)
    shown = defects or inject_defects(detector.class_name, chosen, params)
    auroc, num_shown = _separation(detector, chosen, shown)
    return Trial(auroc, len(chosen), num_shown, injected=not defects)


def inject_defects(class_name: str, normals: Images, params: Params) -> Iterator[Image.Image]:
    """Every kind of injected defect in every image, seeded by class and place."""
    kinds = [DEFECT_PREFIX + kind for kind in params.calibration.injected]
    return (
        apply_view(image, kind, view_seed(params.seed, f"{class_name}:{number}", kind)).image
        for number, image in enumerate(normals)
        for kind in kinds
    )


def _separation(detector: Detector, normals: Images, anomalous: Iterable[Image.Image]) -> tuple[float, int]:
    """The AUROC, and the number of anomalous images; each image is forgotten when it has its score."""
    good, bad = (
        np.array([detector.score([image])[0] for image in images], dtype=np.float64) for images in (normals, anomalous)
    )
    return float(roc_auc_score([0] * len(good) + [1] * len(bad), np.concatenate([good, bad]))), len(bad)
