"""What people decide in a rollout: orders, approvals, refusals, and evidence for the decommissioning checklist.

records.approvals.approve(Approval("bolt", Phase.CANARY, legacy, candidate, "Ada"), now)
records.approvals.order(Order(OrderKind.HOLD, ("bolt",), "Ada", "cleaning"), now)    # for the next tick
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.store_session import StoreSession
from shadowline.records.tables import ApprovalRow, EvidenceRow, OrderRow, RefusalRow
from shadowline.rollout.engine import ENGINE
from shadowline.rollout.observation import Approval, ApprovalRequest, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import RolloutState


@dataclass(frozen=True)
class StoredOrder:
    """An order on record, by its number."""

    id: int
    order: Order


class ApprovalStore:
    """Orders, approvals, refusals and checklist evidence; each leaves an entry in the audit log."""

    def __init__(self, session: StoreSession, state: Callable[[], RolloutState]) -> None:
        """`state` reads the phase table; an order or approval for a class that is not in the rollout is refused."""
        self._session, self._state = session, state

    def order(self, order: Order, at: datetime) -> int:
        """Put an order on record for the next tick. Raises ValueError for a class that is not in the rollout."""
        state = self._state()
        for name in order.classes:
            state.of(name)
        row = {"kind": str(order.kind), "classes": list(order.classes), "by": order.by, "why": order.why, "at": at}
        with self._session.on_record() as connection:
            number = int(connection.execute(insert(OrderRow).values(**row).returning(OrderRow.id)).scalar_one())
            body = {"id": number, "order": str(order.kind), "why": order.why, "classes": list(order.classes)}
            self._session.note(
                connection, [Record(EntryKind.ORDER, name, body, order.by, at) for name in order.classes]
            )
        return number

    def next_order(self) -> StoredOrder | None:
        """The oldest order that no tick has carried out; None where there is none."""
        query = select(OrderRow).where(OrderRow.done_revision.is_(None)).order_by(OrderRow.id).limit(1)
        with self._session.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return StoredOrder(row.id, Order(OrderKind(row.kind), tuple(row.classes), row.by, row.why))

    def approve(self, approval: Approval, at: datetime) -> None:
        """Put an approval on record; recording the same approval again has no effect.

        Raises ValueError where the class has moved on to other models: an approval names exactly what it approves.
        """
        now = self._state().of(approval.class_name)
        if (now.legacy, now.candidate) != (approval.legacy, approval.candidate):
            raise ValueError(
                f"class {approval.class_name!r} is now about {now.candidate[:12]} against {now.legacy[:12]}; "
                "look at `shadowline rollout status` and approve again"
            )
        self._put_answer(ApprovalRow, EntryKind.APPROVAL, approval, at)

    def refuse(self, refused: Approval, at: datetime) -> None:
        """Put a refusal on record; an approval that is given later counts all the same."""
        self._put_answer(RefusalRow, EntryKind.REFUSAL, refused, at)

    def _put_answer(
        self, table: type[ApprovalRow] | type[RefusalRow], kind: EntryKind, answer: Approval, at: datetime
    ) -> None:
        row = {**asdict(answer), "target": str(answer.target)}
        statement = self._session.insert(table).values(**row, at=at).on_conflict_do_nothing().returning(table.id)
        body = {"target": str(answer.target), "candidate": answer.candidate, "legacy": answer.legacy}
        with self._session.on_record() as connection:
            number = connection.execute(statement).scalar()
            if number is not None:
                self._session.note(connection, [Record(kind, answer.class_name, {"id": number, **body}, answer.by, at)])

    def is_refused(self, request: ApprovalRequest) -> bool:
        """Whether a person has refused exactly this request."""
        wanted = {**asdict(request), "target": str(request.target)}
        query = select(RefusalRow.id).filter_by(**wanted)
        with self._session.reading() as connection:
            return connection.execute(query).first() is not None

    def approvals(self) -> tuple[Approval, ...]:
        with self._session.reading() as connection:
            rows = connection.execute(select(ApprovalRow)).all()
        return tuple(Approval(row.class_name, Phase(row.target), row.legacy, row.candidate, row.by) for row in rows)

    def record_evidence(
        self, class_name: str, legacy: str, item: ChecklistItem, by: str, at: datetime, link: str
    ) -> None:
        """Put one item of the checklist on record. Raises ValueError without a person or a link."""
        if not by.strip() or not link.strip():
            raise ValueError(f"evidence of {item}: by {by!r}, link {link!r}; both must say something")
        row = {"class_name": class_name, "legacy": legacy, "item": str(item), "by": by, "at": at, "link": link}
        body = {"item": str(item), "link": link, "legacy": legacy}
        with self._session.on_record() as connection:
            number = connection.execute(insert(EvidenceRow).values(**row).returning(EvidenceRow.id)).scalar_one()
            self._session.note(connection, [Record(EntryKind.EVIDENCE, class_name, {"id": number, **body}, by, at)])

    def evidence(self, class_name: str, legacy: str) -> dict[ChecklistItem, Mapping[str, Any]]:
        """Item → its latest record, for exactly this legacy model."""
        query = select(EvidenceRow).where(EvidenceRow.class_name == class_name, EvidenceRow.legacy == legacy)
        with self._session.reading() as connection:
            rows = connection.execute(query.order_by(EvidenceRow.id)).all()
        return {ChecklistItem(row.item): {"by": row.by, "at": row.at, "link": row.link} for row in rows}


def cross_off(connection: Connection, order: StoredOrder, revision: int) -> bool:
    """Note in the caller's transaction at which revision a tick carried out an order; False where another was first."""
    done = update(OrderRow).where(OrderRow.id == order.id, OrderRow.done_revision.is_(None))
    return bool(connection.execute(done.values(done_revision=revision)).rowcount)


def obeyed_records(order: StoredOrder, revision: int) -> list[Record]:
    """Entries for the audit log, one per class of the order."""
    body, now = {"id": order.id, "order": str(order.order.kind), "obeyed_at_revision": revision}, datetime.now(UTC)
    return [Record(EntryKind.ORDER, name, body, ENGINE, now) for name in order.order.classes]
