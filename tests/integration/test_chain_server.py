"""One chain beside a real Prefect server: from the quarterly schedule to the canary, with no hand but the approval.

The ticks and batches of the calendar are started as their schedule starts them, everything else by events. The clock is
simulated: it is the parameter `now` that the deployments of the tick and of the batch have on the server. The process
that serves them is killed between the steps. `pytest -s` prints every run and event.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fixtures.plant import SCHEDULE, Plant, Server, is_completed, is_paused, serving
from fixtures.tiny_project import CLASSES, OPEN_GUARDS, Project, picture, save, with_hole
from shadowline.data.labels import Label
from shadowline.rollout.engine import RolloutStep
from shadowline.rollout.phases import FORWARD, Phase
from shadowline.rollout.state import NEW_PRODUCT, Event
from tasks.integrations.prefect_events import APPROVAL_WANTED, VERSION_REGISTERED

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

TINY = {  # a dozen pairs of random models, two days: what is tried here is the plumbing
    "shadow": {
        "min_pairs": 12,
        "min_days": 2,
        "min_agreement": 0.01,
        "min_alarms": 1,
        "min_labelled_alarms": 1,
        "review_days": 0,
        "max_lost_share": 0.99,
        "review_share": 0.0,
    },
    "rollout": {
        "min_day_images": 5,
        "approvals": ["canary"],
        "guards": OPEN_GUARDS,
    },
}
MONDAY = datetime(2030, 1, 7, 6, 0, tzinfo=UTC)
NEW, SUCCEEDED = CLASSES  # one class has its legacy model, the other only the model of an earlier quarter


@dataclass
class Chain:
    """The plant with its clock and its line."""

    plant: Plant
    now: datetime = MONDAY

    def set_clock(self, now: datetime) -> None:
        """What the next runs take for the time, whoever starts them."""
        from prefect.client.schemas.actions import DeploymentUpdate

        self.now = now
        for name in ("rollout/tick", "shadow-waiting/nightly"):
            deployment = self.plant.client.read_deployment_by_name(name)
            parameters = {**deployment.parameters, "now": now.isoformat()}
            self.plant.client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))

    def restart(self) -> None:
        self.plant.stop()
        self.plant.serve()
        self.set_clock(self.now)

    def phases(self) -> dict[str, Phase]:
        return {cls.class_name: cls.phase for cls in self.plant.records.rollout.state().classes}

    def produce(self, day: int) -> None:
        """Images of a day: six good parts and four with a hole; an inspector looks at all of them at once."""
        at = MONDAY + timedelta(days=day)
        self.set_clock(at)
        for name in CLASSES:
            for number in range(10):
                image = picture(name, f"day {day}", number)
                image = with_hole(image, number)[0] if number >= 6 else image
                label = Label.ANOMALOUS if number >= 6 else Label.NORMAL
                save(image, self.folder / name / f"{day}-{number}-{label}.png")
        self.plant.run("shadow-waiting/nightly")
        with self.plant.project.inside():
            self._inspect(at + timedelta(hours=1))

    def _inspect(self, at: datetime) -> None:
        pairs = self.plant.records.pairs
        for cls in self.plant.records.rollout.state().classes:
            for row in pairs.table(cls.class_name, cls.candidate, cls.legacy).itertuples():
                label = Label(Path(row.image_path).stem.rpartition("-")[2])
                pairs.label(cls.class_name, row.image_id, label, "Grace", at)

    @property
    def folder(self) -> Path:
        return self.plant.project.root / "line"

    def tick(self) -> FlowRun:
        """As the schedule does."""
        return self.plant.run("rollout/tick")

    def questions(self) -> list[FlowRun]:
        return self.plant.runs("approve")

    def answer(self, class_name: str, *, approved: bool) -> FlowRun:
        """As a person does in Prefect; returns the run that asked."""
        (question,) = (run for run in self.questions() if run.parameters["class_name"] == class_name)
        models = {name: question.parameters[name] for name in ("candidate", "legacy")}
        form = {"approved": approved, "by": "Ada", **models}
        taken = self.plant.client.resume_flow_run(question.id, run_input=form)
        assert taken.status == "ACCEPT", taken.details
        return question


@pytest.fixture(scope="module")
def chain(finished: Project, real_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Two classes whose migration is planned or over, and one parameter that another quarter has changed."""
    project = finished.copy(tmp_path_factory.mktemp("chain") / "project")
    project.edit_params(schedule=SCHEDULE, **TINY)
    project.commit("Another calendar")
    plan = project.root / "data/plan.json"
    plan.write_text(json.dumps({"waves": [list(CLASSES)]}), encoding="utf-8")
    for arguments in (("legacy", "import", "--all"), ("rollout", "plan", str(plan), "--by", "Ada")):
        project.run("shadowline", *arguments, check=True)
    project.edit_params(calibration={"target_fpr": 0.25})
    project.commit("Another promise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWLINE_SHADOW_URL", str(project.root / "line"))
        with serving(project, real_server, tmp_path_factory.mktemp("serving") / "log") as plant:
            with project.inside():
                finish_migration(plant, SUCCEEDED)
            chain = Chain(plant)
            chain.set_clock(MONDAY)
            yield chain
            print(diary(plant))


def finish_migration(plant: Plant, class_name: str) -> None:
    """Everything that a class goes through until its legacy model is deleted."""
    rollout = plant.records.rollout
    for source, target in itertools.pairwise(FORWARD):
        state = rollout.state()
        one = replace(state.of(class_name), wave=NEW_PRODUCT, phase=target, since=datetime.now(UTC), reason="made up")
        event = Event(state.revision + 1, one.since, "engine", source, one)
        after = replace(state.with_classes([one]), revision=event.revision)
        rollout.commit(RolloutStep(after, (event,), (), "made up", (), {}))


def start_by_schedule(plant: Plant, name: str) -> FlowRun:
    """The run that the server's scheduler makes of a rule like that of the calendar, due in half a minute."""
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.schedules import RRuleSchedule

    deployment = plant.client.read_deployment_by_name(name)
    due = datetime.now(UTC) + timedelta(seconds=30)
    rule = f"FREQ=YEARLY;BYMONTH={due:%m};BYMONTHDAY={due:%d};BYHOUR={due:%H};BYMINUTE={due:%M};BYSECOND={due:%S}"
    schedule = RRuleSchedule(rrule=rule, timezone="UTC")
    plant.client.create_deployment_schedules(deployment.id, [(schedule, True)])
    touched = DeploymentUpdate(description=deployment.description)  # the scheduler looks at once at what has changed
    plant.client.update_deployment(deployment.id, touched)
    run = plant.next_run(name.partition("/")[0], [])
    assert run.auto_scheduled
    return run


def by_event(run: FlowRun) -> bool:
    return run.created_by is not None and run.created_by.type == "AUTOMATION"


def events(plant: Plant) -> list[tuple[datetime, str, str]]:
    """When, what, about what: every event of Shadowline's own since the plant began, in order."""
    from prefect.events.filters import EventFilter, EventNameFilter

    found = plant.client.read_events(filter=EventFilter(event=EventNameFilter(prefix=["shadowline."])), limit=50).events
    told = [(event.occurred, event.event, event.resource.name or event.resource.id) for event in found]
    return sorted(event for event in told if event[0] >= plant.began)


def num_events(plant: Plant, name: str) -> int:
    return sum(event == name for _, event, _ in events(plant))


def diary(plant: Plant) -> str:
    """Every run of the plant's flows and every event, in order."""
    lines = [(at, f"event {name}  {subject}") for at, name, subject in events(plant)]
    for flow in ("retrain", "rollout", "shadow-waiting", "approve"):
        for run in (run for run in plant.runs(flow) if run.start_time and run.start_time >= plant.began):
            by = "event" if by_event(run) else "schedule" if run.auto_scheduled else "API"
            state = run.state.name if run.state else ""
            lines.append((run.start_time, f"{flow}  {run.name}  by {by}  {state}  {run.total_run_time.seconds} s"))
    moves = [
        (event.at, event.after) for event in plant.records.rollout.events() if event.source is not event.after.phase
    ]
    lived = [f"{at:%Y-%m-%d %H:%M}  {cls.class_name} -> {cls.phase}: {cls.reason}" for at, cls in moves]
    return "\n".join(["", *(f"{at:%H:%M:%S}  {text}" for at, text in sorted(lines)), *lived])


def test_the_quarter_ends_in_shadow_mode_though_the_process_dies_before_the_tick(chain: Chain) -> None:
    """One class enters for the first time, the other's new model is tried against the one of the quarter before."""
    plant = chain.plant
    assert chain.phases() == {NEW: Phase.LEGACY, SUCCEEDED: Phase.LEGACY_DELETED}
    before = plant.records.rollout.state().of(SUCCEEDED).candidate
    retraining = start_by_schedule(plant, "retrain/quarterly")
    plant.wait_for(retraining, lambda _: num_events(plant, VERSION_REGISTERED) == 1)
    chain.restart()
    chain.tick()
    assert set(chain.phases().values()) == {Phase.SHADOW}
    assert any(by_event(run) for run in plant.runs("rollout"))
    one = plant.records.rollout.state().of(SUCCEEDED)
    assert one.legacy == before != one.candidate


def test_production_days_end_in_a_question_for_each_class_and_no_tick_asks_again(chain: Chain) -> None:
    plant = chain.plant
    chain.produce(0)
    chain.set_clock(MONDAY + timedelta(days=1))
    chain.tick()
    assert num_events(plant, APPROVAL_WANTED) == 0
    chain.produce(1)
    chain.set_clock(MONDAY + timedelta(days=2))
    for _ in range(2):
        chain.tick()
        plant.wait_until(lambda: len([run for run in chain.questions() if is_paused(run)]) == len(CLASSES))
    assert {run.parameters["class_name"] for run in chain.questions()} == set(CLASSES)
    assert num_events(plant, APPROVAL_WANTED) == len(CLASSES)
    assert set(chain.phases().values()) == {Phase.SHADOW}


def test_a_yes_to_a_process_that_is_dead_opens_the_canary_when_it_lives_again(chain: Chain) -> None:
    plant = chain.plant
    known = plant.runs("rollout")
    plant.stop()
    question = chain.answer(NEW, approved=True)
    plant.serve()
    chain.set_clock(chain.now)
    plant.wait_for(question, is_completed)
    tick = plant.wait_for(plant.next_run("rollout", known), is_completed)
    assert by_event(tick)
    assert chain.phases() == {NEW: Phase.CANARY, SUCCEEDED: Phase.SHADOW}


def test_a_no_is_on_record_and_nobody_is_asked_again(chain: Chain) -> None:
    plant = chain.plant
    plant.wait_for(chain.answer(SUCCEEDED, approved=False), is_completed)
    chain.tick()
    assert chain.phases()[SUCCEEDED] is Phase.SHADOW
    assert num_events(plant, APPROVAL_WANTED) == len(CLASSES)
    assert [approval.class_name for approval in plant.records.approvals.approvals()] == [NEW]
