"""Retire legacy models: archive, prove that the archive restores, delete; as far as the rollout has asked for it.

prefect deployment run 'decommission/nightly'      # on a Prefect server, now
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.records.stores import open_records
from tasks.rollout.outbox import DECOMMISSIONING, drain_outbox


@flow(name="decommission")
def decommission(root: Path = Path()) -> int:
    """Work off what is due, and return how many actions are left; one that fails is tried again the next night.

    What may be decided about a legacy model, and when, is the rollout's alone (`shadowline rollout status`).
    """
    params = load_params(Layout(root).params)
    return drain_outbox(open_records(), params, root, datetime.now(UTC), DECOMMISSIONING)
