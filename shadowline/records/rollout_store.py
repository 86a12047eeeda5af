"""The rollout in SQL: events, and the phase table that they lead to.

store = open_records(url).rollout
state = store.state()
store.commit(step(state, observation, policy), order)    # with the actions for the outbox, and the order that it obeyed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, text

from shadowline.records.approvals import StoredOrder, cross_off, obeyed_records
from shadowline.records.audit_log.entry import EntryKind, Record, json_sha256
from shadowline.records.outbox import put_actions
from shadowline.records.store_session import StoreSession
from shadowline.records.tables import (
    ClassRow,
    EventRow,
)
from shadowline.rollout.engine import Action, RolloutStep, join
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState, Event, RolloutState, replay, was_taken_back


class ConcurrentUpdateError(RuntimeError):
    """Another engine has moved the rollout since it was read; nothing of this tick was written."""


class RolloutStore:
    """State and history of one rollout."""

    def __init__(self, session: StoreSession) -> None:
        self._session = session

    @property
    def engine(self) -> Engine:
        return self._session.engine

    def begin(self, events: Sequence[Event]) -> None:
        """Write the first events of a migration; raises ConcurrentUpdateError where others have been written since."""
        with self._writing() as connection:
            last = _last_revision(connection)
            if events and events[0].revision != last + 1:
                raise ConcurrentUpdateError(f"the rollout is at revision {last}; look at it and plan again")
            self._append(connection, events)

    def join(self, class_name: str, starter: str, at: datetime, by: str) -> bool:
        """Add a new product with its starter model; False where nothing changes. See `rollout.engine.join`."""
        with self._writing() as connection:
            events = tuple(_event(row) for row in connection.execute(select(EventRow).order_by(EventRow.revision)))
            new = join(replay(events), class_name, starter, at, by)
            self._append(connection, new)
        return bool(new)

    def revision(self) -> int:
        """Number of the last event: a cheap way to see whether anything has changed."""
        with self._session.reading() as connection:
            return _last_revision(connection)

    def state(self) -> RolloutState:
        """The phase table."""
        with self._session.reading() as connection:
            rows = connection.execute(select(ClassRow.state)).scalars().all()
            revision = _last_revision(connection)
        return RolloutState.of_all((ClassState.from_dict(raw) for raw in rows), revision)

    def events(self, class_name: str | None = None) -> tuple[Event, ...]:
        query = select(EventRow).order_by(EventRow.revision)
        if class_name is not None:
            query = query.where(EventRow.class_name == class_name)
        with self._session.reading() as connection:
            return tuple(_event(row) for row in connection.execute(query))

    def was_taken_back(self, class_name: str, candidate: str) -> bool:
        return was_taken_back(self.events(class_name), class_name, candidate)

    def commit(self, step: RolloutStep, order: StoredOrder | None = None) -> None:
        """Write the result of a tick, in one transaction: events, phase table, outbox, and the order that it obeyed.

        Raises ConcurrentUpdateError, with nothing written, where another engine was first.
        """
        seen = step.state.revision - len(step.events)
        with self._writing() as connection:
            last = _last_revision(connection)
            if last != seen:
                raise ConcurrentUpdateError(f"the rollout is at revision {last}, this tick saw {seen}; nothing written")
            self._write(connection, step)
            if order is not None:
                if not cross_off(connection, order, step.state.revision):
                    raise ConcurrentUpdateError(f"order {order.id} was obeyed by another engine; nothing written")
                self._session.note(connection, obeyed_records(order, step.state.revision))

    def change(self, decide: Callable[[Connection, tuple[Event, ...]], tuple[RolloutStep, Sequence[Record]]]) -> None:
        """Write the step and the audit records that `decide` returns for all events so far, in one transaction.

        `decide` may write in the same transaction. Nothing is written where it raises.
        """
        with self._writing() as connection:
            events = tuple(_event(row) for row in connection.execute(select(EventRow).order_by(EventRow.revision)))
            step, notes = decide(connection, events)
            self._write(connection, step)
            self._session.note(connection, notes)

    def _write(self, connection: Connection, step: RolloutStep) -> None:
        self._append(connection, step.events, step.actions)
        put_actions(connection, step.actions, step.state.revision)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """An audited transaction that excludes other writers of the rollout; readers go on."""
        with self._session.on_record() as connection:
            if connection.dialect.name == "postgresql":  # SQLite has one writer anyhow
                connection.execute(text(f"LOCK TABLE {EventRow.__tablename__} IN SHARE ROW EXCLUSIVE MODE"))
            yield connection

    def _append(self, connection: Connection, events: Sequence[Event], actions: Sequence[Action] = ()) -> None:
        """Write events and their audit notes; the entry of the last event signs the actions."""
        for event in events:
            connection.execute(insert(EventRow).values(**_event_row(event)))
            self._upsert_class(connection, event.after.class_name, event.revision, event.after.to_dict())
            requested = actions if event is events[-1] else ()
            self._session.note(connection, [_phase_record(event, requested)])

    def _upsert_class(self, connection: Connection, class_name: str, revision: int, state: Mapping[str, Any]) -> None:
        values = {"class_name": class_name, "revision": revision, "state": state}
        statement = self._session.insert(ClassRow).values(**values)
        connection.execute(statement.on_conflict_do_update(index_elements=["class_name"], set_=values))


def _last_revision(connection: Connection) -> int:
    return int(connection.execute(select(func.max(EventRow.revision))).scalar() or 0)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "revision": event.revision,
        "at": event.at,
        "by": event.by,
        "source": str(event.source) if event.source else None,
        "class_name": event.after.class_name,
        "phase": str(event.after.phase),
        "after": event.after.to_dict(),
    }


def _phase_record(event: Event, actions: Sequence[Action]) -> Record:
    after = event.after
    body = {
        "revision": event.revision,
        "from": str(event.source) if event.source else None,
        "to": str(after.phase),
        "share": after.share,
        "candidate": after.candidate,
        "legacy": after.legacy,
        "reason": after.reason,
        "after_sha256": json_sha256(after.to_dict()),
        "actions": [{**asdict(action), "kind": str(action.kind)} for action in actions],
    }
    return Record(EntryKind.PHASE, after.class_name, body, event.by, event.at)


def _event(row: Any) -> Event:
    source = Phase(row.source) if row.source else None
    return Event(row.revision, row.at, row.by, source, ClassState.from_dict(row.after))
