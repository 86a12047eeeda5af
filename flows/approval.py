"""Ask a person whether a class may enter its next phase: the run is suspended until somebody answers in Prefect.

prefect deployment run 'approve/ask' --param class_name=solar_mono --param target=canary
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect import flow, get_run_logger, pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run

from shadowline.records.stores import open_records
from shadowline.rollout.observation import Approval, ApprovalRequest
from shadowline.rollout.phases import Phase
from tasks.integrations.prefect_events import announce_approval
from tasks.rollout.approval_requests import APPROVE, is_asked_already

_A_WEEK = 7 * 24 * 3600  # seconds; then the run fails, and the next tick asks again


class ApprovalInput(RunInput):
    """What the person fills in; both fingerprints come with the question and must stand as they are."""

    approved: bool
    by: str
    candidate: str
    legacy: str


@flow(name=APPROVE, flow_run_name="{target} of {class_name}")
def approve(class_name: str, target: Phase, legacy: str = "", candidate: str = "") -> bool:
    """Put the answer on record; it counts for exactly the models that the question named.

    `legacy`, `candidate`: fingerprints; without them, those that the class has now. False without a question where
    another run asks the same already. Raises ValueError where the class has moved on to other models meanwhile.
    """
    records = open_records()
    now = records.rollout.state().of(class_name)
    request = ApprovalRequest(class_name, target, legacy or now.legacy, candidate or now.candidate)
    if is_asked_already(request, UUID(flow_run.id) if flow_run.id else None):
        get_run_logger().info("class %s: another run asks for %s already", class_name, target)
        return False
    answer = _ask(request)
    approval = Approval(class_name, target, answer.legacy, answer.candidate, answer.by)
    if answer.approved:
        records.approvals.approve(approval, datetime.now(UTC))
        announce_approval(approval)
    else:
        records.approvals.refuse(approval, datetime.now(UTC))
    return bool(answer.approved)


def _ask(request: ApprovalRequest) -> ApprovalInput:
    """Wait for the answer: without a process of its own where a deployment can start the run again, here otherwise."""
    question = ApprovalInput.with_initial_data(
        description=f"May **{request.class_name}** enter **{request.target}**? "
        f"Candidate {request.candidate}, legacy {request.legacy}.",
        candidate=request.candidate,
        legacy=request.legacy,
    )
    wait = suspend_flow_run if deployment.id else pause_flow_run
    return wait(wait_for_input=question, timeout=_A_WEEK)
