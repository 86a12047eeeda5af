"""The rollout's deployments beside a real Prefect server, served by `shadowline deploy` as a person starts it.

test_deployment.py tries the retraining.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from integration.tiny_project import CLASSES, EXTRA_CLASS, MODEL, Project, free_port, kill, wait_until
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import Action, ActionKind, Step
from shadowline.rollout.observation import Approval, ChecklistItem
from shadowline.rollout.phases import Phase

if TYPE_CHECKING:
    import subprocess

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

SCHEDULE = {  # not the project's own, so that nothing falls due by itself meanwhile
    "retrain": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=1;BYMINUTE=0;BYSECOND=0",
    "rollout": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=4;BYMINUTE=30;BYSECOND=0",
    "enroll": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=6;BYMINUTE=0;BYSECOND=0",
    "decommission": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=5;BYMINUTE=0;BYSECOND=0",
    "timezone": "Europe/Berlin",
}
_PATIENCE_S = 240


@dataclass(frozen=True)
class Plant:
    """A planned rollout, a server, and the process that serves the deployments."""

    project: Project
    client: SyncPrefectClient
    serving: subprocess.Popen[str]

    @property
    def records(self) -> Records:
        return open_records(f"sqlite:///{self.project.root}/data/records.db")

    def start(self, deployment: str, **parameters: str) -> FlowRun:
        """As a person does with `prefect deployment run`."""
        found = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters)

    def wait_for(self, run: FlowRun, reached: Callable[[FlowRun], bool]) -> FlowRun:
        """The run when it is `reached`; fails with the reason where it ends before."""

        def looked() -> bool:
            time.sleep(0.2)
            found.append(self.client.read_flow_run(run.id))
            state = found[-1].state
            assert state is not None
            assert reached(found[-1]) or not state.is_final(), f"{found[-1].name}: {state.name}, {state.message}"
            return reached(found[-1])

        found: list[FlowRun] = []
        wait_until(looked, self.serving, seconds=_PATIENCE_S)
        return found[-1]

    def run(self, deployment: str, **parameters: str) -> FlowRun:
        return self.wait_for(self.start(deployment, **parameters), is_completed)


def is_completed(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_completed()


def is_paused(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_paused()


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
def plant(planned: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Server and `shadowline deploy`, each a process of its own."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    home, port = tmp_path_factory.mktemp("prefect"), str(free_port())
    address = f"http://127.0.0.1:{port}/api"
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: address}):
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_API_URL", address)
        patch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{home}/prefect.db")
        server = planned.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        try:
            with get_client(sync_client=True) as client:
                wait_until(lambda: client.api_healthcheck() is None, server)
                serving = planned.start("shadowline", "deploy", "--work-dir", str(planned.root))
                try:
                    wait_until(lambda: len(client.read_deployments()) == 9, serving)
                    yield Plant(planned, client, serving)
                finally:
                    kill(serving)
        finally:
            kill(server)


def test_each_is_due_as_the_parameters_say_and_the_others_only_when_asked(plant: Plant) -> None:
    found = {}
    for one in plant.client.read_deployments():
        rules = [(each.schedule.rrule.splitlines()[-1], each.schedule.timezone) for each in one.schedules]
        found[f"{plant.client.read_flow(one.flow_id).name}/{one.name}"] = rules
    assert found == {
        "retrain/quarterly": [(SCHEDULE["retrain"], SCHEDULE["timezone"])],
        "rollout/tick": [(SCHEDULE["rollout"], SCHEDULE["timezone"])],
        "decommission/nightly": [(SCHEDULE["decommission"], SCHEDULE["timezone"])],
        "enroll/on-images": [],
        "enroll-waiting/poll": [(SCHEDULE["enroll"], SCHEDULE["timezone"])],
        "shadow/batch": [],
        "backup/nightly": [],
        "audit/on-demand": [],
        "approve/ask": [],
    }


def test_a_tick_moves_the_first_wave_into_shadow(plant: Plant) -> None:
    plant.run("rollout/tick")
    assert {one.phase for one in plant.records.rollout.state().classes} == {Phase.SHADOW}
    assert plant.records.rollout.pending_actions() == ()


def test_a_batch_records_a_pair_for_every_image(plant: Plant) -> None:
    records = plant.records
    one = records.rollout.state().of("dots")
    plant.run("shadow/batch", class_name="dots", location="factory/dots/test")
    assert len(records.pairs.table("dots", one.candidate, one.legacy)) == 20


def test_a_question_waits_for_a_whole_answer_and_the_approval_is_of_exactly_its_models(plant: Plant) -> None:
    one = plant.records.rollout.state().of("stripes")
    asked = plant.wait_for(plant.start("approve/ask", class_name="stripes", target="canary"), is_paused)
    wait_until(lambda: bool(read_question(plant, asked)), plant.serving)  # the run pauses first, then it writes
    assert all(words in read_question(plant, asked) for words in ("stripes", "canary", one.candidate, one.legacy))
    models = {"candidate": one.candidate, "legacy": one.legacy}
    refused = plant.client.resume_flow_run(asked.id, run_input={"approved": True, **models})
    assert "by" in refused.details.reason
    assert is_paused(plant.client.read_flow_run(asked.id))
    assert plant.records.rollout.approvals() == ()
    plant.client.resume_flow_run(asked.id, run_input={"approved": True, "by": "Ada", **models})
    plant.wait_for(asked, is_completed)
    assert plant.records.rollout.approvals() == (Approval("stripes", Phase.CANARY, one.legacy, one.candidate, "Ada"),)


def read_question(plant: Plant, run: FlowRun) -> str:
    """What the person reads above the form; empty as long as it is not there."""
    found = plant.client.filter_flow_run_input(run.id, key_prefix="paused-1-description", limit=1, exclude_keys=set())
    return "".join(one.value for one in found)


def test_the_night_archives_what_the_rollout_retired_and_proves_it(plant: Plant) -> None:
    store = plant.records.rollout
    one = store.state().of("dots")
    kinds = (ActionKind.ARCHIVE_LEGACY, ActionKind.PROVE_ARCHIVE)
    asked = tuple(Action(kind, "dots", one.legacy, "two weeks live") for kind in kinds)
    store.commit(Step(store.state(), (), asked, "made up", (), {}))
    plant.run("decommission/nightly")
    assert store.pending_actions() == ()
    proof = store.evidence("dots", one.legacy)[ChecklistItem.ARCHIVED]
    assert Path(proof["link"].removeprefix("file://").partition("#")[0]).is_file()


def test_an_event_enrols_a_class_from_its_images_to_the_challenger(plant: Plant) -> None:
    folder = plant.project.root / f"factory/{EXTRA_CLASS}/train/good"
    payload = {"class_name": EXTRA_CLASS, "location": str(folder)}
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    from flows.enroll import IMAGES_ARRIVED
    from tasks.registry import list_versions

    emit = ("prefect", "event", "emit", IMAGES_ARRIVED, "--resource-id", "camera.7", "--payload", json.dumps(payload))
    plant.project.run(*emit, check=True)
    found: list[FlowRun] = []
    wanted = FlowFilter(name=FlowFilterName(any_=["enroll"]))
    wait_until(
        lambda: bool(time.sleep(0.2) or found.extend(plant.client.read_flow_runs(flow_filter=wanted)) or found),
        plant.serving,
        seconds=_PATIENCE_S,
    )
    plant.wait_for(found[0], is_completed)
    assert found[0].parameters == payload
    with plant.project.inside():
        newest = list_versions(MODEL)[0]
    assert newest.aliases == ("challenger",) and EXTRA_CLASS in newest.class_fingerprints
    one = plant.records.rollout.state().of(EXTRA_CLASS)
    assert (one.phase, one.wave) == (Phase.LEGACY, 0)
    plant.run("rollout/tick")
    assert plant.records.rollout.state().of(EXTRA_CLASS).phase is Phase.SHADOW
