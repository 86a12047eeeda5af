"""Where models can be loaded from, and which of them the registry's champion holds.

records.locations.upsert_model([ModelLocation(fingerprint, "bolt", LEGACY, "legacy/bolt", "1")], now)
records.locations.model(fingerprint).location
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.store_session import StoreSession
from shadowline.records.tables import ChampionRow, ModelRow
from shadowline.rollout.engine import ENGINE

CANDIDATE, LEGACY = "candidate", "legacy"  # roles of a model


@dataclass(frozen=True)
class ModelLocation:
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


class ModelLocations:
    """The models on record, by fingerprint; each change leaves an entry in the audit log."""

    def __init__(self, session: StoreSession) -> None:
        self._session = session

    def upsert_model(self, places: Iterable[ModelLocation], at: datetime) -> None:
        """Note where models can be loaded from; a newer place of the same fingerprint wins."""
        with self._session.on_record() as connection:
            for place in places:
                values = {**vars(place), "at": at}
                query = select(ModelRow.__table__).where(ModelRow.fingerprint == place.fingerprint)
                row = connection.execute(query).mappings().first()
                if row is None or dict(row) != values:
                    statement = self._session.insert(ModelRow).values(**values)
                    connection.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=values))
                    self._session.note(
                        connection, [Record(EntryKind.LOCATION, place.class_name, vars(place), ENGINE, at)]
                    )

    def model(self, fingerprint: str) -> ModelLocation:
        """Raises ValueError for a fingerprint that is not on record."""
        with self._session.reading() as connection:
            row = connection.execute(select(ModelRow).where(ModelRow.fingerprint == fingerprint)).first()
        if row is None:
            raise ValueError(f"model {fingerprint[:12]}…: not on record; register it again")
        return _place(row)

    def set_champion(self, fingerprints: Mapping[str, str], at: datetime) -> None:
        """Note which model of each class the registry's champion holds; a class that it does not hold has no row."""
        with self._session.on_record() as connection:
            former = set(connection.execute(select(ChampionRow.class_name)).scalars())
            connection.execute(delete(ChampionRow))
            rows = [
                {"class_name": name, "fingerprint": fingerprint, "at": at}
                for name, fingerprint in sorted(fingerprints.items())
            ]
            if rows:
                connection.execute(insert(ChampionRow), rows)
            named = {name: fingerprints.get(name) for name in sorted(former | set(fingerprints))}
            notes = [
                Record(EntryKind.CHAMPION, name, {"fingerprint": fingerprint}, ENGINE, at)
                for name, fingerprint in named.items()
            ]
            self._session.note(connection, notes)

    def known_models(self) -> dict[str, KnownModels]:
        """Class → its models on record, which can answer outside of the rollout."""
        with self._session.reading() as connection:
            champion = dict(connection.execute(select(ChampionRow.class_name, ChampionRow.fingerprint)).tuples().all())
        legacy = self.current_legacy()
        return {name: KnownModels(legacy.get(name), champion.get(name)) for name in sorted({*legacy, *champion})}

    def current_legacy(self) -> dict[str, str]:
        """Class → fingerprint of the legacy model that was recorded last."""
        return {place.class_name: place.fingerprint for place in reversed(self.models(LEGACY))}

    def models(self, role: str) -> tuple[ModelLocation, ...]:
        """All models of one role, the newest first."""
        query = select(ModelRow).where(ModelRow.role == role).order_by(ModelRow.at.desc())
        with self._session.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(_place(row) for row in rows)


def _place(row: Any) -> ModelLocation:
    return ModelLocation(row.fingerprint, row.class_name, row.role, row.location, row.version)
