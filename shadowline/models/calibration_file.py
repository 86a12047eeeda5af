"""The calibration file of a class: written by the stage `calibrate`, read by the inspector's stages and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shadowline.core.artifacts import Artifact
from shadowline.core.layout import Layout
from shadowline.features.keys import KNOWN_DEFECTS
from shadowline.models.calibration import Calibration, CalibrationResult


@dataclass(frozen=True)
class TriedRecipe:
    """A recipe candidate, its weights keyed by the names of the maps and its pooling as text."""

    weights: dict[str, float]
    pooling: str
    auroc: float
    separation: float
    chosen: bool


class CalibrationFile(Artifact):
    """The calibration, and for readers the recipes that were tried; the inspector needs only `calibration`."""

    class_name: str
    calibration: Calibration
    weights: dict[str, float]
    pooling: str
    threshold: float
    target_fpr: float
    num_selection: int
    num_calibration: int
    injected_kinds: tuple[str, ...]  # kinds of injected defects, or KNOWN_DEFECTS alone; see `selected_on`
    candidates: tuple[TriedRecipe, ...]  # best first
    calibration_scores: tuple[float, ...]  # ascending

    @property
    def selected_on(self) -> Literal["known", "injected"]:
        """Which defects the recipe was chosen on: the class's own, or injected ones where it has none."""
        return "known" if self.injected_kinds == (KNOWN_DEFECTS,) else "injected"

    @classmethod
    def of(cls, result: CalibrationResult, kinds: Sequence[str]) -> CalibrationFile:
        calibration = result.calibration
        return cls(
            class_name=calibration.class_name,
            calibration=calibration,
            weights=_by_name(calibration, calibration.recipe.weights),
            pooling=_pooling([pool.share for pool in calibration.recipe.pools]),
            threshold=calibration.threshold,
            target_fpr=calibration.target_fpr,
            num_selection=calibration.num_selecting,
            num_calibration=calibration.num_calibrating,
            injected_kinds=tuple(kinds),
            candidates=tuple(
                TriedRecipe(
                    weights=_by_name(calibration, candidate.weights),
                    pooling=_pooling(candidate.pool_shares),
                    auroc=candidate.auroc,
                    separation=candidate.separation,
                    chosen=candidate.chosen,
                )
                for candidate in result.candidates
            ),
            calibration_scores=result.calibrating_scores,
        )


def load_calibration(class_name: str, layout: Layout) -> Calibration:
    """Raises FileNotFoundError naming the stage to run, ValueError for a file that breaks its schema."""
    path = layout.calibration(class_name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no calibration; run `dvc repro calibrate@{class_name}`")
    return CalibrationFile.read(path).calibration


def _by_name(calibration: Calibration, weights: Sequence[float]) -> dict[str, float]:
    return dict(zip(calibration.map_names, weights, strict=True))


def _pooling(shares: Sequence[float]) -> str:
    """A pooling as text: `top 1 %`, `mean`, or `top 1 % or mean` where the larger wins."""
    return " or ".join("mean" if share == 1.0 else f"top {share:.0%}".replace("%", " %") for share in shares)
