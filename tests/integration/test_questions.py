"""Who is asked for an approval, and when nobody is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import begin
from shadowline.rollout.observation import Approval, ApprovalRequest
from shadowline.rollout.phases import Phase
from tasks.rollout.approval_requests import _is_open, is_about

NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
REQUEST = ApprovalRequest("bolt", Phase.CANARY, "legacy-bolt", "v1-bolt")


@pytest.fixture
def records(tmp_path: Path) -> Records:
    records = open_records(f"sqlite:///{tmp_path}/records.db")
    _, events = begin([["bolt"]], {"bolt": REQUEST.legacy}, {"bolt": REQUEST.candidate}, NOW, "Ada")
    records.rollout.begin(events)
    return records


def answer(candidate: str = REQUEST.candidate) -> Approval:
    return Approval(REQUEST.class_name, REQUEST.target, REQUEST.legacy, candidate, "Ada")


def test_a_no_is_about_exactly_these_models_and_is_in_the_audit_chain(records: Records) -> None:
    for _ in range(2):
        records.approvals.refuse(answer(), NOW)
    assert records.approvals.is_refused(REQUEST)
    assert not records.approvals.is_refused(ApprovalRequest("bolt", Phase.CANARY, "legacy-bolt", "v2-bolt"))
    assert not records.approvals.is_refused(ApprovalRequest("bolt", Phase.LEGACY_OFF, "legacy-bolt", "v1-bolt"))
    (entry,) = records.chain.entries(kinds=[EntryKind.REFUSAL])
    assert (entry.subject, entry.by, entry.facts["target"]) == ("bolt", "Ada", "canary")
    assert records.approvals.approvals() == ()


def test_who_said_no_may_say_yes_later(records: Records) -> None:
    records.approvals.refuse(answer(), NOW)
    records.approvals.approve(answer(), NOW)
    assert records.approvals.approvals() == (answer(),)


def run(state: StateType, age: timedelta = timedelta(0), **parameters: str) -> FlowRun:
    return FlowRun(
        id=uuid4(), flow_id=uuid4(), state=State(type=state, timestamp=NOW - age), parameters=parameters
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "age", "is_open"),
    [
        (StateType.PAUSED, timedelta(days=6), True),
        (StateType.SCHEDULED, timedelta(days=6), True),  # nothing serves the deployment, or the answer has just come
        (StateType.RUNNING, timedelta(minutes=1), True),
        (StateType.RUNNING, timedelta(hours=1), False),  # its process was killed
        (StateType.PENDING, timedelta(hours=1), False),
    ],
)
def test_a_question_is_open_while_somebody_can_still_answer_it(state: StateType, age: timedelta, is_open: bool) -> None:
    assert _is_open(run(state, age), NOW) is is_open


def test_a_run_that_a_person_started_without_models_is_about_those_of_the_class() -> None:
    asked = {"class_name": "bolt", "target": "canary"}
    assert is_about(run(StateType.PAUSED, **asked), REQUEST)
    assert is_about(run(StateType.PAUSED, **asked, legacy="legacy-bolt", candidate="v1-bolt"), REQUEST)
    assert not is_about(run(StateType.PAUSED, **asked, legacy="legacy-bolt", candidate="v0-bolt"), REQUEST)
    assert not is_about(run(StateType.PAUSED, class_name="nut", target="canary"), REQUEST)
    assert not is_about(run(StateType.PAUSED, class_name="bolt", target="legacy_off"), REQUEST)
