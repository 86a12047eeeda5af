"""Which model answers for an image, which one judges it in the shadow, and which must be in memory. Pure.

table = RoutingTable(state, routes)
table.of("bolt").side_of(image_id)      # candidate | legacy
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shadowline.core.params import Unplanned
from shadowline.inference.model_pool import PooledModel
from shadowline.inference.scoring import InspectorScorer
from shadowline.records.model_locations import KnownModels
from shadowline.records.pair import Side
from shadowline.rollout.phases import BOTH_JUDGE, CANDIDATE_JUDGES, LEGACY_JUDGES, WITHOUT_LEGACY, Phase
from shadowline.rollout.state import ClassState, RolloutState

CANDIDATE: Side = "candidate"
LEGACY: Side = "legacy"

_NEVER_MOVED = datetime(1970, 1, 1, tzinfo=UTC)
_HASH_DIGITS = 13  # hexadecimal; as many bits as a double holds


def other_side(side: Side) -> Side:
    return LEGACY if side == CANDIDATE else CANDIDATE


def traffic_bucket(image_id: str) -> float:
    """0 ≤ position < 1, spread evenly and fixed for an image: it stays with the candidate when the share grows."""
    return int(image_id[:_HASH_DIGITS], 16) / float(1 << 4 * _HASH_DIGITS)


def required_models(state: ClassState) -> dict[str, Side]:
    """Fingerprint → side of the models that must be in memory.

    The legacy model stays until it is deleted, also while it is off: a rollback must not wait for a disk.
    """
    required = {}
    if state.legacy and state.standing not in WITHOUT_LEGACY:
        required[state.legacy] = LEGACY
    if state.standing in CANDIDATE_JUDGES:
        required[state.candidate] = CANDIDATE
    return required


Options = tuple[tuple[Side, str], ...]  # side and fingerprint of the models that can answer, the preferred one first


def unplanned_classes(
    state: RolloutState, known: Mapping[str, KnownModels], preferred: Unplanned
) -> dict[str, Options]:
    """Class outside the rollout → the models that can answer for it; for a retired class none does."""
    planned = {cls.class_name for cls in state.classes} | state.retired_names
    return {name: unplanned_options(models, preferred) for name, models in known.items() if name not in planned}


def unplanned_options(known: KnownModels, preferred: Unplanned) -> Options:
    """The models that can answer for a class outside the rollout, the preferred one first."""
    options = ((LEGACY, known.legacy), (CANDIDATE, known.champion))
    there = tuple((side, fingerprint) for side, fingerprint in options if fingerprint)
    return there if preferred is Unplanned.LEGACY else there[::-1]


def unplanned_state(class_name: str, options: Options, broken: Collection[str]) -> ClassState:
    """A class outside the rollout, in the phase in which the first model that is not broken answers alone."""
    side, fingerprint = next((option for option in options if option[1] not in broken), options[0])
    if side == LEGACY:
        return ClassState(class_name, 0, Phase.LEGACY, _NEVER_MOVED, fingerprint, "", share=0.0)
    return ClassState(class_name, 0, Phase.LEGACY_DELETED, _NEVER_MOVED, "", fingerprint, share=1.0)


@dataclass(frozen=True, eq=False)
class Route:
    """One class: its state in the rollout, its models in memory, and why a model is missing."""

    state: ClassState
    models: Mapping[Side, PooledModel]
    problems: Mapping[Side, str] = field(default_factory=dict)

    @property
    def candidate_judges(self) -> bool:
        return self.state.standing in CANDIDATE_JUDGES

    @property
    def legacy_judges(self) -> bool:
        return self.state.standing in LEGACY_JUDGES

    def side_of(self, image_id: str) -> Side:
        """The model whose answer the caller gets."""
        if not self.legacy_judges:
            return CANDIDATE
        return CANDIDATE if self.candidate_judges and traffic_bucket(image_id) < self.state.share else LEGACY

    def can_fall_back(self, side: Side) -> bool:
        """Whether the legacy model answers where this model fails."""
        return side == CANDIDATE and self.legacy_judges and LEGACY in self.models

    def shadow_of(self, side: Side) -> Side | None:
        """The model that judges beside the one that answers."""
        return other_side(side) if self.state.standing in BOTH_JUDGE else None

    def fingerprint(self, side: Side) -> str:
        return self.state.candidate if side == CANDIDATE else self.state.legacy


@dataclass(frozen=True, eq=False)
class RoutingTable:
    """All classes at one revision of the rollout; never changed, only replaced."""

    state: RolloutState
    routes: Mapping[str, Route]  # also of classes that are known and in no rollout

    @property
    def unplanned(self) -> dict[str, Side]:
        """Class outside the rollout → the model whose answer the caller gets."""
        planned = {cls.class_name for cls in self.state.classes}
        return {name: route.side_of("0") for name, route in sorted(self.routes.items()) if name not in planned}

    @property
    def identifier(self) -> PooledModel | None:
        """The inspector in memory that identifies the most classes, of several the first class's; None without any."""
        candidates = [route.models[CANDIDATE] for _, route in sorted(self.routes.items()) if CANDIDATE in route.models]
        best = max(candidates, key=_num_identified, default=None)
        return best if best is not None and _num_identified(best) else None

    @property
    def problems(self) -> tuple[str, ...]:
        """One line per model that is missing."""
        return tuple(
            f"class {name}: {side} model: {problem}"
            for name, route in sorted(self.routes.items())
            for side, problem in sorted(route.problems.items())
        )


def _num_identified(model: PooledModel) -> int:
    scorer = model.engine.scorer
    return len(scorer.identified_classes) if isinstance(scorer, InspectorScorer) else 0


EMPTY = RoutingTable(RolloutState(()), {})


def route_of(
    state: ClassState, models: Mapping[str, PooledModel], problems: Mapping[str, str], before: Route | None
) -> Route:
    """The route of one class; the old route stays in force while a model of the new route is being loaded."""
    sides = required_models(state)
    if before is not None and any(name not in models and name not in problems for name in sides):
        return before
    return Route(
        state,
        {side: models[name] for name, side in sides.items() if name in models},
        {side: problems.get(name, "is being loaded") for name, side in sides.items() if name not in models},
    )
