"""Where a class can stand in its rollout, and every move that is legal.

LEGACY → SHADOW → CANARY → LIVE → LEGACY_READ_ONLY → LEGACY_OFF → LEGACY_DELETED → SHADOW, of its successor
LEGACY → ALONE → SHADOW, of its successor, where there is no legacy model
ROLLED_BACK and HELD can be reached from most of them, RETIRED from all; see LEGAL_MOVES.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    LEGACY = "legacy"  # the legacy model answers; no candidate runs
    SHADOW = "shadow"  # the legacy model answers; the candidate judges the same images
    CANARY = "canary"  # the candidate answers a share of the images; both judge all of them
    LIVE = "live"  # the candidate answers; the legacy model judges the same images
    LEGACY_READ_ONLY = "legacy_read_only"  # as LIVE, and the legacy model may no longer be trained
    LEGACY_OFF = "legacy_off"  # the candidate answers alone; the legacy model does no inference
    LEGACY_DELETED = "legacy_deleted"  # the legacy model is gone, its archive proven; until a successor comes
    ALONE = "alone"  # the first model of a class that never had a legacy one; until a successor comes
    ROLLED_BACK = "rolled_back"  # the legacy model answers; this candidate has failed and stays failed
    HELD = "held"  # a person stopped the clock; traffic stays as it was, hard guards still act
    RETIRED = "retired"  # a person removed the class: no model answers, and its history stays


P = Phase
_ON_THE_WAY: dict[Phase, frozenset[Phase]] = {
    P.LEGACY: frozenset({P.SHADOW, P.ALONE, P.HELD}),
    P.SHADOW: frozenset({P.CANARY, P.ROLLED_BACK, P.HELD}),
    P.CANARY: frozenset({P.LIVE, P.ROLLED_BACK, P.HELD}),
    P.LIVE: frozenset({P.LEGACY_READ_ONLY, P.ROLLED_BACK, P.HELD}),
    P.LEGACY_READ_ONLY: frozenset({P.LEGACY_OFF, P.ROLLED_BACK, P.HELD}),
    P.LEGACY_OFF: frozenset({P.LEGACY_DELETED, P.ROLLED_BACK, P.HELD}),
    P.LEGACY_DELETED: frozenset({P.SHADOW}),
    P.ALONE: frozenset({P.SHADOW}),
    P.ROLLED_BACK: frozenset({P.SHADOW}),
    P.HELD: frozenset({P.LEGACY, P.SHADOW, P.CANARY, P.LIVE, P.LEGACY_READ_ONLY, P.LEGACY_OFF, P.ROLLED_BACK}),
}
LEGAL_MOVES: dict[Phase, frozenset[Phase]] = {
    **{source: targets | {P.RETIRED} for source, targets in _ON_THE_WAY.items()},
    P.RETIRED: frozenset({P.LEGACY}),  # planned or enrolled again, as a new class
}

FORWARD: tuple[Phase, ...] = (
    P.LEGACY, P.SHADOW, P.CANARY, P.LIVE, P.LEGACY_READ_ONLY, P.LEGACY_OFF, P.LEGACY_DELETED,
)  # fmt: skip

WITHOUT_LEGACY = frozenset({P.LEGACY_DELETED, P.ALONE})  # no legacy model is left to go back to
TAKEN_OVER = frozenset({P.LIVE, P.LEGACY_READ_ONLY, P.LEGACY_OFF}) | WITHOUT_LEGACY  # the candidate answers all
CANDIDATE_JUDGES = frozenset({P.SHADOW, P.CANARY}) | TAKEN_OVER
LEGACY_JUDGES = frozenset({P.LEGACY, P.SHADOW, P.CANARY, P.LIVE, P.LEGACY_READ_ONLY, P.ROLLED_BACK})
BOTH_JUDGE = CANDIDATE_JUDGES & LEGACY_JUDGES


def check_move(class_name: str, source: Phase, target: Phase) -> None:
    """Raises ValueError for a move that is not in the table."""
    if target not in LEGAL_MOVES[source]:
        legal = ", ".join(sorted(LEGAL_MOVES[source]))
        raise ValueError(f"class {class_name!r}: no move from {source} to {target}; legal: {legal}")
