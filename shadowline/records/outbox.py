"""The outbox of the rollout: what has to happen outside, written with the events and crossed off when it is done.

for pending in records.outbox.pending_actions():
    ...                                             # every action can be repeated without harm
    records.outbox.finish_action(pending.id, now)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from shadowline.core.secrets import mask
from shadowline.records.store_session import StoreSession
from shadowline.records.tables import ActionRow
from shadowline.rollout.engine import Action, ActionKind


@dataclass(frozen=True)
class PendingAction:
    """An action that is not done yet."""

    id: int
    action: Action
    last_error: str | None  # why the last attempt failed; None before the first one


class Outbox:
    """Actions that wait to be done; `RolloutStore.commit` puts them here."""

    def __init__(self, session: StoreSession) -> None:
        self._session = session

    def pending_actions(self) -> tuple[PendingAction, ...]:
        """Actions that are not done yet, oldest first."""
        query = select(ActionRow).where(ActionRow.done_at.is_(None)).order_by(ActionRow.id)
        with self._session.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(
            PendingAction(
                row.id, Action(ActionKind(row.kind), row.class_name, row.fingerprint, row.reason), row.last_error
            )
            for row in rows
        )

    def finish_action(self, action_id: int, at: datetime, error: str | None = None) -> None:
        """Cross an action off, or note why it failed and leave it pending."""
        values = {"done_at": at, "last_error": None} if error is None else {"last_error": mask(error)}
        with self._session.engine.begin() as connection:
            connection.execute(update(ActionRow).where(ActionRow.id == action_id).values(**values))


def put_actions(connection: Connection, actions: Sequence[Action], revision: int) -> None:
    """Write actions in the caller's transaction; `revision` is that of the last event of the same step."""
    for action in actions:
        row = {**asdict(action), "kind": str(action.kind), "revision": revision}
        connection.execute(insert(ActionRow).values(**row))
