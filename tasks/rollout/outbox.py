"""The actions of a rollout outside the database; each can be repeated without harm."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mlflow.exceptions import MlflowException
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from shadowline.core.params import Params
from shadowline.core.secrets import mask
from shadowline.records.model_locations import CANDIDATE
from shadowline.records.outbox import PendingAction
from shadowline.records.stores import Records
from shadowline.rollout.engine import ENGINE, Action, ActionKind
from shadowline.rollout.state import STAYS
from tasks.integrations.audit_log import note_promotion
from tasks.integrations.mlflow_registry import promote_live
from tasks.integrations.webhook import notify
from tasks.rollout.legacy_models import archive_legacy, delete_legacy, keep_predecessor, prove_archive

_OUTSIDE = (ValueError, OSError, MlflowException)  # errors of the systems outside


DECOMMISSIONING = frozenset({ActionKind.ARCHIVE_LEGACY, ActionKind.PROVE_ARCHIVE, ActionKind.DELETE_LEGACY})
AT_ONCE = frozenset(ActionKind) - DECOMMISSIONING


@task(cache_policy=NO_CACHE)
def drain_outbox(records: Records, params: Params, root: Path, at: datetime, kinds: frozenset[ActionKind]) -> int:
    """Execute the pending actions of these kinds, oldest first, and mark them done; returns how many are left.

    An action that fails is noted and tried again at the next call; later actions of the same class wait for it.
    """
    stuck: set[str] = set()
    for pending in _pending(records, kinds):
        if pending.action.class_name in stuck:
            continue
        try:
            execute_action(pending.action, records, params, root)
        except _OUTSIDE as error:
            why = mask(str(error))
            get_run_logger().error("%s %s: %s", pending.action.kind, pending.action.class_name, why)
            records.outbox.finish_action(pending.id, at, error=why)
            stuck.add(pending.action.class_name)
        else:
            records.outbox.finish_action(pending.id, at)
    return len(_pending(records, kinds))


def _pending(records: Records, kinds: frozenset[ActionKind]) -> list[PendingAction]:
    return [action for action in records.outbox.pending_actions() if action.action.kind in kinds]


def execute_action(action: Action, records: Records, params: Params, root: Path) -> None:
    """Execute one action; raises the errors of the systems outside."""
    if action.kind in DECOMMISSIONING and records.locations.model(action.fingerprint).role == CANDIDATE:
        keep_predecessor(action.class_name, action.fingerprint)
        return
    match action.kind:
        case ActionKind.PROMOTE:
            live = {cls.class_name: cls.candidate for cls in records.rollout.state().classes if cls.wave != STAYS}
            note_promotion(promote_live.fn(params.registry.model_name, live), ENGINE)
        case ActionKind.ARCHIVE_LEGACY:
            archive_legacy(action.class_name, action.fingerprint)
        case ActionKind.PROVE_ARCHIVE:
            prove_archive(action.class_name, action.fingerprint, root)
        case ActionKind.DELETE_LEGACY:
            delete_legacy(action.class_name, action.fingerprint)
        case ActionKind.NOTIFY:
            notify.fn(action.class_name, action.reason)
