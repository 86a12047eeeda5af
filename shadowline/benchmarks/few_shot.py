"""Quality of few-shot inspection, compared with the class's bank and the full model, on test.

    bench_few_shot(params, layout, progress, shots=(1, 2, 4, 8, 16), num_seeds=5, views=("hflip",))

References are drawn from train; the draws of one seed are nested, so that more shots are the same images and further
ones. Nothing is chosen on test. G groups · P patches · D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import FewShotParams, Params
from shadowline.core.progress import Progress
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.images import open_within
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import class_bit_depth, read_manifest
from shadowline.data.perturbations import ORIGINAL, apply_view
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.encoder import Encoder, load_encoder
from shadowline.features.keys import ids_of
from shadowline.models.few_shot.model import (
    Distance,
    FewShotReferences,
    Rule,
    image_score,
    leave_one_out,
    reference_distance,
    unit_patches,
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FewShotQuality:
    """One class with `shots` references, over all seeds."""

    class_name: str
    shots: int  # reference images
    aurocs: tuple[float, ...]  # one a seed, of images
    promised_fpr: float | None  # guaranteed by the threshold; None: no guarantee
    false_alarms: tuple[float, ...]  # one a seed, share of normal test images; none where there is no threshold
    misses: tuple[float, ...]  # likewise of anomalous ones


@dataclass(frozen=True)
class FewShotBaseline:
    """The bank and the full model of the class, on the same test images."""

    class_name: str
    bank_auroc: float  # of the bank alone
    full_auroc: float  # of decoder and bank
    num_train: int  # images behind both


@dataclass(frozen=True)
class FewShotBench:
    views: tuple[str, ...]  # of each reference, beside the image itself
    quality: tuple[FewShotQuality, ...]
    baselines: tuple[FewShotBaseline, ...]


def bench_few_shot(
    params: Params, layout: Layout, progress: Progress, *, shots: Sequence[int], num_seeds: int, views: Sequence[str]
) -> FewShotBench:
    """All classes of `params`; raises ValueError for an unknown view, or more shots than training images."""
    few = FewShotParams.model_validate({**params.few_shot.model_dump(), "views": list(views)})
    encoder = load_encoder(layout.encoder, pick_device())
    quality: list[FewShotQuality] = []
    baselines = []
    for name in sorted(params.classes):
        bench = _ClassBench(name, params, few, layout, encoder)
        baselines.append(bench.baseline)
        quality += bench.run(sorted(set(shots)), num_seeds, progress)
    return FewShotBench(few.views, tuple(quality), tuple(baselines))


class _ClassBench:
    """The images of one class: test features at length 1, and what references are drawn from."""

    def __init__(self, name: str, params: Params, few: FewShotParams, layout: Layout, encoder: Encoder) -> None:
        self._name, self._params, self._few, self._layout, self._encoder = name, params, few, layout, encoder
        self._features = FeatureFile(layout.features(name))
        manifest = read_manifest([layout.manifest(name)])
        self._paths = dict(zip(manifest["image_id"], manifest["path"], strict=True))
        self._bit_depth = class_bit_depth(manifest) or FULL_DEPTH
        self._train = ids_of(manifest, Split.TRAIN)
        self._encoded: dict[FeatureKey, Tensor] = {}  # views that the cache does not hold
        scores = _evaluated(name, layout)
        self._test = scores["image_id"].tolist()
        self._anomalous: Bools = (scores["label"] == Label.ANOMALOUS).to_numpy()
        bank, full = (roc_auc_score(self._anomalous, scores[column]) for column in ("bank_score", "score"))
        self.baseline = FewShotBaseline(name, float(bank), float(full), len(self._train))

    def run(self, shots: Sequence[int], num_seeds: int, progress: Progress) -> list[FewShotQuality]:
        if shots[-1] > len(self._train):
            raise ValueError(f"class '{self._name}': {shots[-1]} shots, train has {len(self._train)}; ask for fewer")
        draws = [self._draw(shots[-1], seed) for seed in range(num_seeds)]
        scores = np.empty((num_seeds, len(self._test), len(shots)))
        with progress.task(f"few-shot {self._name}", total=scores[..., 0].size) as task:
            for row, image_id in enumerate(self._test):
                query_GPD = unit_patches(self._patches(FeatureKey(image_id)))
                for seed, references in enumerate(draws):
                    scores[seed, row] = grown_scores(query_GPD, references, shots, self._few)
                    task.advance()
        return [self._judge(count, draws, scores[:, :, column]) for column, count in enumerate(shots)]

    def _draw(self, count: int, seed: int) -> FewShotReferences:
        """The first `count` of the training images in the order of `seed`, with their views."""
        order = np.random.default_rng(seed).permutation(len(self._train))[:count]
        views = (ORIGINAL, *self._few.views)
        rows = [torch.stack([self._patches(FeatureKey(self._train[i], view)) for view in views]) for i in order]
        return FewShotReferences(self._name, torch.stack(rows), views, self._features.fingerprint)

    def _judge(self, count: int, draws: Sequence[FewShotReferences], scores: Floats) -> FewShotQuality:
        """Scores are (seeds, test images)."""
        rules = [self._rule(draw, count) for draw in draws] if count > 1 or self._few.views else []
        flagged = scores[: len(rules)] > np.array([[rule.threshold] for rule in rules]).reshape(-1, 1)
        return FewShotQuality(
            class_name=self._name,
            shots=count,
            aurocs=tuple(float(roc_auc_score(self._anomalous, score)) for score in scores),
            promised_fpr=rules[0].promised_fpr if rules else None,
            false_alarms=tuple(flagged[:, ~self._anomalous].mean(axis=1).tolist()),
            misses=tuple((~flagged[:, self._anomalous]).mean(axis=1).tolist()),
        )

    def _rule(self, references: FewShotReferences, count: int) -> Rule:
        first = replace(references, fused_NVGPD=references.fused_NVGPD[:count])
        target = self._params.promise(self._name)
        return leave_one_out(first, Distance(self._few.distance), self._few.top_share, target)

    def _patches(self, key: FeatureKey) -> Tensor:
        """(G, P, D) float16, from the cache where it holds the key."""
        if key in self._features:
            return self._features.fetch([key])[0, :, self._features.num_prefix :].half()
        if key not in self._encoded:
            picture = apply_view(self._open(key.image_id), key.view, seed=0).image
            self._encoded[key] = self._encoder.encode([picture], padded=False)[0, :, self._encoder.num_prefix :].half()
        return self._encoded[key]

    def _open(self, image_id: str) -> Image.Image:
        return open_within(self._layout.root / self._paths[image_id], self._params.data, self._bit_depth)


def grown_scores(
    query_GPD: Tensor, references: FewShotReferences, shots: Sequence[int], few: FewShotParams
) -> list[float]:
    """The image's score with the first n references, for each n of `shots`, rising: one pass over them all."""
    scores, distance = [], Distance(few.distance)
    nearest_GP = torch.full(query_GPD.shape[:2], torch.inf)
    for count, views_VGPD in enumerate(references.unit_NVGPD, start=1):
        pairs = (reference_distance(query_GPD, view_GPD, distance) for view_GPD in views_VGPD)
        nearest_GP = reduce(torch.minimum, pairs, nearest_GP)
        if count in shots:
            scores.append(image_score(nearest_GP.double().mean(dim=0).numpy(), few.top_share))
    return scores


def _evaluated(name: str, layout: Layout) -> pd.DataFrame:
    """The scores of the last evaluation: image_id, label, bank_score, score."""
    path = layout.evaluation(name) / "scores.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no evaluation to stand beside; run `dvc repro evaluate@{name}`")
    return pd.read_parquet(path)
