"""The stores on the one database of the project."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from shadowline.core.settings import Settings
from shadowline.records.approvals import ApprovalStore
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.chain_heads import HeadPlace, open_heads
from shadowline.records.audit_log.keys import KeyFolder, open_keys
from shadowline.records.database import open_database
from shadowline.records.model_locations import ModelLocations
from shadowline.records.outbox import Outbox
from shadowline.records.pairs import PairStore
from shadowline.records.rollout_store import RolloutStore
from shadowline.records.store_session import StoreSession


@dataclass(frozen=True)
class Records:
    """The stores of one database; those of the rollout share one session."""

    pairs: PairStore
    rollout: RolloutStore  # events and the phase table
    outbox: Outbox  # actions that wait to be done outside
    approvals: ApprovalStore  # orders, approvals, refusals and checklist evidence
    locations: ModelLocations  # where models can be loaded from
    chain: Chain


def open_records(url: str | None = None, settings: Settings | None = None) -> Records:
    """The stores of `url`, or of the database that the settings name: those given, or SHADOWLINE_… of this process."""
    settings = settings or Settings()
    heads = open_heads(settings.audit_witness)
    return records_on(open_database(url or settings.database_url), open_keys(settings), heads)


def records_on(engine: Engine, keys: KeyFolder, heads: HeadPlace | None = None) -> Records:
    """The stores of an open database, whose audit log is signed with `keys`; its heads are copied to `heads`."""
    chain = Chain(engine, keys, heads)
    session = StoreSession(engine, chain)
    rollout = RolloutStore(session)
    return Records(
        pairs=PairStore(engine, chain),
        rollout=rollout,
        outbox=Outbox(session),
        approvals=ApprovalStore(session, rollout.state),
        locations=ModelLocations(session),
        chain=chain,
    )
