"""From raw maps to a decision: per class, chosen and calibrated on val only.

    raw_BMP = raw_maps(fused_BGTD, decoder, bank, num_prefix)    # reconstruction map, then one bank map per group
    calibration = calibrate(class_name, selecting_BMP, defects, calibrating_BMP, params).calibration
    score_B = calibration.score(calibration.fuse(raw_BMP))

B images · M maps · P patches · H, W patches per side. Each map becomes a robust z-score of the class's own normals,
maps are fused by weights, the fused map is smoothed and pooled, and each pooled value is a robust z-score again.
A score is therefore in robust sigmas above a typical normal image: unbounded, and comparable between classes.

Val is halved by hash: one half selects weights and pooling by how well they find defects (known ones, or injected
ones where none are known), the other half calibrates the threshold, so that the conformal guarantee holds in spite of
the selection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor

from shadowline.core.conformal import conformal_threshold, promised_rate
from shadowline.core.params import CalibrationParams
from shadowline.core.robust import robust_sigma
from shadowline.models.dinomaly.model import Decoder, reconstruction_map
from shadowline.models.gaussian_bank.bank import Bank

Array = npt.NDArray[np.float64]

_MAP_QUANTILE = 0.995
_SCORES_BATCH = 16  # images per decoder pass


@torch.inference_mode()
def raw_maps(fused_BGTD: Tensor, decoder: Decoder | None, bank: Bank, num_prefix: int) -> Array:
    """The maps of one class before any scaling: (B, 1 + G, P), reconstruction first, then the bank's groups."""
    maps = []
    for fused in fused_BGTD.split(_SCORES_BATCH):
        distance = bank.distance(fused[:, :, num_prefix:])
        rebuilt = torch.zeros_like(distance[:, 0])
        if decoder is not None:  # None where the reconstruction map has no weight, which saves its time
            rebuilt = reconstruction_map(fused, decoder(fused), num_prefix)
        maps.append(torch.cat([rebuilt[:, None], distance], dim=1))
    return torch.cat(maps).double().numpy()


@dataclass(frozen=True)
class Scale:
    """Median and robust sigma of normals."""

    median: float
    sigma: float

    @classmethod
    def of(cls, values: Array, subject: str) -> Scale:
        median = float(np.median(values))
        sigma = robust_sigma(values)
        if not np.isfinite(sigma) or sigma <= 0.0:
            raise ValueError(
                f"{subject}: normals have a robust sigma of {sigma}; the map is saturated, check the model"
            )
        return cls(median, sigma)

    def apply(self, values: Array) -> Array:
        return (values - self.median) / self.sigma


@dataclass(frozen=True)
class Pool:
    """Mean of the top share of the fused map, scaled by normals."""

    share: float
    scale: Scale


@dataclass(frozen=True)
class Recipe:
    """How raw maps become one score: what is chosen per class."""

    weights: tuple[float, ...]  # per map, summing to 1
    pools: tuple[Pool, ...]  # the score is the largest of them


@dataclass(frozen=True)
class RecipeCandidate:
    """One recipe that was tried on the selecting half, and how well it did there."""

    weights: tuple[float, ...]
    pool_shares: tuple[float, ...]
    auroc: float  # selecting normals against defects, mean over kinds
    separation: float  # median of the defects in robust sigmas of the normals, mean over kinds
    chosen: bool = False


@dataclass(frozen=True)
class Calibration:
    """What turns raw maps of one class into a score and a decision."""

    class_name: str
    map_names: tuple[str, ...]
    map_scales: tuple[Scale, ...]
    smoothing_sigma: float  # patches
    recipe: Recipe
    alone: dict[str, Recipe]  # the best recipe of the reconstruction map alone and of the bank alone: for comparison
    threshold: float  # robust sigmas; a score above it is anomalous
    map_level: float  # robust sigmas; 99.5 % of the patches of normals lie below: where a heat map begins to colour
    target_fpr: float  # the false-alarm rate that was asked for
    num_selecting: int
    num_calibrating: int

    @property
    def promised_fpr(self) -> float:
        """The guaranteed false-alarm rate: the target, or the least that the calibrating images allow."""
        return promised_rate(self.target_fpr, self.num_calibrating)

    def fuse(self, raw_BMP: Array, recipe: Recipe | None = None) -> Array:
        """Raw maps → fused, smoothed map in robust sigmas: (B, H, W)."""
        return _fuse(raw_BMP, self.map_scales, (recipe or self.recipe).weights, self.smoothing_sigma)

    def score(self, fused_BHW: Array, recipe: Recipe | None = None) -> Array:
        """Image scores in robust sigmas: (B,). The largest over the recipe's pools."""
        return _largest_pool(fused_BHW, (recipe or self.recipe).pools)

    def score_raw(self, raw_BMP: Array, recipe: Recipe | None = None) -> Array:
        return self.score(self.fuse(raw_BMP, recipe), recipe)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Calibration:
        fields = dict(raw)
        fields["map_names"] = tuple(raw["map_names"])
        fields["map_scales"] = tuple(Scale(**scale) for scale in raw["map_scales"])
        fields["recipe"] = _recipe(raw["recipe"])
        fields["alone"] = {name: _recipe(recipe) for name, recipe in raw["alone"].items()}
        return cls(**fields)


def _recipe(raw: Mapping[str, Any]) -> Recipe:
    pools = tuple(Pool(share=pool["share"], scale=Scale(**pool["scale"])) for pool in raw["pools"])
    return Recipe(weights=tuple(raw["weights"]), pools=pools)


def pooled(fused_BHW: Array, share: float) -> Array:
    """Mean of the top `share` of each map, of at least one patch: (B,)."""
    flat = np.sort(fused_BHW.reshape(len(fused_BHW), -1), axis=1)
    top = max(1, round(flat.shape[1] * share))
    return np.asarray(flat[:, -top:].mean(axis=1))


def _largest_pool(fused_BHW: Array, pools: Sequence[Pool]) -> Array:
    """The image score: the largest of the scaled pools, (B,)."""
    return np.asarray(np.max([pool.scale.apply(pooled(fused_BHW, pool.share)) for pool in pools], axis=0))


def _fuse(raw_BMP: Array, scales: Sequence[Scale], weights: Sequence[float], sigma: float) -> Array:
    B, _, P = raw_BMP.shape
    side = math.isqrt(P)
    used = [(index, weight) for index, weight in enumerate(weights) if weight > 0.0]
    fused = sum((weight * scales[index].apply(raw_BMP[:, index]) for index, weight in used), np.zeros((B, P)))
    return np.asarray(ndimage.gaussian_filter(fused.reshape(B, side, side), sigma=(0.0, sigma, sigma)))


# --- choosing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CalibrationResult:
    calibration: Calibration
    candidates: tuple[RecipeCandidate, ...]  # best first
    calibrating_scores: tuple[float, ...]


def calibrate(
    class_name: str,
    selecting_BMP: Array,
    defects: Mapping[str, Array],
    calibrating_BMP: Array,
    params: CalibrationParams,
) -> CalibrationResult:
    """Choose a class's recipe on the selecting half and its threshold on the other.

    `defects` maps a kind of defect, known or injected, to the raw maps of images that carry it. Where the calibrating
    images are too few for `target_fpr`, the threshold keeps the least rate that they allow (`promised_fpr`). Raises
    ValueError for too few images and for saturated maps.
    """
    if min(len(selecting_BMP), len(calibrating_BMP)) < 2 or not defects:
        raise ValueError(
            f"class {class_name!r}: {len(selecting_BMP)} selecting and {len(calibrating_BMP)} calibrating images, "
            "need 2 of each; add normal images to val"
        )
    num_maps = selecting_BMP.shape[1]
    names = ("reconstruction", *(f"bank_{group}" for group in range(num_maps - 1)))
    scales = tuple(Scale.of(selecting_BMP[:, m], f"class {class_name!r}, {names[m]}") for m in range(num_maps))
    tried: list[tuple[RecipeCandidate, Recipe]] = []
    for weights in candidate_weights(num_maps, params.bank_weights):
        tried += _try_weights(class_name, weights, selecting_BMP, defects, scales, params)
    tried = rank_recipes(tried, params.auroc_tie)
    alone = {
        "reconstruction": rank_recipes([pair for pair in tried if pair[0].weights[0] == 1.0], params.auroc_tie)[0][1],
        "bank": rank_recipes([pair for pair in tried if pair[0].weights[0] == 0.0], params.auroc_tie)[0][1],
    }
    draft = Calibration(
        class_name=class_name,
        map_names=names,
        map_scales=scales,
        smoothing_sigma=params.smoothing_sigma,
        recipe=tried[0][1],
        alone=alone,
        threshold=math.inf,
        map_level=math.inf,
        target_fpr=params.target_fpr,
        num_selecting=len(selecting_BMP),
        num_calibrating=len(calibrating_BMP),
    )
    fused = draft.fuse(calibrating_BMP)
    scores = draft.score(fused)
    threshold = conformal_threshold(scores, draft.promised_fpr, subject=f"class {class_name!r}")
    candidates = [replace(candidate, chosen=index == 0) for index, (candidate, _) in enumerate(tried)]
    level = float(np.quantile(fused, _MAP_QUANTILE))
    return CalibrationResult(
        replace(draft, threshold=threshold, map_level=level), tuple(candidates), tuple(np.sort(scores).tolist())
    )


def rank_recipes(tried: list[tuple[RecipeCandidate, Recipe]], tie: float) -> list[tuple[RecipeCandidate, Recipe]]:
    """Best first: within `tie` of the best AUROC the fewest maps lead, then the best separated; the rest go by AUROC.

    This is the one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984, §3.4.3): a few
    dozen images cannot tell AUROCs a hundredth apart, and the simpler recipe depends on less.
    """
    best = max(candidate.auroc for candidate, _ in tried)

    def place(candidate: RecipeCandidate) -> tuple[bool, float, float]:
        if candidate.auroc < best - tie:
            return True, -candidate.auroc, 0.0
        return False, float(sum(weight > 0.0 for weight in candidate.weights)), -candidate.separation

    return sorted(tried, key=lambda pair: place(pair[0]))


def candidate_weights(num_maps: int, bank_weights: Sequence[float]) -> list[tuple[float, ...]]:
    """Weights per map, summing to 1: every bank weight, with the bank's share on one group or evenly on all."""
    groups = num_maps - 1
    mixes = [tuple(float(group == active) for group in range(groups)) for active in range(groups)]
    mixes += [tuple(1.0 / groups for _ in range(groups))] if groups > 1 else []
    weights = [(1.0 - bank, *(bank * share for share in mix)) for bank, mix in itertools.product(bank_weights, mixes)]
    corners = [(1.0, *(0.0 for _ in range(groups))), *((0.0, *mix) for mix in mixes)]  # each part alone is always tried
    return list(dict.fromkeys([*corners, *weights]))


def _try_weights(
    class_name: str,
    weights: tuple[float, ...],
    selecting_BMP: Array,
    defects: Mapping[str, Array],
    scales: Sequence[Scale],
    params: CalibrationParams,
) -> list[tuple[RecipeCandidate, Recipe]]:
    normal = _fuse(selecting_BMP, scales, weights, params.smoothing_sigma)
    fused = [_fuse(raw, scales, weights, params.smoothing_sigma) for raw in defects.values()]
    subject = f"class {class_name!r}, pooled map"
    pools = {
        share: Pool(share, Scale.of(pooled(normal, share), subject))
        for share in sorted({share for shares in params.poolings for share in shares})
    }
    tried = []
    for shares in params.poolings:
        recipe = Recipe(weights, tuple(pools[share] for share in shares))
        tried.append((_judge(recipe, normal, fused), recipe))
    return tried


def _judge(recipe: Recipe, normal_BHW: Array, defects: Sequence[Array]) -> RecipeCandidate:
    normal = _largest_pool(normal_BHW, recipe.pools)
    scale = Scale.of(normal, "calibration")
    aurocs, separations = [], []
    for anomalous in (_largest_pool(fused, recipe.pools) for fused in defects):
        labels = np.r_[np.zeros(len(normal)), np.ones(len(anomalous))]
        aurocs.append(float(roc_auc_score(labels, np.r_[normal, anomalous])))
        separations.append(float(np.median(scale.apply(anomalous))))
    shares = tuple(pool.share for pool in recipe.pools)
    return RecipeCandidate(recipe.weights, shares, float(np.mean(aurocs)), float(np.mean(separations)))
