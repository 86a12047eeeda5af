"""The model that is live for an image, by the gateway's routing: for the command line and for Python.

live = live_models(open_records(), params)               # None: no model answers yet
inspection = live.inspect(data, "bolt")                  # by the legacy model, a starter or the candidate
inspection.score, inspection.decision, inspection.answered_by
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shadowline.core.params import Params
from shadowline.data.images import decode_image
from shadowline.data.labels import Label
from shadowline.data.manifest import content_id
from shadowline.inference.routing import Route, unplanned_classes, unplanned_state
from shadowline.inference.scoring import Heatmap, InspectionRequest, InspectionResult, scorer_of
from shadowline.models.detector import Detector
from shadowline.models.inspector import Inspector, UnknownProduct
from shadowline.models.inspector_detector import CandidateDetector
from shadowline.models.loader import load_detector
from shadowline.records.pair import Side
from shadowline.records.stores import Records


@dataclass(frozen=True, eq=False)
class LiveInspection:
    """One image, judged by the model that is live for its class."""

    score: float
    threshold: float  # unit of the score
    decision: Label
    class_name: str
    class_confidence: float | None  # None when the class was given
    model_version: str
    fingerprint: str
    answered_by: Side
    latency_ms: float
    heat: Heatmap | None

    @property
    def stop(self) -> bool:
        """Whether the part must not pass."""
        return self.decision is not Label.NORMAL

    def to_dict(self) -> dict[str, Any]:
        """Everything but the map, as JSON values."""
        return {**{name: value for name, value in self.__dict__.items() if name != "heat"}, "stop": self.stop}


class LiveModels:
    """The models that the gateway would answer with, each loaded when an image needs it. Unlike in the gateway, no
    other model answers in the place of a model that fails: the failure is raised."""

    def __init__(self, records: Records, params: Params, load: Callable[[str, str], Detector] = load_detector) -> None:
        self._locations, self.limits, self._load = records.locations, params.data, load
        self._detectors: dict[str, Detector] = {}  # by fingerprint
        self._inspectors: dict[str, Inspector] = {}  # by location
        state = records.rollout.state()
        outside = unplanned_classes(state, records.locations.known_models(), params.gateway.unplanned)
        others = [unplanned_state(name, options, ()) for name, options in outside.items()]
        self.routes = {cls.class_name: Route(cls, {}) for cls in (*state.classes, *others)}

    def inspect(
        self, data: bytes, class_name: str | None = None, *, wants_heat: bool = False, name: str = "image"
    ) -> LiveInspection | UnknownProduct:
        """Judge the bytes of a file; without a class, its class is found first.

        Raises RefusedImage, and ValueError for a class that no model knows or a model that cannot be loaded.
        """
        started = time.perf_counter()
        image = decode_image(data, self.limits, name=name)
        confidence = None
        if class_name is None:
            inspector = self._identifier()
            (identification,) = inspector.identify_many([image])
            if identification.class_name is None:
                latency_ms = 1000 * (time.perf_counter() - started)
                version, fingerprint = inspector.model_version, inspector.fingerprint
                return UnknownProduct(
                    identification.nearest_class, identification.confidence, version, fingerprint, latency_ms
                )
            class_name, confidence = identification.class_name, identification.confidence
        route = self._route(class_name)
        side = route.side_of(content_id(data))
        place = self._locations.model(route.fingerprint(side))
        (answer,) = scorer_of(self._detector(place.fingerprint)).answer(
            [InspectionRequest(image, class_name, wants_heat)]
        )
        assert isinstance(answer, InspectionResult)  # the question had a class
        return LiveInspection(
            score=answer.score,
            threshold=answer.threshold,
            decision=Label.ANOMALOUS if answer.alarm else Label.NORMAL,
            class_name=class_name,
            class_confidence=confidence,
            model_version=place.version,
            fingerprint=place.fingerprint,
            answered_by=side,
            latency_ms=1000 * (time.perf_counter() - started),
            heat=answer.heat,
        )

    def _route(self, class_name: str) -> Route:
        if class_name not in self.routes:
            names = ", ".join(sorted(self.routes))
            raise ValueError(
                f"class {class_name!r}: no model of it answers here, but of {names}; --model asks one directly"
            )
        return self.routes[class_name]

    def _identifier(self) -> Inspector:
        """The live inspector that tells the most classes apart. Raises ValueError where there is none."""
        judging = [route.state.candidate for _, route in sorted(self.routes.items()) if route.candidate_judges]
        for fingerprint in judging:
            self._detector(fingerprint)
        best = max(self._inspectors.values(), key=lambda inspector: len(inspector.identified_classes), default=None)
        if best is None or not best.identified_classes:
            raise ValueError("no model at work can tell classes apart; name the class with --class, or a --model")
        return best

    def _detector(self, fingerprint: str) -> Detector:
        if fingerprint not in self._detectors:
            place = self._locations.model(fingerprint)
            if place.location in self._inspectors:
                detector: Detector = CandidateDetector(self._inspectors[place.location], place.class_name)
            else:
                detector = self._load(place.location, place.class_name)
            if detector.fingerprint != fingerprint:
                actual, named = detector.fingerprint[:12], fingerprint[:12]
                raise ValueError(f"{place.location} holds model {actual}…, the rollout names {named}…; restore it")
            if isinstance(detector, CandidateDetector):
                self._inspectors[place.location] = detector.inspector
            self._detectors[fingerprint] = detector
        return self._detectors[fingerprint]


def live_models(records: Records, params: Params) -> LiveModels | None:
    """None where no model answers: no class is in the rollout, none has a legacy model, and there is no champion."""
    live = LiveModels(records, params)
    return live if live.routes else None
