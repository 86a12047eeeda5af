"""The tables. Times are UTC; a model is named by its fingerprint.

Pairs, events, approvals, refusals and checklist evidence are never updated; of feedback only `superseded` changes.
Triggers protect the entries of the audit log.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class NaiveTimeError(ValueError, DontWrapMixin):
    """A time without a zone; SQLAlchemy raises it unwrapped."""


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time in UTC, also where the database keeps none; refuses naive times."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise NaiveTimeError(f"time {value} has no time zone; give UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        bool: Boolean,
        float: Float,
    }


class PairRow(Base):
    """One image, judged by the candidate and the legacy model, or by one of them; a failure says why."""

    __tablename__ = "pairs"
    __table_args__ = (
        Index(
            "pairs_for_counting",  # every tick counts all pairs, from this index alone
            "class_name", "candidate", "legacy", "received_at", "is_first", "source", "candidate_alarm", "legacy_alarm",
            "image_id",
        ),
        Index("pairs_first_frames", "class_name", "candidate", "legacy", "is_first", "id"),  # the newest of them
    )  # fmt: skip

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)  # idempotency: image, capture time, both fingerprints
    trace_id: Mapped[str] = mapped_column(String(64), index=True)
    class_name: Mapped[str] = mapped_column(String(64))
    image_id: Mapped[str] = mapped_column(String(64), index=True)  # sha256 of the file's bytes
    image_path: Mapped[str] = mapped_column(Text, default="")  # where the image lies, or empty
    captured_at: Mapped[datetime]  # what the caller claims; counts in no verdict
    capture_suspect: Mapped[bool] = mapped_column(
        default=False
    )  # far from received_at, see gateway.max_capture_age_hours
    received_at: Mapped[datetime]  # by the server's clock; the only time that counts
    source: Mapped[str] = mapped_column(String(16), default="line")  # see `pairs.PairSource`
    frame_group: Mapped[str] = mapped_column(String(64))  # image_id of the first near-identical frame
    is_first: Mapped[bool]  # of its frame group, for this class and these two models; only such rows are evidence
    frame_signature: Mapped[bytes | None] = mapped_column(LargeBinary)  # see `shadowline/data/near_duplicates.py`
    review_share: Mapped[float] = mapped_column(default=0.0)  # probability of a draw in force at receipt
    review_drawn: Mapped[bool] = mapped_column(default=False)  # for review, by chance alone
    candidate: Mapped[str] = mapped_column(String(64))  # empty where the legacy model judged alone
    legacy: Mapped[str] = mapped_column(String(64))
    answered_by: Mapped[str] = mapped_column(String(16))  # candidate | legacy
    candidate_score: Mapped[float | None]
    candidate_threshold: Mapped[float | None]
    candidate_alarm: Mapped[bool | None]
    candidate_latency_ms: Mapped[float | None]
    candidate_error: Mapped[str | None] = mapped_column(Text)  # "dropped" where it was never asked
    legacy_score: Mapped[float | None]
    legacy_threshold: Mapped[float | None]
    legacy_alarm: Mapped[bool | None]
    legacy_latency_ms: Mapped[float | None]
    legacy_error: Mapped[str | None] = mapped_column(Text)


class FeedbackRow(Base):
    """An inspector's label of an image; a later label supersedes an earlier one, which stays on record."""

    __tablename__ = "feedback"
    __table_args__ = (
        Index("feedback_by_image", "class_name", "image_id"),
        Index(
            "feedback_that_counts", "class_name", "image_id", unique=True,
            sqlite_where=text("NOT superseded"), postgresql_where=text("NOT superseded"),
        ),  # two would count a pair twice
    )  # fmt: skip

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    class_name: Mapped[str] = mapped_column(String(64))
    image_id: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(16))  # normal | anomalous
    by: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime]
    note: Mapped[str] = mapped_column(Text, default="")
    superseded: Mapped[bool] = mapped_column(default=False)


class ModelRow(Base):
    """Where the model with a fingerprint can be loaded from."""

    __tablename__ = "models"

    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    class_name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))  # candidate | legacy
    location: Mapped[str] = mapped_column(Text)  # directory or models:/NAME/VERSION
    version: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]


class ChampionRow(Base):
    """Which model of a class the registry's champion holds; written when a version is promoted."""

    __tablename__ = "champions"

    class_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # of a model on record
    at: Mapped[datetime]


class EventRow(Base):
    """One change of one class. The revision is the lock: of two engines that write the same one, one loses."""

    __tablename__ = "rollout_events"

    revision: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(128))
    source: Mapped[str | None] = mapped_column(String(32))
    class_name: Mapped[str] = mapped_column(String(64), index=True)
    phase: Mapped[str] = mapped_column(String(32))
    after: Mapped[dict[str, Any]]


class ClassRow(Base):
    """The phase table: what the events lead to, as the gateway reads it."""

    __tablename__ = "rollout_classes"

    class_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    revision: Mapped[int]  # of the event that last changed the class
    state: Mapped[dict[str, Any]]


class ActionRow(Base):
    """The outbox: what has to happen outside, written with the events and crossed off when done."""

    __tablename__ = "rollout_actions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    revision: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))
    class_name: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    done_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)


class OrderRow(Base):
    """A person's order to the engine; done at the revision that the tick reached."""

    __tablename__ = "rollout_orders"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    classes: Mapped[list[str]]
    by: Mapped[str] = mapped_column(String(128))
    why: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    done_revision: Mapped[int | None]


class ApprovalRow(Base):
    """A person's approval of one phase of one class with exactly two models."""

    __tablename__ = "rollout_approvals"
    __table_args__ = (UniqueConstraint("class_name", "target", "legacy", "candidate"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    class_name: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(32))
    legacy: Mapped[str] = mapped_column(String(64))
    candidate: Mapped[str] = mapped_column(String(64))
    by: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime]


class RefusalRow(Base):
    """A person's refusal of one phase of one class with exactly two models; the question is not asked again."""

    __tablename__ = "rollout_refusals"
    __table_args__ = (UniqueConstraint("class_name", "target", "legacy", "candidate"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    class_name: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(32))
    legacy: Mapped[str] = mapped_column(String(64))
    candidate: Mapped[str] = mapped_column(String(64))
    by: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime]


class EvidenceRow(Base):
    """One item of the decommissioning checklist, put on record for one class."""

    __tablename__ = "rollout_evidence"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    class_name: Mapped[str] = mapped_column(String(64))
    legacy: Mapped[str] = mapped_column(String(64))  # fingerprint
    item: Mapped[str] = mapped_column(String(32))
    by: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime]
    link: Mapped[str] = mapped_column(Text)  # where the evidence lies


class AuditNoteRow(Base):
    """A note for the audit log, written in the transaction of the change; deleted when it is sealed."""

    __tablename__ = "audit_notes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[str] = mapped_column(String(32))
    by: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))
    body: Mapped[str] = mapped_column(Text)


class AuditEntryRow(Base):
    """One entry of the audit log (`records/audit_log/entry.py`), every field exactly as it was signed.

    Triggers refuse to update or delete.
    """

    __tablename__ = "audit_entries"
    __table_args__ = (Index("audit_entries_by_subject", "kind", "subject"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32), index=True)
    by: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))
    body: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
    signature: Mapped[str] = mapped_column(String(128))
