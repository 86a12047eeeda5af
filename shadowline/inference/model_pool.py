"""The models in memory, each location loaded once however many classes it serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from shadowline.core.params import GatewayParams
from shadowline.inference.batching import Batcher
from shadowline.inference.scoring import InspectorScorer, Scorer, scorer_of
from shadowline.models.detector import Detector
from shadowline.models.inspector_detector import CandidateDetector
from shadowline.records.model_locations import ModelLocation

Load = Callable[[str, str], Detector]  # location and class → detector


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One loaded location with its two threads: one for callers, one for work in the shadow."""

    callers: Batcher
    shadow: Batcher

    @classmethod
    def of(cls, scorer: Scorer, params: GatewayParams) -> LoadedModel:
        callers = Batcher(scorer, batch_size=params.batch_size, window_ms=params.batch_window_ms)
        return cls(callers, shadow=Batcher(scorer, batch_size=1, window_ms=0.0, background=True))

    @property
    def scorer(self) -> Scorer:
        return self.callers.scorer

    def close(self) -> None:
        self.callers.close()
        self.shadow.close()


@dataclass(frozen=True, eq=False)
class PooledModel:
    """A model that can be asked, under its fingerprint."""

    place: ModelLocation
    engine: LoadedModel


class ModelPool:
    """Models by fingerprint. Safe for several threads; a retired model answers until its callers are gone."""

    def __init__(self, load: Load, params: GatewayParams) -> None:
        self._load, self._params = load, params
        self._lock = threading.Lock()
        self._models: dict[str, PooledModel] = {}
        self._retired: list[tuple[float, LoadedModel]] = []  # when it may be closed

    @property
    def models(self) -> Mapping[str, PooledModel]:
        with self._lock:
            return dict(self._models)

    def bring(self, place: ModelLocation) -> None:
        """Load a model, unless it is there.

        Raises ValueError where the location holds another model than the rollout names, and what `load` raises.
        """
        if place.fingerprint in self.models:
            return
        detector, engine = self._open(place)
        if detector.fingerprint != place.fingerprint:
            actual, named = detector.fingerprint[:12], place.fingerprint[:12]
            raise ValueError(f"{place.location} holds model {actual}…, the rollout names {named}…; restore it")
        engine = engine or LoadedModel.of(scorer_of(detector), self._params)
        with self._lock:
            self._models[place.fingerprint] = PooledModel(place, engine)

    def _open(self, place: ModelLocation) -> tuple[Detector, LoadedModel | None]:
        """A detector, and the engine that is loaded from its location already, or None."""
        for model in self.models.values():
            scorer = model.engine.scorer
            if model.place.location == place.location and isinstance(scorer, InspectorScorer):
                return CandidateDetector(scorer.inspector, place.class_name), model.engine
        return self._load(place.location, place.class_name), None

    def keep(self, fingerprints: Collection[str]) -> None:
        """Retire all other models, and close those whose last caller must have its answer by now."""
        now = time.monotonic()
        with self._lock:
            gone = {model.engine for name, model in self._models.items() if name not in fingerprints}
            self._models = {name: model for name, model in self._models.items() if name in fingerprints}
            gone -= {model.engine for model in self._models.values()}
            self._retired += [(now + 2 * self._params.answer_timeout_ms / 1000, engine) for engine in gone]
            due = [engine for at, engine in self._retired if at <= now]
            self._retired = [(at, engine) for at, engine in self._retired if at > now]
        for engine in due:
            engine.close()

    def close(self) -> None:
        with self._lock:
            engines = {model.engine for model in self._models.values()} | {engine for _, engine in self._retired}
        for engine in engines:
            engine.close()
