"""The contents of the record of one inspected part; `shadowline/audit/decision.py` builds it.

Checking a record needs its record.json alone: sha256 of the record as JSON with sorted keys and without blanks is
`record_sha256` in the body of its entry of the audit chain, and the entry is signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from shadowline.data.labels import Label
from shadowline.records.pair import Side


class DecisionOutcome(StrEnum):
    """The result of scoring the image again."""

    IDENTICAL = "identical"  # the score on record, bit for bit, under the same threshold
    ROUNDING = "rounding"  # the same decision; the scores are apart by no more than rounding
    DIFFERENT = "different"
    IMPOSSIBLE = "impossible"  # the model that decided is not available
    NOT_ASKED = "not_asked"


@dataclass(frozen=True)
class InspectedPart:
    """What was inspected."""

    number: str  # of the part; empty where none was given
    trace_id: str
    class_name: str
    image_id: str  # sha256 of the file's bytes
    captured_at: str  # UTC; what the caller claimed
    received_at: str  # UTC, by the server's clock: the time that the record uses


@dataclass(frozen=True)
class ModelStatement:
    """One model's decision, as it is on record."""

    side: Side
    fingerprint: str  # of what decides on the class
    score: float | None
    threshold: float | None
    decision: Label | None  # None: the model gave no answer
    error: str | None


@dataclass(frozen=True)
class ModelFacts:
    """The model that decided. Unknown fields are empty."""

    name: str  # of the registered model, or the directory
    version: str
    same_in: tuple[str, ...]  # versions that decide on this class by the same bits, the oldest first
    source: str  # where it was loaded from now: "registry", "archive" or "directory"; empty where it was not loaded
    problem: str  # why it could not be loaded
    git_commit: str
    params_hash: str
    encoder: str  # fingerprint
    bank: str  # sha256
    decoder: str  # sha256


@dataclass(frozen=True)
class CalibrationFacts:
    """The basis of the model's threshold, as stated in the model."""

    threshold: float | None
    method: str
    target_fpr: float | None  # guaranteed largest share of good parts that are stopped; None: no guarantee
    num_images: int | None  # normal ones that the threshold was taken from
    since_version: str  # the first registered version that decides by it
    since: str  # when that was registered, UTC


@dataclass(frozen=True)
class InstrumentCalibration(CalibrationFacts):
    """The calibration, and whether it was in force for this part."""

    problems: tuple[str, ...]  # empty: it was in force

    @property
    def valid(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class RecordedFeedback:
    """The inspector's label that counts."""

    label: str
    by: str
    at: str  # UTC
    note: str
    num_superseded: int  # earlier labels of the same image


@dataclass(frozen=True)
class RolloutStatus:
    """Where the class stood when the part was inspected."""

    revision: int  # of the rollout
    phase: str
    share: float  # of the images that the candidate answers
    position: float  # of this image; the candidate answers those below the share
    since: str  # UTC


@dataclass(frozen=True)
class HeatMap:
    """Size and hash of the anomaly map from which heatmap.png is drawn."""

    height: int  # cells
    width: int
    sha256: str  # of the values, float64, little-endian, row by row


@dataclass(frozen=True)
class Rerun:
    """The result of scoring the same image with the same model again."""

    outcome: DecisionOutcome
    reason: str
    score: float | None = None
    threshold: float | None = None
    difference: float | None = None  # new score − recorded score
    rounding: float | None = None  # how far apart rounding may bring the two
    environment: str = ""
    heatmap: HeatMap | None = None


@dataclass(frozen=True)
class ModelReference:
    """An entry of the audit log, by number, hash and signature."""

    number: int
    at: str
    hash: str
    key: str
    signature: str


@dataclass(frozen=True)
class InspectionRecord:
    part: InspectedPart
    decision: ModelStatement
    rule: tuple[str, ...]  # as text: which model answered and why, and by which threshold
    model: ModelFacts
    calibration: InstrumentCalibration
    rollout: RolloutStatus | None  # None: the class was in no rollout
    other: ModelStatement | None  # None: the other model was not asked
    feedback: RecordedFeedback | None
    rerun: Rerun
    registration: ModelReference | None  # None: older than the audit log
    phase: ModelReference | None
    drawn_at: str

    @property
    def confirmed(self) -> bool:
        """Nothing speaks against the record: the calibration was in force, and the re-run, if any, agrees."""
        agrees = self.rerun.outcome in {DecisionOutcome.IDENTICAL, DecisionOutcome.ROUNDING, DecisionOutcome.NOT_ASKED}
        return agrees and self.calibration.valid

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = json.loads(canonical(asdict(self)))
        return values


def canonical(record: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a record: JSON, sorted keys, without blanks."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(record)).hexdigest()
