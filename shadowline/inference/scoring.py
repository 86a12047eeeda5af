"""Requests to a model and its results: one interface for single-class detectors and the inspector.

scorer_of(detector).answer([InspectionRequest(image, "bolt")])    # [InspectionResult]
scorer_of(detector).answer([InspectionRequest(image, None)])      # [Identification], of an inspector
score_all(scorer, questions)                             # never raises: such a result or a ScoringError each
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shadowline.core.secrets import mask
from shadowline.data.bit_depth import DecodedImage, to_rgb
from shadowline.models.class_identification import Identification
from shadowline.models.detector import Detector
from shadowline.models.inspector import Inspection, Inspector
from shadowline.models.inspector_detector import CandidateDetector

_MAX_ERROR = 300  # characters of a model's error message that are kept


@dataclass(frozen=True, eq=False)
class InspectionRequest:
    image: DecodedImage
    class_name: str | None  # None: the class is to be identified, which only an inspector can do
    wants_heat: bool = False


@dataclass(frozen=True, eq=False)
class Heatmap:
    """An anomaly map and how it is drawn."""

    map_HW: npt.NDArray[np.float64]
    level: float  # unit of the map; colour begins there
    coverage: float  # share of each side of the image that the map covers, centred


@dataclass(frozen=True, eq=False)
class InspectionResult:
    score: float
    threshold: float  # unit of the score
    class_name: str
    heat: Heatmap | None = None

    @property
    def alarm(self) -> bool:
        return self.score > self.threshold


Result = InspectionResult | Identification


class ScoringError(RuntimeError):
    """A model gave no answer; the message is what a pair records as its error."""

    kind = "failed"


class ScoringTimeoutError(ScoringError):
    """No answer in time."""

    kind = "timeout"


class Scorer(Protocol):
    def answer(self, questions: Sequence[InspectionRequest]) -> Sequence[Result]:
        """An answer to a question with a class, an identification to one without."""


@dataclass(frozen=True, eq=False)
class InspectorScorer:
    """One inspector for all classes: images of several classes pass the encoder together."""

    inspector: Inspector

    @property
    def identified_classes(self) -> tuple[str, ...]:
        return self.inspector.identified_classes

    def answer(self, questions: Sequence[InspectionRequest]) -> list[Result]:
        scored = iter(
            self.inspector.inspect_each(
                [(question.image, question.class_name) for question in questions if question.class_name]
            )
        )
        nameless = [question.image for question in questions if not question.class_name]
        identified = iter(self.inspector.identify_many(nameless) if nameless else ())
        return [
            self._answer(next(scored), question) if question.class_name else next(identified) for question in questions
        ]

    def _answer(self, inspection: Inspection, question: InspectionRequest) -> InspectionResult:
        return InspectionResult(
            inspection.score,
            inspection.threshold,
            inspection.class_name,
            self._heat(inspection) if question.wants_heat else None,
        )

    def _heat(self, inspection: Inspection) -> Heatmap:
        config = self.inspector.encoder.config
        level = self.inspector.calibrations[inspection.class_name].map_level
        return Heatmap(inspection.anomaly_map, level, config.crop / config.resize)


@dataclass(frozen=True, eq=False)
class DetectorScorer:
    """A detector of one class."""

    detector: Detector

    def answer(self, questions: Sequence[InspectionRequest]) -> list[InspectionResult]:
        images = [to_rgb(question.image, self.detector.bit_depth) for question in questions]
        scores, threshold = self.detector.score(images), self.detector.threshold
        name = self.detector.class_name
        return [
            InspectionResult(
                float(score), threshold, name, self._heat(question, threshold) if question.wants_heat else None
            )
            for question, score in zip(questions, scores, strict=True)
        ]

    def _heat(self, question: InspectionRequest, threshold: float) -> Heatmap:
        image = to_rgb(question.image, self.detector.bit_depth)
        return Heatmap(self.detector.maps([image])[0], threshold, 1.0)


def scorer_of(detector: Detector) -> Scorer:
    if isinstance(detector, CandidateDetector):
        return InspectorScorer(detector.inspector)
    return DetectorScorer(detector)


def score_all(scorer: Scorer, questions: Sequence[InspectionRequest]) -> list[Result | ScoringError]:
    """One result per question. Where a batch fails, each image is tried alone, so that one bad image harms no other."""
    try:
        return [_checked(answer) for answer in scorer.answer(questions)]
    except Exception as error:  # noqa: BLE001 - any failure of a model must reach the caller as an answer
        if len(questions) == 1:
            return [ScoringError(describe(error))]
        return [result for question in questions for result in score_all(scorer, [question])]


def _checked(answer: Result) -> Result | ScoringError:
    """A ScoringError in the place of a score that is not finite: NaN would pass as normal."""
    if isinstance(answer, Identification):
        return answer
    if math.isfinite(answer.score) and math.isfinite(answer.threshold):
        return answer
    return ScoringError(f"score {answer.score}, threshold {answer.threshold}: not finite")


def describe(error: BaseException) -> str:
    """One bounded line without secrets that any database can keep."""
    text = mask(f"{type(error).__name__}: {error}".replace("\x00", ""))
    return " ".join(text.split())[:_MAX_ERROR]
