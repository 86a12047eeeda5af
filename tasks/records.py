"""The records from Prefect: one tick of the rollout."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from shadowline.params import Params
from shadowline.records.observe import observe
from shadowline.records.rollout import CANDIDATE, ModelPlace, MovedMeanwhileError
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import Step, begin, step
from shadowline.rollout.state import NEW_PRODUCT, RolloutState
from tasks.registry import ModelVersion, challenger_fingerprints


async def _is_worth_a_retry(task: object, run: object, state: State) -> bool:
    """Not where another engine was first: its tick has been made."""
    result = await state.aresult(raise_on_failure=False)
    return not isinstance(result, MovedMeanwhileError)


@task(retries=3, retry_delay_seconds=[1, 5, 15])
def note_candidate(version: ModelVersion, at: datetime) -> None:
    """Note for every class of a registered version where its model can be loaded from."""
    open_records().rollout.know_model(_places(version), at)


def note_champion(version: ModelVersion, at: datetime) -> None:
    """The same of the version that leads, and that it does: the gateway reads no alias of the registry."""
    rollout = open_records().rollout
    rollout.know_model(_places(version), at)
    rollout.know_champion(version.class_fingerprints, at)


def _places(version: ModelVersion) -> list[ModelPlace]:
    return [
        ModelPlace(fingerprint, name, CANDIDATE, version.uri, version.version)
        for name, fingerprint in version.class_fingerprints.items()
    ]


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
    where no challenger waits, a class has no model, or is on its way already.
    """
    candidates = challenger_fingerprints(params.registry.model_name)
    if not candidates:
        raise ValueError("no challenger is registered: the verdict on the last model was negative; see its report")
    before = records.rollout.state()
    starters = {one.class_name: one.legacy for one in before.classes if one.wave == NEW_PRODUCT and one.legacy}
    legacy = {**starters, **records.rollout.newest_legacy()}
    state, events = begin(waves, legacy, candidates, at, by, before, without_legacy)
    records.rollout.begin(events)
    return state


def look_ahead(records: Records, challenger: Mapping[str, str], now: datetime, params: Params) -> Step:
    """What a tick would come to now, without the orders that wait for it; nothing is written."""
    state = records.rollout.state()
    return step(state, observe(state, records, challenger, now, params), params.rollout)


@task(retries=3, retry_delay_seconds=[1, 5, 15], cache_policy=NO_CACHE, retry_condition_fn=_is_worth_a_retry)
def tick_once(records: Records, challenger: Mapping[str, str], now: datetime, params: Params) -> Step:
    """Observe, decide, write; raises MovedMeanwhileError, with nothing written, where another engine was first."""
    order = records.rollout.next_order()
    state = records.rollout.state()
    seen = observe(state, records, challenger, now, params, order)
    result = step(state, seen, params.rollout)
    records.rollout.commit(result, order)
    return result
