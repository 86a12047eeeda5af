"""The rollout in SQL: events, the phase table that they lead to, the outbox, and the words of people.

store = open_records(url).rollout
state = store.state()
store.commit(step(state, observation, policy), observation.now, order)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import Kind, Record, json_sha256
from shadowline.records.database import reading
from shadowline.records.tables import (
    ActionRow,
    ApprovalRow,
    ChampionRow,
    ClassRow,
    EventRow,
    EvidenceRow,
    ModelRow,
    OrderRow,
    RefusalRow,
)
from shadowline.rollout.engine import ENGINE, Action, ActionKind, Step, join
from shadowline.rollout.observation import Approval, ApprovalRequest, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState, Event, RolloutState, replay, was_taken_back


class MovedMeanwhileError(RuntimeError):
    """Another engine has moved the rollout since it was read; nothing of this tick was written."""


@dataclass(frozen=True)
class StoredOrder:
    id: int
    order: Order


@dataclass(frozen=True)
class PendingAction:
    id: int
    action: Action
    last_error: str | None


CANDIDATE, LEGACY = "candidate", "legacy"  # roles of a model


@dataclass(frozen=True)
class ModelPlace:
    """Where the model with a fingerprint can be loaded from."""

    fingerprint: str
    class_name: str
    role: str  # CANDIDATE: a version of the multi-class model, LEGACY: a model of one class
    location: str
    version: str


@dataclass(frozen=True)
class KnownModels:
    """Fingerprints of a class's models on record, whether or not the class is in the rollout."""

    legacy: str | None  # the newest
    champion: str | None


class RolloutStore:
    """State and history of one rollout."""

    def __init__(self, engine: Engine, chain: Chain) -> None:
        self.engine, self._chain = engine, chain

    # --- state ---

    def begin(self, events: Sequence[Event]) -> None:
        """Write the first events of a migration; raises MovedMeanwhileError where others have been written since."""
        with self._writing() as connection:
            last = _last_revision(connection)
            if events and events[0].revision != last + 1:
                raise MovedMeanwhileError(f"the rollout is at revision {last}; look at it and plan again")
            self._append(connection, events)

    def join(self, class_name: str, starter: str, at: datetime, by: str) -> bool:
        """Let a new product in with its starter model; False where nothing changes. See `rollout.engine.join`."""
        with self._writing() as connection:
            events = tuple(_event(row) for row in connection.execute(select(EventRow).order_by(EventRow.revision)))
            new = join(replay(events), class_name, starter, at, by)
            self._append(connection, new)
        return bool(new)

    def revision(self) -> int:
        """Number of the last event: a cheap look whether anything has changed."""
        with self._reading() as connection:
            return _last_revision(connection)

    def state(self) -> RolloutState:
        """The phase table."""
        with self._reading() as connection:
            rows = connection.execute(select(ClassRow.state)).scalars().all()
            revision = _last_revision(connection)
        classes = sorted((ClassState.from_dict(raw) for raw in rows), key=lambda one: (one.wave, one.class_name))
        return RolloutState(tuple(classes), revision)

    def events(self, class_name: str | None = None) -> tuple[Event, ...]:
        query = select(EventRow).order_by(EventRow.revision)
        if class_name is not None:
            query = query.where(EventRow.class_name == class_name)
        with self._reading() as connection:
            return tuple(_event(row) for row in connection.execute(query))

    def was_taken_back(self, class_name: str, candidate: str) -> bool:
        return was_taken_back(self.events(class_name), class_name, candidate)

    def commit(self, step: Step, order: StoredOrder | None = None) -> None:
        """Write what a tick came to, in one transaction: events, phase table, outbox, and the order that it obeyed.

        Raises MovedMeanwhileError, with nothing written, where another engine was first.
        """
        seen = step.state.revision - len(step.events)
        with self._writing() as connection:
            last = _last_revision(connection)
            if last != seen:
                raise MovedMeanwhileError(f"the rollout is at revision {last}, this tick saw {seen}; nothing written")
            self._write(connection, step)
            if order is not None:
                _cross_off(connection, order, step.state.revision)
                self._chain.note(connection, _obeyed_records(order, step.state.revision))

    def change(self, decide: Callable[[Connection, tuple[Event, ...]], tuple[Step, Sequence[Record]]]) -> None:
        """Write what `decide` makes of all events so far, and what it writes itself, in one transaction.

        Beside the step come notes for the audit chain. Nothing is written where it raises.
        """
        with self._writing() as connection:
            events = tuple(_event(row) for row in connection.execute(select(EventRow).order_by(EventRow.revision)))
            step, notes = decide(connection, events)
            self._write(connection, step)
            self._chain.note(connection, notes)

    def _write(self, connection: Connection, step: Step) -> None:
        self._append(connection, step.events, step.actions)
        for action in step.actions:
            row = {**asdict(action), "kind": str(action.kind), "revision": step.state.revision}
            connection.execute(insert(ActionRow).values(**row))

    @contextmanager
    def _on_record(self) -> Iterator[Connection]:
        """A transaction whose notes for the audit chain are sealed right after it; it waits for no key."""
        with self.engine.begin() as connection:
            yield connection
        self._chain.seal_if_possible()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """The same, and no other writer of the rollout runs beside it; readers go on."""
        with self._on_record() as connection:
            if connection.dialect.name == "postgresql":  # SQLite has one writer anyhow
                connection.execute(text(f"LOCK TABLE {EventRow.__tablename__} IN SHARE ROW EXCLUSIVE MODE"))
            yield connection

    def _append(self, connection: Connection, events: Sequence[Event], actions: Sequence[Action] = ()) -> None:
        """Events, and what they ask for: the last one's entry signs the actions."""
        for event in events:
            connection.execute(insert(EventRow).values(**_event_row(event)))
            self._upsert_class(connection, event.after.class_name, event.revision, event.after.to_dict())
            asked = actions if event is events[-1] else ()
            self._chain.note(connection, [_phase_record(event, asked)])

    def _upsert_class(self, connection: Connection, class_name: str, revision: int, state: Mapping[str, Any]) -> None:
        values = {"class_name": class_name, "revision": revision, "state": state}
        statement = self._insert(ClassRow).values(**values)
        connection.execute(statement.on_conflict_do_update(index_elements=["class_name"], set_=values))

    # --- the outbox ---

    def pending_actions(self) -> tuple[PendingAction, ...]:
        """Actions that are not done yet, oldest first."""
        query = select(ActionRow).where(ActionRow.done_at.is_(None)).order_by(ActionRow.id)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return tuple(
            PendingAction(
                row.id, Action(ActionKind(row.kind), row.class_name, row.fingerprint, row.reason), row.last_error
            )
            for row in rows
        )

    def finish_action(self, action_id: int, at: datetime, error: str | None = None) -> None:
        """Cross an action off, or note why it failed and leave it pending."""
        values = {"done_at": at, "last_error": None} if error is None else {"last_error": error}
        with self.engine.begin() as connection:
            connection.execute(update(ActionRow).where(ActionRow.id == action_id).values(**values))

    # --- people ---

    def order(self, order: Order, at: datetime) -> int:
        """Put an order on record for the next tick. Raises ValueError for a class that is not in the rollout."""
        state = self.state()
        for name in order.classes:
            state.of(name)
        row = {"kind": str(order.kind), "classes": list(order.classes), "by": order.by, "why": order.why, "at": at}
        with self._on_record() as connection:
            number = int(connection.execute(insert(OrderRow).values(**row).returning(OrderRow.id)).scalar_one())
            said = {"id": number, "order": str(order.kind), "why": order.why, "classes": list(order.classes)}
            self._chain.note(connection, [Record(Kind.ORDER, name, said, order.by, at) for name in order.classes])
        return number

    def next_order(self) -> StoredOrder | None:
        """The oldest order that no tick has obeyed."""
        query = select(OrderRow).where(OrderRow.done_revision.is_(None)).order_by(OrderRow.id).limit(1)
        with self._reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return StoredOrder(row.id, Order(OrderKind(row.kind), tuple(row.classes), row.by, row.why))

    def approve(self, approval: Approval, at: datetime) -> None:
        """Put an approval on record; the same one again has no effect.

        Raises ValueError where the class has moved on to other models: an approval names exactly what it approves.
        """
        one = self.state().of(approval.class_name)
        if (one.legacy, one.candidate) != (approval.legacy, approval.candidate):
            raise ValueError(
                f"class {approval.class_name!r} is now about {one.candidate[:12]} against {one.legacy[:12]}; "
                "look at `shadowline rollout status` and approve again"
            )
        self._put_answer(ApprovalRow, Kind.APPROVAL, approval, at)

    def refuse(self, refused: Approval, at: datetime) -> None:
        """Put on record that a person did not approve; an approval that is given later counts all the same."""
        self._put_answer(RefusalRow, Kind.REFUSAL, refused, at)

    def _put_answer(
        self, table: type[ApprovalRow] | type[RefusalRow], kind: Kind, answer: Approval, at: datetime
    ) -> None:
        row = {**asdict(answer), "target": str(answer.target)}
        statement = self._insert(table).values(**row, at=at).on_conflict_do_nothing().returning(table.id)
        said = {"target": str(answer.target), "candidate": answer.candidate, "legacy": answer.legacy}
        with self._on_record() as connection:
            number = connection.execute(statement).scalar()
            if number is not None:
                self._chain.note(connection, [Record(kind, answer.class_name, {"id": number, **said}, answer.by, at)])

    def is_refused(self, request: ApprovalRequest) -> bool:
        """Whether a person has said no to exactly this."""
        wanted = {**asdict(request), "target": str(request.target)}
        query = select(RefusalRow.id).filter_by(**wanted)
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def approvals(self) -> tuple[Approval, ...]:
        with self._reading() as connection:
            rows = connection.execute(select(ApprovalRow)).all()
        return tuple(Approval(r.class_name, Phase(r.target), r.legacy, r.candidate, r.by) for r in rows)

    def put_evidence(self, class_name: str, legacy: str, item: ChecklistItem, by: str, at: datetime, link: str) -> None:
        """Put one item of the checklist on record. Raises ValueError without a person or a link."""
        if not by.strip() or not link.strip():
            raise ValueError(f"evidence of {item}: by {by!r}, link {link!r}; both must say something")
        row = {"class_name": class_name, "legacy": legacy, "item": str(item), "by": by, "at": at, "link": link}
        said = {"item": str(item), "link": link, "legacy": legacy}
        with self._on_record() as connection:
            number = connection.execute(insert(EvidenceRow).values(**row).returning(EvidenceRow.id)).scalar_one()
            self._chain.note(connection, [Record(Kind.EVIDENCE, class_name, {"id": number, **said}, by, at)])

    def evidence(self, class_name: str, legacy: str) -> dict[ChecklistItem, Mapping[str, Any]]:
        """Item → its latest record, for exactly this legacy model."""
        query = select(EvidenceRow).where(EvidenceRow.class_name == class_name, EvidenceRow.legacy == legacy)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(EvidenceRow.id)).all()
        return {ChecklistItem(row.item): {"by": row.by, "at": row.at, "link": row.link} for row in rows}

    # --- models ---

    def know_model(self, places: Iterable[ModelPlace], at: datetime) -> None:
        """Note where models can be loaded from; a newer place of the same fingerprint wins."""
        with self._on_record() as connection:
            for place in places:
                values = {**vars(place), "at": at}
                known = select(ModelRow.__table__).where(ModelRow.fingerprint == place.fingerprint)
                row = connection.execute(known).mappings().first()
                if row is None or dict(row) != values:
                    statement = self._insert(ModelRow).values(**values)
                    connection.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=values))
                    self._chain.note(connection, [Record(Kind.LOCATION, place.class_name, vars(place), ENGINE, at)])

    def model(self, fingerprint: str) -> ModelPlace:
        """Raises ValueError for a fingerprint that nobody has noted."""
        with self._reading() as connection:
            row = connection.execute(select(ModelRow).where(ModelRow.fingerprint == fingerprint)).first()
        if row is None:
            raise ValueError(f"model {fingerprint[:12]}…: not on record; register it again")
        return ModelPlace(row.fingerprint, row.class_name, row.role, row.location, row.version)

    def know_champion(self, fingerprints: Mapping[str, str], at: datetime) -> None:
        """Note which model of each class the registry's champion holds; classes that it does not hold have none."""
        with self._on_record() as connection:
            former = set(connection.execute(select(ChampionRow.class_name)).scalars())
            connection.execute(delete(ChampionRow))
            rows = [{"class_name": name, "fingerprint": one, "at": at} for name, one in sorted(fingerprints.items())]
            if rows:
                connection.execute(insert(ChampionRow), rows)
            named = {name: fingerprints.get(name) for name in sorted(former | set(fingerprints))}
            notes = [Record(Kind.CHAMPION, name, {"fingerprint": one}, ENGINE, at) for name, one in named.items()]
            self._chain.note(connection, notes)

    def known_models(self) -> dict[str, KnownModels]:
        """Class → the models that can answer for it outside the rollout."""
        with self._reading() as connection:
            champion = dict(connection.execute(select(ChampionRow.class_name, ChampionRow.fingerprint)).tuples().all())
        legacy = self.newest_legacy()
        return {name: KnownModels(legacy.get(name), champion.get(name)) for name in sorted({*legacy, *champion})}

    def newest_legacy(self) -> dict[str, str]:
        """Class → fingerprint of the legacy model that was taken on record last."""
        return {one.class_name: one.fingerprint for one in reversed(self.models(LEGACY))}

    def models(self, role: str) -> tuple[ModelPlace, ...]:
        """All of one role, the newest first."""
        query = select(ModelRow).where(ModelRow.role == role).order_by(ModelRow.at.desc())
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return tuple(ModelPlace(r.fingerprint, r.class_name, r.role, r.location, r.version) for r in rows)

    def _insert(self, table: Any) -> Any:
        return (postgres_insert if self.engine.dialect.name == "postgresql" else sqlite_insert)(table)

    def _reading(self) -> Connection:
        return reading(self.engine)


def _last_revision(connection: Connection) -> int:
    return int(connection.execute(select(func.max(EventRow.revision))).scalar() or 0)


def _cross_off(connection: Connection, order: StoredOrder, revision: int) -> None:
    done = update(OrderRow).where(OrderRow.id == order.id, OrderRow.done_revision.is_(None))
    if not connection.execute(done.values(done_revision=revision)).rowcount:
        raise MovedMeanwhileError(f"order {order.id} was obeyed by another engine; nothing written")


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


def _obeyed_records(order: StoredOrder, revision: int) -> list[Record]:
    said, now = {"id": order.id, "order": str(order.order.kind), "obeyed_at_revision": revision}, datetime.now(UTC)
    return [Record(Kind.ORDER, name, said, ENGINE, now) for name in order.order.classes]


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
    return Record(Kind.PHASE, after.class_name, body, event.by, event.at)


def _event(row: Any) -> Event:
    source = Phase(row.source) if row.source else None
    return Event(row.revision, row.at, row.by, source, ClassState.from_dict(row.after))
