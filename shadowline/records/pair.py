"""The decisions of both models on one image: the record from which the evidence of a rollout is counted."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from shadowline.core.params import GatewayParams
from shadowline.data.labels import Label

DROPPED = "dropped"  # never paired: the candidate was not asked because a queue was full, or its decision was lost
REFERENCE_PART = "reference part"  # `by` of the label that a reference part came with
Side = Literal["candidate", "legacy"]


class PairSource(StrEnum):
    """How an image came to be judged."""

    LINE = "line"  # through the gateway
    BATCH = "batch"  # `shadowline shadow run`
    REFERENCE = "reference"  # a part with a known label that somebody put on the line
    REDECIDED = "redecided"  # a stored score from the line or a batch, under a threshold that was tuned later
    REDECIDED_TEST = "redecided_test"  # likewise from a reference part


REDECIDED = (PairSource.REDECIDED, PairSource.REDECIDED_TEST)
TEST_SOURCES = (PairSource.REFERENCE, PairSource.REDECIDED_TEST)  # not the production's own images


_PLAIN = (
    "class_name",
    "image_id",
    "image_path",
    "captured_at",
    "capture_suspect",
    "candidate",
    "legacy",
    "answered_by",
    "frame_signature",
    "review_share",
    "review_drawn",
)
_SAID = ("score", "threshold", "alarm", "latency_ms", "error")


@dataclass(frozen=True)
class ModelDecision:
    """The decision of one model on one image, or the error that prevented it."""

    score: float | None = None
    threshold: float | None = None
    latency_ms: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.score is None or self.threshold is None) == (self.error is None):
            raise ValueError(f"judgement {self}: give score and threshold, or an error")
        if not (math.isfinite(self.score or 0.0) and math.isfinite(self.threshold or 0.0)):
            raise ValueError(f"judgement {self}: score and threshold must be finite; give an error instead")

    @property
    def alarm(self) -> bool | None:
        if self.score is None or self.threshold is None:
            return None
        return self.score > self.threshold


@dataclass(frozen=True)
class Pair:
    """Both models' decisions on one image.

    A decision is None where the model does not judge: the legacy model once it is off, the candidate before shadow mode
    and after a rollback; a pair without a candidate's decision names no candidate, and is evidence for none.
    """

    class_name: str
    image_id: str  # sha256 of the file's bytes
    captured_at: datetime  # UTC; what the caller claims
    candidate: str  # fingerprint; empty where it does not judge
    legacy: str  # fingerprint
    answered_by: Side
    candidate_said: ModelDecision | None
    legacy_said: ModelDecision | None
    trace_id: str = ""
    image_path: str = ""
    received_at: datetime | None = None  # UTC, by the server's clock; None: the time of recording
    capture_suspect: bool = False  # see `is_capture_suspect`
    source: PairSource = PairSource.LINE
    frame_signature: bytes | None = None  # see `shadowline/data/near_duplicates.py`
    review_share: float = 0.0  # probability of a draw that was in force at receipt
    review_drawn: bool = False  # for review, by chance alone
    known_label: Label | None = None  # of a reference part; recorded with the pair, unless the image has a label

    def __post_init__(self) -> None:
        for what, at in (("captured", self.captured_at), ("received", self.received_at)):
            if at is not None and at.tzinfo is None:
                raise ValueError(f"image {self.image_id[:12]}…: {what} at {at}, no time zone; give UTC")
        if (self.candidate_said is None) == bool(self.candidate):
            raise ValueError(
                f"image {self.image_id[:12]}…: a pair names its candidate where it was asked, and only there"
            )
        if self.known_label is not None and self.source is not PairSource.REFERENCE:
            raise ValueError(
                f"image {self.image_id[:12]}…: label {self.known_label} of source {self.source}; only a "
                "reference part has a known label"
            )

    @property
    def key(self) -> str:
        return pair_key(self.class_name, self.image_id, self.captured_at, self.candidate, self.legacy)

    @property
    def models(self) -> Models:
        return self.class_name, self.candidate, self.legacy

    def to_row(self, now: datetime) -> dict[str, Any]:
        """All columns but those of its frame group; `now` is the time of receipt where the pair has none."""
        row = {name: getattr(self, name) for name in _PLAIN} | {"key": self.key, "source": str(self.source)}
        row |= {"trace_id": self.trace_id or self.key, "received_at": self.received_at or now}
        for side, decision in (("candidate", self.candidate_said), ("legacy", self.legacy_said)):
            row |= {f"{side}_{name}": getattr(decision, name, None) for name in _SAID}
        return row


def pair_key(class_name: str, image_id: str, captured_at: datetime, candidate: str, legacy: str) -> str:
    """The idempotency key of a pair: sha256 over class, image, capture time and both fingerprints."""
    parts = (class_name, image_id, captured_at.astimezone(UTC).isoformat(), candidate, legacy)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_capture_suspect(captured_at: datetime, received_at: datetime, params: GatewayParams) -> bool:
    """Whether a claimed capture time is too far from the receipt to be believed."""
    age = received_at - captured_at
    oldest, newest = timedelta(hours=params.max_capture_age_hours), timedelta(minutes=params.max_clock_skew_minutes)
    return not -newest <= age <= oldest


def is_drawn_for_review(class_name: str, image_id: str, share: float) -> bool:
    """Whether an image is drawn, with probability `share`, by its hash: always alike, whatever the models decide."""
    digest = hashlib.sha256("\n".join(("review", class_name, image_id)).encode()).digest()
    position = int.from_bytes(digest[:6], "big") / (1 << 48)  # 0 ≤ position < 1; a double holds all 48 bits
    return position < share


Models = tuple[str, str, str]  # class, fingerprints of candidate and legacy
