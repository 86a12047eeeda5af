"""A rollout with the real parts: a retrained project, its registry, its database, Prefect, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.tiny_project import CLASSES, OPEN_GUARDS, Project
from shadowline.core.params import load_params
from shadowline.records.rollout_store import ConcurrentUpdateError
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import Action
from shadowline.rollout.observation import Approval, ChecklistItem
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import STAYS, replay

Command = Callable[..., tuple[int, str, str]]

_QUICK = {  # what is tried here is the plumbing: a dozen pairs, no weeks
    "shadow": {
        "min_pairs": 10,
        "min_days": 1,
        "min_agreement": 0.01,
        "min_alarms": 1,
        "min_labelled_alarms": 1,
        "min_labelled_share": 0.0,
        "review_days": 0,
        "max_lost_share": 0.99,
    },
    "rollout": {
        "canary_days": 0,
        "stabilisation_days": 0,
        "parallel_days": 0,
        "approvals": ["canary"],
        "guards": OPEN_GUARDS,
    },
}


@pytest.fixture
def planned(in_project: Project, command: Command) -> Iterator[Project]:
    """A project whose legacy models are on record and whose rollout is planned: both classes in one wave."""
    in_project.edit_params(**_QUICK)
    in_project.commit("Quick")
    code, _, err = command("legacy", "import", "--all")
    assert code == 0, err
    plan = Path("data/plan.json")
    plan.write_text(json.dumps({"waves": [list(CLASSES)]}), encoding="utf-8")
    code, _, err = command("rollout", "plan", str(plan), "--by", "Ada")
    assert code == 0, err
    yield in_project


def phases(records: Records) -> dict[str, Phase]:
    return {cls.class_name: cls.phase for cls in records.rollout.state().classes}


def test_from_the_plan_to_the_champion(planned: Project, command: Command) -> None:
    """Shadow, feedback, approval, canary, live: then the challenger is champion, and every move is on record."""
    from flows.rollout import tick

    records = open_records()
    assert command("rollout", "advance")[0] == 0
    assert set(phases(records).values()) == {Phase.SHADOW}
    for name in CLASSES:
        code, out, err = command("shadow", "run", name, f"factory/{name}/test", "--json")
        assert code == 0, err
        assert json.loads(out)["num_new"] == 20
        assert json.loads(command("shadow", "run", name, f"factory/{name}/test", "--json")[1])["num_known"] == 20
        for image in sorted(Path(f"factory/{name}/test/hole").iterdir()):
            assert command("feedback", name, str(image), "anomalous", "--by", "Grace")[0] == 0
    assert command("rollout", "advance")[0] == 0
    waiting = json.loads(command("rollout", "status", "--json")[1])["waiting"]
    assert f"{CLASSES[0]}: verdict inconclusive: no production day has ended yet" in waiting
    tomorrow = datetime.now(UTC) + timedelta(days=1, minutes=30)
    tick(now=tomorrow)
    assert set(phases(records).values()) == {Phase.SHADOW}, "nobody has approved the canary"
    assert command("rollout", "approve", "canary", *CLASSES, "--by", "Ada")[0] == 0
    for minutes, expected in enumerate((Phase.CANARY, Phase.CANARY, Phase.LIVE), start=1):
        tick(now=tomorrow + timedelta(minutes=minutes))
        assert set(phases(records).values()) == {expected}
    models = json.loads(command("models", "--json")[1])
    assert models[0]["aliases"] == ["challenger", "champion"]
    assert records.outbox.pending_actions() == ()
    moves = json.loads(command("rollout", "history", "--json")[1])
    places = [(move["to"], move["share"]) for move in moves if move["class_name"] == "dots"]
    assert places == [("legacy", 0.0), ("shadow", 0.0), ("canary", 0.1), ("canary", 0.5), ("live", 1.0)]
    assert replay(records.rollout.events()) == records.rollout.state()


def test_a_plan_changes_while_it_is_under_way(planned: Project, command: Command) -> None:
    """A class leaves and comes back in a later wave; one that has begun to move does neither."""
    records, (first, second) = open_records(), CLASSES
    assert command("rollout", "leave", second, "--by", "Ada")[0] == 0
    assert command("rollout", "advance")[0] == 0
    assert phases(records) == {first: Phase.SHADOW, second: Phase.LEGACY}
    Path("data/more.json").write_text(json.dumps({"waves": [[second]]}), encoding="utf-8")
    assert command("rollout", "plan", "data/more.json", "--by", "Bob")[0] == 0
    assert {cls.class_name: cls.wave for cls in records.rollout.state().classes} == {first: 1, second: 2}
    history = json.loads(command("rollout", "history", "--class", second, "--json")[1])
    told = [(event["wave"], event["by"], event["reason"]) for event in history]
    assert told == [(1, "Ada", "planned"), (STAYS, "Ada", "left the plan"), (2, "Bob", "planned")]
    found = json.loads(command("rollout", "status", "--json")[1])
    assert f"{second}: {first} of wave 1, which is shadow, to be live and stable" in found["waiting"]
    assert f"waits for {second}: {first} of wave 1" in command("rollout", "status")[1]
    for arguments in (("plan", "data/plan.json"), ("leave", first)):
        code, _, err = command("rollout", *arguments, "--by", "Ada")
        assert (code, "is in shadow" in err) == (2, True)


def test_a_person_takes_a_class_back_at_once(planned: Project, command: Command) -> None:
    command("rollout", "advance")
    code, _, err = command("rollout", "rollback", "dots", "--by", "Ada", "--why", "complaint 4711")
    assert code == 1, err
    assert phases(open_records()) == {"dots": Phase.ROLLED_BACK, "stripes": Phase.SHADOW}


def test_what_cannot_be_is_refused_with_one_line(planned: Project, command: Command) -> None:
    for arguments, words in (
        (("rollout", "plan", "data/plan.json", "--by", "Ada", "--without-legacy", "dots"), "has a legacy model"),
        (("rollout", "leave", "nuts", "--by", "Ada"), "'nuts' is not in the rollout"),
        (("rollout", "hold", "nuts", "--by", "Ada", "--why", "?"), "'nuts' is not in the rollout"),
        (("rollout", "evidence", "archived", "dots", "--by", "Ada", "--link", "x"), "the rollout does that itself"),
        (("feedback", "dots", "0" * 64, "normal", "--by", "Ada"), "was never inspected"),
        (("rollout", "rollback", "dots", "--by", "Ada", "--why", "?"), "is in legacy: no candidate is at work"),
        (("rollout", "resume", "dots", "--by", "Ada", "--why", "?"), "'dots' is not held"),
        (
            ("rollout", "approve", "legacy_deleted", "dots", "--by", "Ada"),
            "nothing needs a word now, not legacy_deleted",
        ),
    ):
        code, _, err = command(*arguments)
        assert code == 2
        assert words in err


def test_of_two_ticks_on_one_state_the_second_says_so(planned: Project) -> None:
    """Both engines have read the same revision; one writes, the other is told that it came second."""
    from shadowline.records.observe import observe
    from shadowline.rollout.engine import step

    params, records, now = load_params(planned.layout.params), open_records(), datetime.now(UTC)
    challenger = {cls.class_name: cls.candidate for cls in records.rollout.state().classes}
    first, second = (
        step(
            records.rollout.state(), observe(records.rollout.state(), records, challenger, now, params), params.rollout
        )
        for _ in range(2)
    )
    records.rollout.commit(first)
    before = records.rollout.events()
    with pytest.raises(ConcurrentUpdateError, match="nothing written"):
        records.rollout.commit(second)
    assert records.rollout.events() == before


def test_an_approval_is_asked_for_in_prefect_and_bound_to_the_models(planned: Project, prefect_server: str) -> None:
    """The flow run pauses, a person fills in the form, and exactly those models may go on."""
    import threading

    import anyio
    from prefect import resume_flow_run
    from prefect.client.orchestration import get_client

    from flows.approval import approve

    records = open_records()
    one = records.rollout.state().of("dots")
    answered: list[bool] = []
    asking = threading.Thread(target=lambda: answered.append(approve("dots", Phase.CANARY)))
    asking.start()

    async def answer() -> None:
        async with get_client() as client:
            for _ in range(600):
                runs = [run for run in await client.read_flow_runs() if run.state and run.state.is_paused()]
                if runs:
                    break
                await anyio.sleep(0.1)
        form = {"approved": True, "by": "Ada", "candidate": one.candidate, "legacy": one.legacy}
        await resume_flow_run(runs[0].id, run_input=form)

    anyio.run(answer)
    asking.join(timeout=120)
    assert answered == [True]
    assert records.approvals.approvals() == (Approval("dots", Phase.CANARY, one.legacy, one.candidate, "Ada"),)


def test_a_predecessor_of_the_multi_class_model_is_proven_to_load_and_never_deleted(planned: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions
    from tasks.rollout.outbox import DECOMMISSIONING, execute_action

    records, params = open_records(), load_params(planned.layout.params)
    one = records.rollout.state().of("dots")
    before = list_versions(params.registry.model_name)
    for kind in sorted(DECOMMISSIONING):
        execute_action(Action(kind, "dots", one.candidate, "its successor is live"), records, params, planned.root)
    proof = records.approvals.evidence("dots", one.candidate)[ChecklistItem.ARCHIVED]
    assert proof["link"] == before[0].uri
    assert list_versions(params.registry.model_name) == before
