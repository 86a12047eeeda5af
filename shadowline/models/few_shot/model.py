"""Few-shot inspection: a patch is as anomalous as it is far from the nearest patch of a handful of normal images.

    references = encode_references("bolt", images, encoder, views=("hflip",))
    map_P = distance_map(query_GPD, references.all_RGPD, Distance.COSINE)
    rule = leave_one_out(references, Distance.COSINE, top_share=0.01, target_fpr=0.05)
    image_score(map_P, top_share=0.01) > rule.threshold

N reference images · V views of each, the image itself first · R = N V references · G groups · P patches · D width.
Patches are compared at length 1, in each feature group apart; a map is the mean over groups. Source: AnomalyDINO,
Damm et al., arXiv 2405.14529 (one layer there, two fused groups here); related: WinCLIP's association with reference
patches, arXiv 2303.14814 §4.2.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from shadowline.core.atomic_files import replace_file
from shadowline.core.conformal import conformal_threshold, promised_rate
from shadowline.data.perturbations import ORIGINAL, apply_view
from shadowline.features.encoder import Encoder
from shadowline.models.calibration import pooled

Floats = npt.NDArray[np.float64]


class Distance(StrEnum):
    """Between two patches of length 1."""

    COSINE = "cosine"  # 1 − cos of the angle: 0…2
    EUCLIDEAN = "euclidean"  # of the chord, √(2 (1 − cos)): 0…2


@dataclass(frozen=True, eq=False)
class FewShotReferences:
    """Patch features of the normal images of one class; raises ValueError for none, or for values not finite."""

    class_name: str
    fused_NVGPD: Tensor  # float16, without prefix tokens
    views: tuple[str, ...]  # V names, the first being `original`
    fingerprint: str  # of the encoder

    def __post_init__(self) -> None:
        if not len(self.fused_NVGPD):
            raise ValueError(f"class '{self.class_name}': 0 reference images, need at least 1; give a normal image")
        _check_finite(self.fused_NVGPD, f"class '{self.class_name}', references")

    @functools.cached_property
    def unit_NVGPD(self) -> Tensor:  # noqa: N802 - axes, as everywhere
        return unit_patches(self.fused_NVGPD)

    @property
    def all_RGPD(self) -> Tensor:  # noqa: N802 - axes, as everywhere
        return self.unit_NVGPD.flatten(0, 1)

    @property
    def num_images(self) -> int:
        return len(self.fused_NVGPD)

    def save(self, path: Path) -> None:
        facts = {"class_name": self.class_name, "views": list(self.views), "fingerprint": self.fingerprint}
        with replace_file(path) as temporary:
            metadata = {"references": json.dumps(facts, sort_keys=True)}
            save_file({"fused": self.fused_NVGPD.contiguous()}, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> FewShotReferences:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["references"])
            return cls(facts["class_name"], file.get_tensor("fused"), tuple(facts["views"]), facts["fingerprint"])


def encode_references(
    class_name: str, images: Sequence[Image.Image], encoder: Encoder, views: Sequence[str]
) -> FewShotReferences:
    """The references of images, each with its `views` beside it; the views must not depend on a seed.

    Raises ValueError for no image, for a duplicate image (its leave-one-out distance would be 0), and for an unknown
    view.
    """
    if len({hashlib.sha256(image.tobytes()).digest() for image in images}) < len(images):
        raise ValueError(f"class '{class_name}': {len(images)} reference images, some the same; give each only once")
    names = (ORIGINAL, *views)
    patches = [patches_of(apply_view(image, name, seed=0).image, encoder) for image in images for name in names]
    shape = (len(images), len(names), encoder.config.groups, encoder.grid**2, encoder.width)
    fused = torch.stack(patches).reshape(shape) if patches else torch.empty(shape)
    return FewShotReferences(class_name, fused.half(), names, encoder.config.fingerprint)


def patches_of(image: Image.Image, encoder: Encoder) -> Tensor:
    """Patch features (G, P, D) of one image, encoded alone, so that they depend on no other; float16, as cached."""
    return encoder.encode([image], padded=False)[0, :, encoder.num_prefix :].half()


# --- distances --------------------------------------------------------------------------------------------------


def unit_patches(patches: Tensor) -> Tensor:
    """Patches (…, D) in float32, each at length 1."""
    return functional.normalize(patches.float(), dim=-1)


def distance_map(query_GPD: Tensor, references_RGPD: Tensor, distance: Distance) -> Floats:
    """Distance of each patch of one image to the nearest of all references, mean over groups: (P,), float64.

    All patches at length 1. Raises ValueError for values that are not finite, or of other shapes.
    """
    _check_finite(query_GPD, "few-shot query")
    if query_GPD.shape != references_RGPD.shape[1:]:
        sizes = f"{tuple(query_GPD.shape)}, references {tuple(references_RGPD.shape[1:])}"
        raise ValueError(f"few-shot query: groups, patches and width {sizes}; encode both with one encoder")
    nearest_GP = reduce(
        torch.minimum, (reference_distance(query_GPD, reference_GPD, distance) for reference_GPD in references_RGPD)
    )
    return np.asarray(nearest_GP.double().mean(dim=0).numpy())


def reference_distance(query_GPD: Tensor, reference_GPD: Tensor, distance: Distance) -> Tensor:
    """Distance of each patch to the nearest of one reference, in its own group: (G, P).

    The neighbour is found by dot products, and its distance is then computed directly: 0 between an image and itself.
    References are compared one by one, in one shape, so that neither their number nor their order changes a value.
    """
    nearest_GP = torch.bmm(query_GPD, reference_GPD.mT).argmax(dim=2)
    neighbour_GPD = torch.take_along_dim(reference_GPD, nearest_GP[:, :, None], dim=1)
    square_GP = (query_GPD - neighbour_GPD).square().sum(dim=2)
    return square_GP / 2 if distance is Distance.COSINE else square_GP.sqrt()


def image_score(map_P: Floats, top_share: float) -> float:
    """Mean of the top share of a map; monotone in each value of the map."""
    return float(pooled(map_P[None], top_share)[0])


def _check_finite(values: Tensor, subject: str) -> None:
    if not torch.isfinite(values).all():
        count = int((~torch.isfinite(values)).sum())
        raise ValueError(f"{subject}: {count} feature values are not finite; check the images and the encoder")


# --- the threshold ----------------------------------------------------------------------------------------------


class Basis(StrEnum):
    """What was scored to set a threshold."""

    IMAGES = "images"  # each reference image, scored against the other images and their views
    VIEWS = "views"  # each view of the only image, scored against its other views: a stand-in


@dataclass(frozen=True)
class Rule:
    """A threshold and its guarantee."""

    threshold: float
    promised_fpr: float | None  # guaranteed false-alarm rate on exchangeable normals; None: no guarantee
    provisional: bool  # the guarantee is weaker than `target_fpr`, or there is none
    basis: Basis
    scores: tuple[float, ...]  # that it was computed from, ascending


def leave_one_out(references: FewShotReferences, distance: Distance, top_share: float, target_fpr: float) -> Rule:
    """The threshold from the leave-one-out scores of the references.

    With n images it guarantees target_fpr, or 1/(n + 1) where that is more. The guarantee holds as for a split: were
    the fresh normal among the references of the others, all n + 1 scores would be exchangeable; leaving it out can only
    raise the n scores here, because a further reference never raises a distance, and so it only raises the threshold.
    With a single image there is no guarantee. Raises ValueError for one image without views.
    """
    n = references.num_images
    if n == 1:
        scores = _leave_each_out(references.unit_NVGPD[0][:, None], references.class_name, distance, top_share)
        return Rule(scores[-1], None, True, Basis.VIEWS, scores)
    scores = _leave_each_out(references.unit_NVGPD, references.class_name, distance, top_share)
    promised = promised_rate(target_fpr, n)
    threshold = conformal_threshold(scores, promised, subject=f"class '{references.class_name}'")
    return Rule(threshold, promised, promised > target_fpr, Basis.IMAGES, scores)


def _leave_each_out(units_NVGPD: Tensor, class_name: str, distance: Distance, top_share: float) -> tuple[float, ...]:
    """Scores of the original of each image against all views of the others, ascending."""
    count = len(units_NVGPD)
    if count < 2:
        raise ValueError(
            f"class '{class_name}': 1 reference image without views gives no threshold; add one, or few_shot.views"
        )
    others = (units_NVGPD[[j for j in range(count) if j != i]].flatten(0, 1) for i in range(count))
    maps = (distance_map(units_NVGPD[i, 0], references_RGPD, distance) for i, references_RGPD in enumerate(others))
    return tuple(sorted(image_score(map_P, top_share) for map_P in maps))
