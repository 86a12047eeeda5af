"""One tick of the rollout: look, move at most one step, do at once what that asks for.

shadowline rollout advance                        # once, here
shadowline deploy                                 # on a Prefect server, every few minutes
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.records.stores import open_records
from shadowline.rollout.engine import RolloutStep
from tasks.integrations.mlflow_registry import challenger_if_known
from tasks.rollout.approval_requests import ask_for_approvals
from tasks.rollout.outbox import AT_ONCE, drain_outbox
from tasks.rollout.tick import tick_once


@flow(name="rollout")
def tick(root: Path = Path(), now: datetime | None = None) -> RolloutStep:
    """Traffic first: the move is written before anything else is done; what fails outside is tried at the next tick."""
    params = load_params(Layout(root).params)
    records = open_records()
    at = now or datetime.now(UTC)
    result = tick_once(records, challenger_if_known(params.registry.model_name), at, params)
    drain_outbox(records, params, root, at, AT_ONCE)
    ask_for_approvals(result.asks, records.approvals)
    return result
