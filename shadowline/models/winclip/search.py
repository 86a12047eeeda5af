"""Searches for the prompt set that finds a class's defects best, on validation images, never on test.

    results = search(book.fillable(), clip, normals, defects, temperature=0.07, tie=0.02, progress=progress)
    results[0].prompts

Images are embedded once, whatever the number of sets. Sets are compared by the zero-shot image score, which uses no
windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from shadowline.core.progress import Progress
from shadowline.data.transforms import to_tensor
from shadowline.models.calibration import Scale
from shadowline.models.winclip.prompts import Prompts
from shadowline.models.winclip.scoring import anomaly_share
from shadowline.models.winclip.tower import embed_image, size_of
from shadowline.models.winclip.weights import Clip, embed_sides

Read = Callable[[], Image.Image]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tried:
    """One prompt set, and how well it separates defects from normals."""

    prompts: Prompts
    auroc: float  # mean over kinds of defect
    separation: float  # median of the defects in robust sigmas of the normals, mean over kinds
    chosen: bool


def search(
    sets: Sequence[Prompts],
    clip: Clip,
    normals: Sequence[Read],
    defects: Mapping[str, Sequence[Read]],
    *,
    temperature: float,
    tie: float,
    progress: Progress,
) -> tuple[Tried, ...]:
    """Every set, the chosen one first, the others by AUROC.

    Among sets within `tie` of the best AUROC the earliest wins: a few dozen images cannot tell them apart. Raises
    ValueError without sets, normals or defects.
    """
    if not sets or len(normals) < 2 or not defects or not all(defects.values()):
        counts = f"{len(sets)} prompt sets, {len(normals)} normals, {sum(map(len, defects.values()))} defects"
        raise ValueError(f"prompt search: {counts}, need 1, 2 and 1 of each kind; add images to val or tune")
    total = len(normals) + sum(map(len, defects.values()))
    with progress.task("prompt search", total=total) as task:
        normal_ND = _embed_all(clip, normals, task.advance)
        defects_ND = {kind: _embed_all(clip, images, task.advance) for kind, images in defects.items()}
    measured = [_try(prompts, clip, normal_ND, [*defects_ND.values()], temperature) for prompts in sets]
    best = max(auroc for auroc, _ in measured)
    winner = next(index for index, (auroc, _) in enumerate(measured) if auroc >= best - tie)
    tried = [Tried(prompts, *measured[index], chosen=index == winner) for index, prompts in enumerate(sets)]
    return tuple(sorted(tried, key=lambda result: (not result.chosen, -result.auroc)))


def _embed_all(clip: Clip, images: Sequence[Read], advance: Callable[[], None]) -> Tensor:
    device = next(clip.tower.parameters()).device
    rows = []
    for read in images:
        pixels_3HW = to_tensor(read(), size_of(clip.tower), clip.mean, clip.std)
        rows.append(embed_image(clip.tower, pixels_3HW[None].to(device)))
        advance()
    return torch.cat(rows)


def _try(
    prompts: Prompts, clip: Clip, normal_ND: Tensor, defects: Sequence[Tensor], temperature: float
) -> tuple[float, float]:
    """AUROC and separation."""
    text_2D = embed_sides(clip, prompts)
    normal, *broken = (_scores(features_ND, text_2D, temperature) for features_ND in (normal_ND, *defects))
    scale = Scale.of(normal, f"prompt set '{prompts.set_name}'")
    aurocs = [
        roc_auc_score(np.r_[np.zeros(len(normal)), np.ones(len(scores))], np.r_[normal, scores]) for scores in broken
    ]
    return float(np.mean(aurocs)), float(np.mean([np.median(scale.apply(scores)) for scores in broken]))


def _scores(features_ND: Tensor, text_2D: Tensor, temperature: float) -> Floats:
    return np.asarray(anomaly_share(features_ND, text_2D, temperature).double().cpu().numpy())
