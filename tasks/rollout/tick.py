"""One tick of the rollout as a Prefect task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from shadowline.core.params import Params
from shadowline.records.audit_log.pair_seals import seal_pairs_if_possible
from shadowline.records.observe import observe
from shadowline.records.rollout_store import ConcurrentUpdateError
from shadowline.records.stores import Records
from shadowline.rollout.engine import RolloutStep, begin, step
from shadowline.rollout.state import NEW_PRODUCT, RolloutState
from tasks.integrations.mlflow_registry import challenger_fingerprints


async def _is_worth_a_retry(task: object, run: object, state: State[object]) -> bool:
    """False where another engine committed first: its tick has been made."""
    result = await state.aresult(raise_on_failure=False)
    return not isinstance(result, ConcurrentUpdateError)


def begin_rollout(
    records: Records,
    waves: Sequence[Sequence[str]],
    params: Params,
    at: datetime,
    by: str,
    without_legacy: Collection[str] = (),
) -> RolloutState:
    """Plan the rollout of the challenger, after the waves that are planned already; see `rollout.engine.begin`.

    Every class starts with the legacy model that is newest on record, a new product with its starter. Raises ValueError
    where no challenger waits, a class has no model, or is in the rollout already.
    """
    candidates = challenger_fingerprints(params.registry.model_name)
    if not candidates:
        raise ValueError("no challenger is registered: the verdict on the last model was negative; see its report")
    before = records.rollout.state()
    starters = {cls.class_name: cls.legacy for cls in before.classes if cls.wave == NEW_PRODUCT and cls.legacy}
    legacy = {**starters, **records.locations.current_legacy()}
    for name in {name for wave in waves for name in wave} & before.retired_names - params.classes.keys():
        raise ValueError(f"class {name!r} was removed; add it again with `shadowline class add {name}`")
    state, events = begin(waves, legacy, candidates, at, by, before, without_legacy)
    records.rollout.begin(events)
    return state


def look_ahead(records: Records, challenger: Mapping[str, str], now: datetime, params: Params) -> RolloutStep:
    """The step that a tick would take now, without the orders that wait for it; nothing is written."""
    state = records.rollout.state()
    return step(state, observe(state, records, challenger, now, params), params.rollout)


@task(retries=3, retry_delay_seconds=[1, 5, 15], cache_policy=NO_CACHE, retry_condition_fn=_is_worth_a_retry)
def tick_once(records: Records, challenger: Mapping[str, str], now: datetime, params: Params) -> RolloutStep:
    """Observe, decide, write; raises ConcurrentUpdateError, with nothing written, where another engine was first."""
    order = records.approvals.next_order()
    state = records.rollout.state()
    seen = observe(state, records, challenger, now, params, order)
    result = step(state, seen, params.rollout)
    records.rollout.commit(result, order)
    seal_pairs_if_possible(records.chain, now)
    records.chain.tell_heads()
    return result
