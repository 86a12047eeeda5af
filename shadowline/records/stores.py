"""Both stores on the one database of the project."""

from __future__ import annotations

from dataclasses import dataclass

from shadowline.records.database import open_database
from shadowline.records.pairs import PairStore
from shadowline.records.rollout import RolloutStore
from shadowline.settings import Settings


@dataclass(frozen=True)
class Records:
    pairs: PairStore
    rollout: RolloutStore


def open_records(url: str | None = None) -> Records:
    """The stores of `url`, or of the database that SHADOWLINE_DATABASE_URL names."""
    engine = open_database(url or Settings().database_url)
    return Records(PairStore(engine), RolloutStore(engine))
