"""Ask a person whether a class may enter its next phase: the run pauses until somebody answers in Prefect.

prefect deployment run 'approve/ask' --param class_name=solar_mono --param target=canary
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, pause_flow_run
from prefect.input import RunInput

from shadowline.records.stores import open_records
from shadowline.rollout.observation import Approval
from shadowline.rollout.phases import Phase

_A_WEEK = 7 * 24 * 3600  # seconds


class Answer(RunInput):
    """What the person fills in; both fingerprints come with the question and must stand as they are."""

    approved: bool
    by: str
    candidate: str
    legacy: str


@flow(name="approve")
def approve(class_name: str, target: Phase) -> bool:
    """Put the answer on record; it counts for exactly the models that the question named.

    Raises ValueError where the class has moved on to other models meanwhile.
    """
    store = open_records().rollout
    one = store.state().of(class_name)
    question = Answer.with_initial_data(
        description=f"May **{class_name}** enter **{target}**? Candidate {one.candidate}, legacy {one.legacy}.",
        candidate=one.candidate,
        legacy=one.legacy,
    )
    answer = pause_flow_run(wait_for_input=question, timeout=_A_WEEK)
    if answer.approved:
        store.approve(Approval(class_name, target, answer.legacy, answer.candidate, answer.by), datetime.now(UTC))
    return bool(answer.approved)
