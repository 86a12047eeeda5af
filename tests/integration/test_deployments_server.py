"""The rollout's deployments beside a real Prefect server, served by `shadowline deploy` as a person starts it.

test_deployment.py tries the retraining.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fixtures.plant import SCHEDULE, Plant, Server, is_completed, is_paused, serving
from fixtures.tiny_project import CLASSES, EXTRA_CLASS, MODEL, Project
from shadowline.rollout.engine import Action, ActionKind, RolloutStep
from shadowline.rollout.observation import Approval, ChecklistItem
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import NEW_PRODUCT

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


@pytest.fixture(scope="module")
def planned(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Legacy models on record, both classes in one wave, and the schedule of this file."""
    project = finished.copy(tmp_path_factory.mktemp("plant") / "project")
    project.edit_params(schedule=SCHEDULE)
    project.commit("Another calendar")
    plan = project.root / "data/plan.json"
    plan.write_text(json.dumps({"waves": [list(CLASSES)]}), encoding="utf-8")
    for arguments in (("legacy", "import", "--all"), ("rollout", "plan", str(plan), "--by", "Ada")):
        project.run("shadowline", *arguments, check=True)
    return project


@pytest.fixture(scope="module")
def plant(planned: Project, real_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with serving(planned, real_server, tmp_path_factory.mktemp("serving") / "log") as plant:
        yield plant


def test_each_is_due_as_the_parameters_say_and_the_others_only_when_asked(plant: Plant) -> None:
    found = {}
    for deployment in plant.client.read_deployments():
        rules = [
            (schedule.schedule.rrule.splitlines()[-1], schedule.schedule.timezone) for schedule in deployment.schedules
        ]
        found[f"{plant.client.read_flow(deployment.flow_id).name}/{deployment.name}"] = rules
    assert found == {
        "retrain/quarterly": [(SCHEDULE["retrain"], SCHEDULE["timezone"])],
        "rollout/tick": [(SCHEDULE["rollout"], SCHEDULE["timezone"])],
        "decommission/nightly": [(SCHEDULE["decommission"], SCHEDULE["timezone"])],
        "enroll/on-images": [],
        "enroll-waiting/poll": [(SCHEDULE["enroll"], SCHEDULE["timezone"])],
        "shadow/batch": [],
        "shadow-waiting/nightly": [(SCHEDULE["shadow"], SCHEDULE["timezone"])],
        "backup/nightly": [],
        "audit/on-demand": [],
        "approve/ask": [],
    }


def test_a_tick_moves_the_first_wave_into_shadow(plant: Plant) -> None:
    plant.run("rollout/tick")
    assert {cls.phase for cls in plant.records.rollout.state().classes} == {Phase.SHADOW}
    assert plant.records.outbox.pending_actions() == ()


def test_a_batch_records_a_pair_for_every_image(plant: Plant) -> None:
    records = plant.records
    one = records.rollout.state().of("dots")
    plant.run("shadow/batch", class_name="dots", location="factory/dots/test")
    assert len(records.pairs.table("dots", one.candidate, one.legacy)) == 20


def test_a_question_waits_for_a_whole_answer_and_the_approval_is_of_exactly_its_models(plant: Plant) -> None:
    one = plant.records.rollout.state().of("stripes")
    asked = plant.wait_for(plant.start("approve/ask", class_name="stripes", target="canary"), is_paused)
    plant.wait_until(lambda: bool(read_question(plant, asked)))  # the run pauses first, then it writes
    assert all(words in read_question(plant, asked) for words in ("stripes", "canary", one.candidate, one.legacy))
    models = {"candidate": one.candidate, "legacy": one.legacy}
    refused = plant.client.resume_flow_run(asked.id, run_input={"approved": True, **models})
    assert "by" in refused.details.reason
    assert is_paused(plant.client.read_flow_run(asked.id))
    assert plant.records.approvals.approvals() == ()
    plant.client.resume_flow_run(asked.id, run_input={"approved": True, "by": "Ada", **models})
    plant.wait_for(asked, is_completed)
    assert plant.records.approvals.approvals() == (Approval("stripes", Phase.CANARY, one.legacy, one.candidate, "Ada"),)


def read_question(plant: Plant, run: FlowRun) -> str:
    """What the person reads above the form; empty as long as it is not there."""
    key = "suspended-1-description"
    found = plant.client.filter_flow_run_input(run.id, key_prefix=key, limit=1, exclude_keys=set())
    return "".join(run_input.value for run_input in found)


def test_the_night_archives_what_the_rollout_retired_and_proves_it(plant: Plant) -> None:
    store = plant.records.rollout
    one = store.state().of("dots")
    kinds = (ActionKind.ARCHIVE_LEGACY, ActionKind.PROVE_ARCHIVE)
    asked = tuple(Action(kind, "dots", one.legacy, "two weeks live") for kind in kinds)
    store.commit(RolloutStep(store.state(), (), asked, "made up", (), {}))
    plant.run("decommission/nightly")
    assert plant.records.outbox.pending_actions() == ()
    proof = plant.records.approvals.evidence("dots", one.legacy)[ChecklistItem.ARCHIVED]
    assert Path(proof["link"].removeprefix("file://").partition("#")[0]).is_file()


def test_an_event_enrols_a_class_from_its_images_to_shadow_mode(plant: Plant) -> None:
    folder = plant.project.root / f"factory/{EXTRA_CLASS}/train/good"
    payload = {"class_name": EXTRA_CLASS, "location": str(folder)}
    known = plant.runs("rollout")
    from flows.enroll import IMAGES_ARRIVED
    from tasks.integrations.mlflow_registry import list_versions

    emit = ("prefect", "event", "emit", IMAGES_ARRIVED, "--resource-id", "camera.7", "--payload", json.dumps(payload))
    plant.project.run(*emit, check=True)
    run = plant.wait_for(plant.next_run("enroll", []), is_completed)
    assert run.parameters == payload
    with plant.project.inside():
        newest = list_versions(MODEL)[0]
    assert newest.aliases == ("challenger",) and EXTRA_CLASS in newest.class_fingerprints
    assert plant.records.rollout.state().of(EXTRA_CLASS).wave == NEW_PRODUCT
    plant.wait_for(plant.next_run("rollout", known), is_completed)
    assert plant.records.rollout.state().of(EXTRA_CLASS).phase is Phase.SHADOW
