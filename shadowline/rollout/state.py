"""What is known of a rollout: one state per class, and the events from which it can be rebuilt.

All times are timezone-aware UTC. A model is named by its fingerprint, never by "latest".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from shadowline.rollout.phases import LEGACY_JUDGES, TAKEN_OVER, Phase, check_move

NEW_PRODUCT = 0  # in the place of a wave: the class waits for no other, and no other for it
STAYS = -1  # likewise: the class stays with its legacy model
_TIMES = ("since", "held_at", "evidence_since", "answering_since", "alarmed_at", "silent_since")
_FORMER = {"parallel_since": "evidence_since"}  # names in events of earlier versions


@dataclass(frozen=True)
class ClassState:
    """Where one class stands, with which two models, since when."""

    class_name: str
    wave: int  # 1 is the first; NEW_PRODUCT and STAYS are no waves
    phase: Phase
    since: datetime  # when the phase, or its present share, began
    legacy: str  # fingerprint of the single-class model; empty where there never was one
    candidate: str  # fingerprint of the multi-class model; empty for a new product that no version knows yet
    share: float  # of the images that the candidate answers, 0…1
    held_from: Phase | None = None  # the phase that HELD interrupts
    held_at: datetime | None = None  # when it did
    num_successions: int = 0  # how often a candidate became the legacy model of its successor
    days_before: int = 0  # production days of this phase, or of its present share, before it was held
    evidence_since: datetime | None = None  # since when this candidate is compared; what came before counts for nothing
    answering_since: datetime | None = None  # since when it has answered at least a share of the images
    alarmed_at: datetime | None = None  # of the newest tripped guard that a person was told of
    silent_since: datetime | None = None  # of the silence that a person was told of; None where images come
    reason: str = ""  # why the class came here
    alarm: str = ""  # what people were told last: a guard that took nothing back, a line that fell silent

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
        """Part of the migration, neither enrolled beside it nor left out of it."""
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
        """From `to_dict`, of this version or an earlier one."""
        renamed = {_FORMER.get(name, name): value for name, value in raw.items()}
        fields = {name: value for name, value in renamed.items() if name in cls.__dataclass_fields__}
        if raw["share"] > 0.0:  # earlier versions did not say since when the candidate answers: at least since then
            fields.setdefault("answering_since", raw["since"])
        fields["phase"] = Phase(raw["phase"])
        fields["held_from"] = Phase(raw["held_from"]) if raw["held_from"] else None
        for name in _TIMES:
            fields[name] = datetime.fromisoformat(fields[name]) if fields.get(name) else None
        return cls(**fields)


@dataclass(frozen=True)
class RolloutState:
    """All classes, and how many events led here."""

    classes: tuple[ClassState, ...]  # by wave, then by name
    revision: int = 0  # number of the last event
    retired: tuple[ClassState, ...] = ()  # in no wave, and answered by no model

    @classmethod
    def of_all(cls, states: Iterable[ClassState], revision: int) -> RolloutState:
        """From the states of all classes, whether they are retired or not."""
        ordered = sorted(states, key=lambda state: (state.wave, state.class_name))
        in_service = tuple(state for state in ordered if state.phase is not Phase.RETIRED)
        return cls(in_service, revision, tuple(state for state in ordered if state.phase is Phase.RETIRED))

    def __post_init__(self) -> None:
        names = [cls.class_name for cls in (*self.classes, *self.retired)]
        if len(set(names)) < len(names):
            raise ValueError(f"rollout: a class occurs twice in {sorted(names)}")

    def of(self, class_name: str) -> ClassState:
        for cls in self.classes:
            if cls.class_name == class_name:
                return cls
        if class_name in self.retired_names:
            raise ValueError(
                f"class {class_name!r} is retired; `shadowline rollout history --class {class_name}` tells"
            )
        raise ValueError(f"class {class_name!r} is not in the rollout; it has {[c.class_name for c in self.classes]}")

    @property
    def retired_names(self) -> frozenset[str]:
        return frozenset(cls.class_name for cls in self.retired)

    def wave(self, number: int) -> tuple[ClassState, ...]:
        return tuple(cls for cls in self.classes if cls.wave == number)

    @property
    def waves(self) -> tuple[int, ...]:
        """Numbers of the waves, in order."""
        return tuple(sorted({cls.wave for cls in self.classes if cls.planned}))

    @property
    def all_taken_over(self) -> bool:
        """Every class that moves at all is answered by its candidate, and there is one."""
        moving = [cls for cls in self.classes if cls.wave != STAYS]
        return bool(moving) and all(cls.standing in TAKEN_OVER for cls in moving)

    def with_classes(self, changed: Iterable[ClassState]) -> RolloutState:
        """The same rollout with these states in place of the former ones."""
        new = {cls.class_name: cls for cls in changed}
        return replace(self, classes=tuple(new.get(cls.class_name, cls) for cls in self.classes))


@dataclass(frozen=True)
class Event:
    """One change of one class: everything that is needed to replay it."""

    revision: int  # 1, 2, 3 … over the whole rollout
    at: datetime
    by: str  # "engine", or the person who decided
    source: Phase | None  # None for the first event of a class
    after: ClassState

    @property
    def is_move(self) -> bool:
        """A change of phase; otherwise of share, wave or candidate, or a notice to people."""
        return self.source is not self.after.phase


def changes_of_place(events: Iterable[Event]) -> Iterator[Event]:
    """The events that change the phase, the share or the wave of a class; `events`: all events of their classes."""
    places: dict[str, tuple[Phase, float, int]] = {}
    for event in events:
        cls = event.after
        place = (cls.phase, cls.share, cls.wave)
        if places.get(cls.class_name) != place:
            yield event
        places[cls.class_name] = place


def was_taken_back(events: Iterable[Event], class_name: str, candidate: str) -> bool:
    """Whether a candidate has ever been rolled back from a class, by a guard or by a person."""
    failed = (class_name, Phase.ROLLED_BACK, candidate)
    return any((event.after.class_name, event.after.phase, event.after.candidate) == failed for event in events)


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
    return RolloutState.of_all(classes.values(), revision)
