"""Classes come and go: what changes, what stays, and that a refusal changes nothing."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from fixtures.heard import Heard
from fixtures.learning import ROOT
from fixtures.records import CANDIDATE, LEGACY
from flows.commands.classes import app
from flows.commands.rollout import _deleted_classes
from shadowline.core.layout import Layout
from shadowline.core.params import ClassParams, Unplanned, load_params
from shadowline.core.params_file import editing
from shadowline.inference.routing import unplanned_classes
from shadowline.records.audit_log.state import compare_tables
from shadowline.records.model_locations import ModelLocation
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import ActionKind, begin
from shadowline.rollout.phases import Phase
from shadowline.stages import classes as classes_stage
from tasks.enrolment.classes import add_class, remove_class, rename_class

NOW = datetime(2026, 1, 5, tzinfo=UTC)
COMMENT = "# a person's own words"


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((8, 8), number % 256, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Two classes in params.yaml, `bolt` and `nut`; of the bolt there is something of every kind."""
    yaml = YAML()
    content = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["classes"] = {name: {"source": "folder", "location": "factory"} for name in ("bolt", "nut")}
    content["train"]["classes"] = ["bolt", "nut"]
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    with (tmp_path / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(f"{COMMENT}\n")
    layout = Layout(tmp_path)
    write_images(tmp_path / "factory/bolt/train/good", 3)
    write_images(layout.inbox / "bolt/train/good", 2)
    write_images(layout.images("bolt"), 2)
    for path in (layout.manifest("bolt"), layout.import_report("bolt"), layout.features("bolt"), layout.bank("bolt")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"made by a stage")
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_DATABASE_URL", f"sqlite:///{tmp_path}/records.db")
    monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(tmp_path / "keys"))
    return layout


@pytest.fixture
def records(project: Layout) -> Records:
    return open_records()


def plan(records: Records, *names: str) -> None:
    places = [ModelLocation(LEGACY[name], name, "legacy", f"legacy/{name}", "1") for name in names]
    places += [ModelLocation(CANDIDATE[name], name, "candidate", "models:/inspector/1", "1") for name in names]
    records.locations.upsert_model(places, NOW)
    _, events = begin([names], LEGACY, CANDIDATE, NOW, "Ada")
    records.rollout.begin(events)


def names_in_service(records: Records) -> list[str]:
    return [cls.class_name for cls in records.rollout.state().classes]


def answered_outside(records: Records) -> set[str]:
    known = records.locations.known_models()
    return set(unplanned_classes(records.rollout.state(), known, Unplanned.LEGACY))


# --- remove ----------------------------------------------------------------------------------------------------------


def test_a_removed_class_is_gone_from_params_rollout_routing_inbox_and_disk(project: Layout, records: Records) -> None:
    plan(records, "bolt", "nut")
    done = remove_class("bolt", project.root, records, "Ada", "made no more")
    params = load_params(project.params)
    assert (list(params.classes), params.train.classes) == (["nut"], ("nut",))
    assert project.params.read_text(encoding="utf-8").endswith(f"{COMMENT}\n")
    assert names_in_service(records) == ["nut"]
    assert answered_outside(records) == set()
    assert not (project.inbox / "bolt").exists()
    assert done.inbox is not None and len(list(done.inbox.rglob("*.png"))) == 2
    assert not [
        path for path in project.root.rglob("*bolt*") if "factory" not in path.parts and "retired" not in path.parts
    ]
    assert len(list((project.root / "factory/bolt").rglob("*.png"))) == 3  # the user's own


def test_its_history_stays_and_is_signed(project: Layout, records: Records) -> None:
    plan(records, "bolt", "nut")
    remove_class("bolt", project.root, records, "Ada", "made no more")
    events = records.rollout.events("bolt")
    assert [event.after.phase for event in events] == [Phase.LEGACY, Phase.RETIRED]
    assert (events[-1].by, events[-1].after.reason) == ("Ada", "Ada: made no more")
    assert records.locations.model(LEGACY["bolt"]).class_name == "bolt"
    pending = [pending.action for pending in records.outbox.pending_actions()]
    assert (ActionKind.ARCHIVE_LEGACY, LEGACY["bolt"]) in {(action.kind, action.fingerprint) for action in pending}
    assert not [difference for table in compare_tables(records.rollout.engine) for difference in table.differences]


def test_a_class_outside_the_rollout_is_answered_by_its_models_no_more(project: Layout, records: Records) -> None:
    records.locations.upsert_model([ModelLocation(LEGACY["bolt"], "bolt", "legacy", "legacy/bolt", "1")], NOW)
    assert answered_outside(records) == {"bolt"}
    assert remove_class("bolt", project.root, records, "Ada", "made no more").retired_from == "outside the rollout"
    assert answered_outside(records) == set()
    assert [event.after.phase for event in records.rollout.events("bolt")] == [Phase.RETIRED]


def test_a_class_that_somebody_deleted_from_params_can_be_removed_from_the_rest(
    project: Layout, records: Records
) -> None:
    plan(records, "bolt", "nut")
    with editing(project.params) as content:
        del content["classes"]["bolt"]
        content["train"]["classes"].remove("bolt")
    assert list(load_params(project.params).classes) == ["nut"]
    assert _deleted_classes(records.rollout.state(), load_params(project.params)) == ["bolt"]
    assert not remove_class("bolt", project.root, records, "Ada", "made no more").was_in_params
    assert names_in_service(records) == ["nut"]


def test_a_name_that_is_nowhere_and_the_only_class_are_refused(project: Layout, records: Records) -> None:
    with pytest.raises(ValueError, match="unknown class 'blot'; did you mean bolt"):
        remove_class("blot", project.root, records, "Ada", "typo")
    remove_class("bolt", project.root, records, "Ada", "made no more")
    before = project.params.read_bytes()
    with pytest.raises(
        ValueError, match=r"class 'nut' is the only one in classes of params\.yaml; add another one first"
    ):
        remove_class("nut", project.root, records, "Ada", "made no more")
    assert project.params.read_bytes() == before


def test_what_a_plain_deletion_leaves_behind_is_removed_and_said(project: Layout) -> None:
    heard = Heard()
    write_images(project.root / "data/images/of_a_person", 1)  # nothing that an import wrote
    params = load_params(project.params)
    left = params.model_copy(update={"classes": {"nut": params.classes["nut"]}})
    classes_stage.run(left, project, heard)
    assert not project.images("bolt").exists() and not project.bank("bolt").exists()
    assert (project.inbox / "bolt").is_dir()
    assert (project.root / "data/images/of_a_person/000.png").is_file()
    (line,) = heard.lines
    assert line.startswith("class 'bolt' is not in params.yaml any more") and "shadowline class remove bolt" in line


# --- add -------------------------------------------------------------------------------------------------------------


def test_a_class_is_added_with_what_its_images_allow(project: Layout) -> None:
    write_images(project.root / "factory/washer/train/good", 60)
    forecast = add_class("washer", ClassParams(source="folder", location="factory"), project.root, learns=True)
    params = load_params(project.params)
    assert params.classes["washer"] == ClassParams(source="folder", location="factory")
    assert params.train.classes == ("bolt", "nut", "washer")
    assert (forecast.counts.normals, forecast.splits.train) == (60, 23)
    assert COMMENT in project.params.read_text(encoding="utf-8")


def test_a_class_for_the_banks_alone_leaves_the_decoder_as_it_is(project: Layout) -> None:
    write_images(project.root / "factory/washer/train/good", 60)
    add_class("washer", ClassParams(source="folder", location="factory"), project.root, learns=False)
    assert load_params(project.params).train.classes == ("bolt", "nut")


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("bolt", {}, "class 'bolt' is in params.yaml already"),
        ("Metal Nut", {}, "class 'Metal Nut': use a-z.*; name it metal_nut, and its folder by --select"),
        ("washer", {}, "no folder"),
        (
            "washer",
            {"select": "bolt"},
            "class 'washer': 1 normal images in val, needs at least 8; 21 normal images would",
        ),
        ("washer", {"source": "foldr"}, "did you mean folder"),
    ],
)
def test_what_cannot_become_a_class_is_refused_and_nothing_changes(
    project: Layout, name: str, entry: dict[str, str], message: str
) -> None:
    before = project.params.read_bytes()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        add_class(name, ClassParams(**{"source": "folder", "location": "factory", **entry}), project.root, learns=True)
    assert project.params.read_bytes() == before


# --- rename ----------------------------------------------------------------------------------------------------------


def test_a_renamed_class_keeps_its_place_its_images_and_its_features(project: Layout, records: Records) -> None:
    rename_class("bolt", "screw", project.root, records)
    params = load_params(project.params)
    assert (list(params.classes), params.train.classes) == (["screw", "nut"], ("screw", "nut"))
    assert params.classes["screw"].select == "bolt"  # the folder of the images keeps its name
    assert len(list(project.images("screw").glob("*.png"))) == 2
    assert project.features("screw").read_bytes() == b"made by a stage"
    assert (project.inbox / "screw").is_dir() and not (project.inbox / "bolt").exists()
    assert not project.manifest("bolt").exists()


def test_a_class_that_came_from_its_inbox_is_read_from_the_renamed_one(project: Layout, records: Records) -> None:
    text = project.params.read_text(encoding="utf-8")
    project.params.write_text(text.replace("location: factory", "location: data/inbox/bolt", 1), encoding="utf-8")
    rename_class("bolt", "screw", project.root, records)
    assert load_params(project.params).classes["screw"].location == "data/inbox/screw"


def test_a_name_that_is_signed_is_not_changed(project: Layout, records: Records) -> None:
    plan(records, "bolt")
    before = project.params.read_bytes()
    with pytest.raises(
        ValueError, match=r"class 'bolt' is in the rollout \(legacy\), signed under its name; add 'screw'"
    ):
        rename_class("bolt", "screw", project.root, records)
    assert project.params.read_bytes() == before and (project.inbox / "bolt").is_dir()


# --- the commands ----------------------------------------------------------------------------------------------------


def run(group: typer.Typer, *arguments: str) -> str:
    done = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_commands_say_what_they_did(project: Layout, records: Records) -> None:
    plan(records, "bolt")
    write_images(project.root / "factory/washer/train/good", 60)
    added = run(app, "add", "washer", "factory")
    assert "class 'washer': 60 normal images and 0 defects: 23 train, 22 val (11 select, 11 calibrate)" in added
    assert "11 normal images promise a rate of 0.0833, not of calibration.target_fpr 0.05, which needs 19" in added
    assert "class 'washer' is 'ring' now" in run(app, "rename", "washer", "ring")
    removed = run(app, "remove", "bolt", "--by", "Ada", "--why", "made no more")
    assert "retired (legacy)" in removed and "its images lie in data/retired/bolt/" in removed
