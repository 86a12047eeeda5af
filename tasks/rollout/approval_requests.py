"""Approvals that are missing: a person is asked once for each class, phase and pair of models.

A question is a run of the flow `approve`, which Prefect suspends until somebody answers. It is open as long as such a
run waits for its process or for the answer; a "no" is on record in the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from shadowline.records.approvals import ApprovalStore
from shadowline.rollout.observation import ApprovalRequest
from tasks.integrations.prefect_events import announce_request
from tasks.integrations.webhook import notify

APPROVE = "approve"  # name of the flow that asks
_WAITING = (StateType.SCHEDULED, StateType.PAUSED)  # for a process, and for the answer
_STARTING = (StateType.PENDING, StateType.RUNNING)  # takes seconds, unless the process was killed
_LONGEST_START = timedelta(minutes=10)


@task(cache_policy=NO_CACHE)
def ask_for_approvals(requests: Sequence[ApprovalRequest], approvals: ApprovalStore) -> list[ApprovalRequest]:
    """Announce the requests that no open question is about, and that nobody has refused; returns them.

    A webhook that does not answer does not stop the questions.
    """
    missing = [request for request in requests if not approvals.is_refused(request)]
    runs = open_questions() if missing else []
    new = [request for request in missing if not any(is_about(run, request) for run in runs)]
    for request in new:
        announce_request.fn(request)
        text = f"may it enter {request.target}? Answer in Prefect, or with `shadowline rollout approve`"
        notified = notify(request.class_name, text, return_state=True)
        if not notified.is_completed():
            get_run_logger().error("class %s: nobody was told of the question", request.class_name)
    return new


def is_asked_already(request: ApprovalRequest, own_run: UUID | None) -> bool:
    """Whether a run older than `own_run` asks the same question."""
    runs = [run for run in open_questions() if is_about(run, request)]
    created = {run.id: (run.created or datetime.max.replace(tzinfo=UTC), run.id) for run in runs}
    own = created.pop(own_run, None) if own_run else None
    return any(own is None or stamp < own for stamp in created.values())


def open_questions(now: datetime | None = None) -> list[FlowRun]:
    """Runs of the flow `approve` that wait for an answer, or will."""
    types = FlowRunFilterStateType(any_=[*_WAITING, *_STARTING])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[APPROVE])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=types)),
        )
    at = now or datetime.now(UTC)
    return [run for run in runs if _is_open(run, at)]


def _is_open(run: FlowRun, now: datetime) -> bool:
    """False for a run whose process was killed: its state would stay PENDING or RUNNING for ever."""
    if run.state is None:
        return False
    return run.state.type in _WAITING or now - run.state.timestamp < _LONGEST_START


def is_about(run: FlowRun, request: ApprovalRequest) -> bool:
    """Whether a run asks this question. A run that a person started names no models, and means those of the class."""
    given = {"legacy": request.legacy, "candidate": request.candidate, **_named(run)}
    wanted = (request.class_name, str(request.target), request.legacy, request.candidate)
    return (given.get("class_name"), given.get("target"), given["legacy"], given["candidate"]) == wanted


def _named(run: FlowRun) -> dict[str, str]:
    return {name: value for name, value in run.parameters.items() if value}
