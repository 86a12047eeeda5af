"""The stores on the one database of the project."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from shadowline.core.settings import Settings
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.chain_heads import HeadPlace, open_heads
from shadowline.records.audit_log.keys import KeyFolder, open_keys
from shadowline.records.database import open_database
from shadowline.records.pairs import PairStore
from shadowline.records.rollout_store import RolloutStore


@dataclass(frozen=True)
class Records:
    pairs: PairStore
    rollout: RolloutStore
    chain: Chain


def open_records(url: str | None = None, settings: Settings | None = None) -> Records:
    """The stores of `url`, or of the database that the settings name: those given, or SHADOWLINE_… of this process."""
    settings = settings or Settings()
    heads = open_heads(settings.audit_witness)
    return records_on(open_database(url or settings.database_url), open_keys(settings), heads)


def records_on(engine: Engine, keys: KeyFolder, heads: HeadPlace | None = None) -> Records:
    """The stores of an open database, whose audit chain is signed with `keys`, and witnessed in a second place."""
    chain = Chain(engine, keys, heads)
    return Records(PairStore(engine, chain), RolloutStore(engine, chain), chain)
