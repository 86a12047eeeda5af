"""The model card of a version: what it is for, what it was made of, how good it is, and where its limits lie.

    render_card(Card(version, classes))      # HTML: self-contained, without scripts

Nothing is measured here: the figures are those of the version's own evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.gates import GateCheck
from shadowline.models.calibration_file import CalibrationFile
from shadowline.report import formatting
from shadowline.report.build import environment, stylesheet
from shadowline.report.evidence import VersionFacts

_RECIPE = ("encoder.", "train.", "bank.", "calibration.")
_UNKNOWN = "unknown"  # a hyper-parameter that the run does not keep


@dataclass(frozen=True)
class CardClass:
    """One class of a version; None for a file that is missing."""

    name: str
    num_images: dict[str, int]  # split → images
    metrics: ClassMetrics | None
    calibration: CalibrationFile | None

    def promise(self, confidence: float | None) -> str:
        if self.metrics is None or confidence is None:
            return "What was measured of this class is not at hand."
        return formatting.promise(self.metrics, confidence)


@dataclass(frozen=True)
class Card:
    version: VersionFacts
    classes: tuple[CardClass, ...]  # in any order

    @property
    def worst_first(self) -> list[CardClass]:
        """By AUROC; a class without metrics comes first."""
        return sorted(self.classes, key=lambda cls: (_auroc(cls), cls.name))

    @property
    def confidence(self) -> float | None:
        """The confidence of the intervals; None where the run does not record it."""
        value = self.version.params.get("evaluation.confidence")
        return float(value) if value else None

    @property
    def recipe(self) -> dict[str, str]:
        """The hyper-parameters that make the model."""
        return {name: value for name, value in sorted(self.version.params.items()) if name.startswith(_RECIPE)}

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for cls in self.classes for split in cls.num_images))

    @property
    def checks(self) -> tuple[GateCheck, ...]:
        return self.version.summary.verdict.checks if self.version.summary else ()

    def limits(self) -> Iterator[str]:
        """Sentences on the limits within which this version was tested."""
        names = formatting.join_words(sorted(cls.name for cls in self.classes)) or "no class"
        yield f"It was made for {names}, photographed as for the training: the same light, angle and background."
        for cls in self.worst_first:
            if cls.metrics is None:
                yield f"{cls.name}: what was measured is not at hand."
            elif cls.metrics.num_test_anomalous and cls.metrics.decisions.misses:
                missed, defective = cls.metrics.decisions.misses, cls.metrics.num_test_anomalous
                yield f"{cls.name}: of {defective} defective parts in the test it let {missed} pass."
            if cls.calibration and cls.calibration.selected_on == "injected":
                yield f"{cls.name}: its scoring was chosen on injected defects, which may look unlike real ones."
        yield from (f"A bound that it does not keep: {check.reason}." for check in self.checks if not check.passed)


def card_classes(version: VersionFacts) -> dict[str, dict[str, int]]:
    """Class → split → images, as the version's tags have them."""
    counts: dict[str, dict[str, int]] = json.loads(version.tags.get("num_images", "{}"))
    decided = json.loads(version.tags.get("class_fingerprints", "{}"))
    return {name: counts.get(name, {}) for name in sorted({*counts, *decided})}


def render_card(card: Card) -> str:
    page = environment().get_template("model_card.html.j2")
    return page.render(stylesheet=stylesheet(), card=card, version=card.version, unknown=_UNKNOWN)


def _auroc(cls: CardClass) -> float:
    return cls.metrics.image.auroc.value if cls.metrics else -1.0
