"""What is known of a rollout: one state per class, and the events from which it can be rebuilt.

All times are timezone-aware UTC. A model is named by its fingerprint, never by "latest".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from shadowline.rollout.phases import LEGACY_JUDGES, TAKEN_OVER, Phase, check_move


@dataclass(frozen=True)
class ClassState:
    """Where one class stands, with which two models, since when."""

    class_name: str
    wave: int  # 1 is the first; 0: of none, a new product that waits for nobody, and nobody for it
    phase: Phase
    since: datetime  # when the phase, or its present share, began
    legacy: str  # fingerprint of the single-class model
    candidate: str  # fingerprint of the multi-class model; empty for a new product that no version knows yet
    share: float  # of the images that the candidate answers, 0…1
    soft_failures: int = 0  # ticks with a failed soft guard, since the phase or share began
    last_failure: str = ""  # the soft guard that failed last, in words
    held_from: Phase | None = None  # the phase that HELD interrupts
    held_at: datetime | None = None  # when it did; the time in between does not count towards the phase
    parallel_since: datetime | None = None  # since when both models judge every image without a break
    reason: str = ""  # why the class came here

    def __post_init__(self) -> None:
        if self.since.tzinfo is None:
            raise ValueError(f"class {self.class_name!r}: since {self.since} has no time zone; give UTC")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"class {self.class_name!r}: share {self.share}, need 0…1")
        if not (self.phase is Phase.HELD) == (self.held_from is not None) == (self.held_at is not None):
            raise ValueError(f"class {self.class_name!r}: {self.phase}, held from {self.held_from} at {self.held_at}")

    @property
    def standing(self) -> Phase:
        """The phase that decides traffic: the interrupted one while held."""
        return self.held_from or self.phase

    @property
    def planned(self) -> bool:
        """Part of the migration, not enrolled beside it."""
        return self.wave > 0

    @property
    def candidate_answers(self) -> bool:
        return self.share > 0.0

    @property
    def legacy_judges(self) -> bool:
        return self.standing in LEGACY_JUDGES

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        raw = asdict(self)
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in raw.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ClassState:
        fields = dict(raw)
        fields["phase"] = Phase(raw["phase"])
        fields["held_from"] = Phase(raw["held_from"]) if raw["held_from"] else None
        for name in ("since", "held_at", "parallel_since"):
            fields[name] = datetime.fromisoformat(raw[name]) if raw[name] else None
        return cls(**fields)


@dataclass(frozen=True)
class RolloutState:
    """All classes, and how many events led here."""

    classes: tuple[ClassState, ...]  # by wave, then by name
    revision: int = 0  # number of the last event

    def __post_init__(self) -> None:
        names = [one.class_name for one in self.classes]
        if len(set(names)) < len(names):
            raise ValueError(f"rollout: a class occurs twice in {sorted(names)}")

    def of(self, class_name: str) -> ClassState:
        for one in self.classes:
            if one.class_name == class_name:
                return one
        raise ValueError(f"class {class_name!r} is not in the rollout; it has {[c.class_name for c in self.classes]}")

    def wave(self, number: int) -> tuple[ClassState, ...]:
        return tuple(one for one in self.classes if one.wave == number)

    @property
    def waves(self) -> tuple[int, ...]:
        return tuple(sorted({one.wave for one in self.classes}))

    @property
    def all_taken_over(self) -> bool:
        return all(one.standing in TAKEN_OVER for one in self.classes)

    def with_classes(self, changed: Iterable[ClassState]) -> RolloutState:
        """The same rollout with these classes in place of their former selves."""
        new = {one.class_name: one for one in changed}
        return replace(self, classes=tuple(new.get(one.class_name, one) for one in self.classes))


@dataclass(frozen=True)
class Event:
    """One change of one class: all that is needed to make it again."""

    revision: int  # 1, 2, 3 … over the whole rollout
    at: datetime
    by: str  # "engine", or the person whose word it was
    source: Phase | None  # None for the first event of a class
    after: ClassState

    @property
    def is_move(self) -> bool:
        """A change of phase; otherwise of share, of the soft budget, or of the candidate."""
        return self.source is not self.after.phase


def replay(events: Iterable[Event]) -> RolloutState:
    """The state that these events lead to.

    Raises ValueError for a gap, an event that does not follow from the one before, or an illegal move.
    """
    classes: dict[str, ClassState] = {}
    revision = 0
    for event in events:
        name, before = event.after.class_name, classes.get(event.after.class_name)
        if event.revision != revision + 1:
            raise ValueError(f"rollout: event {event.revision} follows event {revision}; one is missing or twice there")
        if (before.phase if before else None) is not event.source:
            raise ValueError(
                f"event {event.revision}: class {name!r} was in {before and before.phase}, not {event.source}"
            )
        if event.source is not None and event.is_move:
            check_move(name, event.source, event.after.phase)
        classes[name] = event.after
        revision = event.revision
    ordered = sorted(classes.values(), key=lambda one: (one.wave, one.class_name))
    return RolloutState(tuple(ordered), revision)
