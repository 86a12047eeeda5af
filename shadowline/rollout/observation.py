"""The input of the engine at a tick, built by `records/observe.py`: evidence of each class, orders and approvals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from shadowline.rollout.phases import Phase

if TYPE_CHECKING:
    from shadowline.rollout.guards import GuardResult
    from shadowline.rollout.verdict import ShadowVerdict


class ChecklistItem(StrEnum):
    """What must be on record before a legacy model is deleted; all eight."""

    ALL_MIGRATED = "all_migrated"  # every model migrated and validated
    PARALLEL_OPERATION = "parallel_operation"  # eight weeks of both models
    NO_CRITICAL_ISSUE = "no_critical_issue"  # none reported
    ARCHIVED = "archived"  # backup of the legacy model archived, and proven to restore
    DOCUMENTED = "documented"  # documentation updated
    TRAINED = "trained"  # team trained
    MONITORED = "monitored"  # dashboards configured
    ROLLBACK_DOCUMENTED = "rollback_documented"  # rollback procedure written down


@dataclass(frozen=True)
class ClassObservation:
    """Evidence of one class, and the two models that it is about."""

    class_name: str
    legacy: str  # fingerprint
    candidate: str  # fingerprint
    verdict: ShadowVerdict  # over everything since the candidate entered shadow mode
    guards: tuple[GuardResult, ...]  # likewise, hard ones first
    phase_days: int  # production days since the phase, or its present share, began
    parallel_days: int  # production days on which both models judged, since the candidate entered shadow mode
    last_received: datetime | None  # the newest image of the production; None where none came
    longest_pause: timedelta  # between two of them, so far
    unmeasured_since: datetime | None = None  # no label of a part that no model chose, for `window_days` and more
    unproven_misses: str = ""  # why it is not proven that the candidate misses no more without the legacy model
    evidence: frozenset[ChecklistItem] = frozenset()  # on record for this class


class OrderKind(StrEnum):
    ROLL_BACK = "rollback"
    HOLD = "hold"
    RESUME = "resume"


@dataclass(frozen=True)
class Order:
    """What a person told the engine to do with classes."""

    kind: OrderKind
    classes: tuple[str, ...]
    by: str
    why: str


@dataclass(frozen=True)
class Approval:
    """A person's permission for a class to enter a phase with exactly these models."""

    class_name: str
    target: Phase
    legacy: str  # fingerprint
    candidate: str  # fingerprint
    by: str


@dataclass(frozen=True)
class ApprovalRequest:
    """An approval that nobody has given yet, and that is all that a move waits for."""

    class_name: str
    target: Phase
    legacy: str  # fingerprint
    candidate: str  # fingerprint


@dataclass(frozen=True)
class Observation:
    """Everything that one tick looks at."""

    now: datetime
    challenger: Mapping[str, str]  # class → fingerprint in the model that waits; classes that rolled back may try it
    classes: tuple[ClassObservation, ...] = ()
    orders: tuple[Order, ...] = ()
    approvals: tuple[Approval, ...] = ()

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ValueError(f"observation: now {self.now} has no time zone; give UTC")

    def of(self, class_name: str) -> ClassObservation | None:
        return next((cls for cls in self.classes if cls.class_name == class_name), None)

    def approval(self, class_name: str, target: Phase, legacy: str, candidate: str) -> Approval | None:
        """The approval of exactly this move with exactly these models."""
        wanted = (class_name, target, legacy, candidate)
        return next(
            (
                approval
                for approval in self.approvals
                if (approval.class_name, approval.target, approval.legacy, approval.candidate) == wanted
            ),
            None,
        )
