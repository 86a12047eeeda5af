"""A new product, from its first image to the model, with the real flow on a tiny project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pandas as pd
import pytest
import yaml
from PIL import Image
from prefect.logging import disable_run_logger

from fixtures.clip import tiny_clip
from fixtures.s3 import s3_server
from fixtures.tiny_project import CLASSES, EXTRA_CLASS, MODEL, Project, kill, picture, save, wait_until
from shadowline.core.atomic_files import unfinished
from shadowline.core.params import load_params
from shadowline.data.manifest import read_manifest
from shadowline.enrolment.inbox import Inbox, classes_waiting
from shadowline.enrolment.starter import try_few_shot, try_zero_shot
from shadowline.features.encoder import load_encoder
from shadowline.models.few_shot.detector import FewShot
from shadowline.models.loader import load_detector
from shadowline.models.winclip.detector import WinClip
from shadowline.records.stores import open_records
from shadowline.rollout.phases import Phase
from tasks.training.production_images import take_in

Command = Callable[..., tuple[int, str, str]]

NUM_BANK = 40  # normals from which on a class gets a bank in the tiny project


@pytest.fixture
def plant(project: Project) -> Iterator[Project]:
    """This process works in a copy of the retrained project."""
    with project.inside():
        yield project


def images(project: Project, count: int, folder: str = "new", name: str = EXTRA_CLASS) -> Path:
    """The first normals of the class that params.yaml does not name, flat in a folder."""
    target = project.root.parent / folder
    target.mkdir(exist_ok=True)
    normals = sorted((project.root / f"factory/{name}/train/good").iterdir())
    assert len(normals) >= count
    for path in normals[:count]:
        shutil.copy(path, target)
    return target


def snapshot(project: Project) -> dict[str, str]:
    """Hash of every output that belongs to the classes that are there already."""
    return {
        path: md5
        for path, md5 in project.outputs().items()
        if any(Path(path).stem == name or Path(path).name == name for name in CLASSES)
    }


class TestStarters:
    def test_a_handful_of_images_inspect_at_once(self, plant: Project, command: Command) -> None:
        code, out, err = command("enroll", EXTRA_CLASS, str(images(plant, 6)), "--json")
        assert code == 0, err
        found = json.loads(out.strip().splitlines()[-1])
        assert (found["phase"], found["num_normal"], found["version"]) == ("few_shot", 6, None)
        assert found["trial"]["injected"] and found["advice"] == "deploy"
        one = open_records().rollout.state().of(EXTRA_CLASS)
        assert (one.phase, one.wave, one.candidate) == (Phase.LEGACY, 0, "")
        detector = load_detector(open_records().locations.model(one.legacy).location, EXTRA_CLASS)
        assert detector.fingerprint == one.legacy

    def test_a_starter_that_cannot_tell_may_not_answer(self, plant: Project, command: Command) -> None:
        plant.edit_params(enrolment={"min_deploy": 1.0})
        plant.commit("Nothing is good enough")
        code, out, _ = command("enroll", EXTRA_CLASS, str(images(plant, 6)))
        assert code == 1 and "advice: collect" in out
        assert not open_records().rollout.revision()

    def test_without_images_and_without_weights_nothing_is_faked(self, plant: Project, command: Command) -> None:
        code, _, err = command("enroll", "gasket")
        assert code == 2 and "zero_shot.location" in err
        assert not open_records().rollout.revision()

    def test_on_the_first_day_words_answer_until_there_are_images(
        self, plant: Project, command: Command, tmp_path: Path
    ) -> None:
        """With weights of the true kind, small and random: the path is real, the score means nothing."""
        plant.edit_params(zero_shot=tiny_clip(tmp_path / "clip").model_dump(mode="json"))
        plant.commit("Words")
        code, out, _ = command("enroll", EXTRA_CLASS)
        assert code == 0 and "not measured" in out and "advice: none" in out and "deploy" not in out
        records = open_records()
        starter = records.rollout.state().of(EXTRA_CLASS).legacy
        words = load_detector(records.locations.model(starter).location, EXTRA_CLASS)
        assert isinstance(words, WinClip)
        (shown,) = json.loads(command("enroll", "status", "--json")[1].strip().splitlines()[-1])
        assert (shown["reached"], shown["num_normal"], shown["missing"]) == ("zero_shot", 0, 1)
        assert command("enroll", EXTRA_CLASS, str(images(plant, 6)))[0] == 0
        self.the_better_of_words_and_references_answers(plant, words)

    def the_better_of_words_and_references_answers(self, plant: Project, words: WinClip) -> None:
        records, params, layout = open_records(), load_params(plant.layout.params), plant.layout
        normals = [Image.open(path).convert("RGB") for path in Inbox(layout.inbox, EXTRA_CLASS).stock.normals]
        encoder = load_encoder(layout.encoder, "cpu")
        of_words = try_zero_shot(words, normals, [], params).auroc
        of_references = try_few_shot(EXTRA_CLASS, normals, [], encoder, params).auroc
        assert of_words is not None and of_references is not None
        starter = records.rollout.state().of(EXTRA_CLASS).legacy
        answers = load_detector(records.locations.model(starter).location, EXTRA_CLASS)
        assert isinstance(answers, WinClip if of_words > of_references else FewShot)

    def test_dirty_images_are_named_and_none_is_kept(self, plant: Project, command: Command) -> None:
        folder = images(plant, 6)
        (folder / "notes.png").write_text("no image")
        code, _, err = command("enroll", EXTRA_CLASS, str(folder))
        assert code == 2 and "notes.png" in err
        assert not list((plant.root / "data/inbox").rglob("*.png"))

    def test_status_shows_what_is_there_and_what_is_missing(self, plant: Project, command: Command) -> None:
        command("enroll", EXTRA_CLASS, str(images(plant, 6)))
        _, out, _ = command("enroll", "status", "--json")
        (one,) = json.loads(out.strip().splitlines()[-1])
        assert (one["class_name"], one["num_normal"], one["reached"]) == (EXTRA_CLASS, 6, "few_shot")
        assert one["missing"] == NUM_BANK - 6


class TestIntoTheModel:
    def test_only_the_new_class_is_made_and_the_others_stay_byte_for_byte(
        self, plant: Project, command: Command
    ) -> None:
        before, weights = snapshot(plant), plant.layout.decoder_weights.read_bytes()
        code, out, err = command("enroll", EXTRA_CLASS, str(images(plant, NUM_BANK)), "--json")
        assert code == 0, err
        assert json.loads(out.strip().splitlines()[-1])["version"] == f"models:/{MODEL}/2"
        assert snapshot(plant) == before and plant.layout.decoder_weights.read_bytes() == weights
        from tasks.integrations.mlflow_registry import list_versions

        new, old = list_versions(MODEL)
        assert new.aliases == ("challenger",)
        assert new.class_fingerprints.items() > old.class_fingerprints.items()
        assert set(new.class_fingerprints) == {*CLASSES, EXTRA_CLASS}
        self.it_goes_to_shadow(command)
        self.again_is_refused_and_an_update_is_not(plant, command)

    def it_goes_to_shadow(self, command: Command) -> None:
        command("rollout", "advance")
        one = open_records().rollout.state().of(EXTRA_CLASS)
        assert (one.phase, one.share) == (Phase.SHADOW, 0.0)

    def again_is_refused_and_an_update_is_not(self, plant: Project, command: Command) -> None:
        more = plant.root.parent / "more"
        shutil.copytree(plant.root / f"factory/{EXTRA_CLASS}/test/good", more)
        code, _, err = command("enroll", EXTRA_CLASS, str(more))
        assert code == 2 and "in the model already" in err
        before = snapshot(plant)
        plant.edit_params(enrolment={"max_loss": 1.0})
        plant.commit("Any loss will do")
        code, out, err = command("bank", "update", EXTRA_CLASS, str(more), "--json")
        assert code == 0, err
        assert json.loads(out.strip().splitlines()[-1])["num_normal"] == NUM_BANK + 12
        assert snapshot(plant) == before

    def test_images_of_another_class_are_refused_by_name_and_all_is_as_it_was(
        self, plant: Project, command: Command
    ) -> None:
        state, params = plant.git("status", "--porcelain"), plant.layout.params.read_bytes()
        lock = (plant.root / "dvc.lock").read_bytes()
        folder = plant.root.parent / "wrong"
        folder.mkdir()
        for number in range(NUM_BANK):
            save(picture("dots", "other", number), folder / f"{number:03d}.png")
        code, _, err = command("enroll", "gear", str(folder))
        assert code == 1 and "looks like dots" in err
        assert plant.git("status", "--porcelain") == state
        assert (plant.layout.params.read_bytes(), (plant.root / "dvc.lock").read_bytes()) == (params, lock)
        assert not list((plant.root / "models").rglob("*gear*"))
        assert plant.stale() == set()

    def test_a_project_with_stale_stages_is_not_enrolled_into(self, plant: Project, command: Command) -> None:
        plant.edit_params(validation={"min_normal": 15})
        plant.commit("Fewer images will do")
        code, _, err = command("enroll", EXTRA_CLASS, str(images(plant, NUM_BANK)))
        assert code == 2 and "stages validate are not up to date; run `shadowline retrain` first" in err


def offered(project: Project, name: str, count: int, *, pattern: str = "") -> Path:
    """A folder with normal images that no source holds."""
    folder = project.root.parent / f"later-{name}-{pattern}"
    for number in range(count):
        save(picture(pattern or name, "later", number), folder / f"{number:03d}.png")
    return folder


def snapshot_of_all_but(name: str, project: Project) -> dict[str, str]:
    """Hash of every output that is not of the class or of all classes together."""
    together = (
        "data/classes", "data/validation/checks", "data/validation/docs", "data/class_metrics.json", "data/plots",
        "models/inspector",
    )  # fmt: skip
    return {
        path: md5
        for path, md5 in project.outputs().items()
        if path not in together and name not in (Path(path).stem, Path(path).name)
    }


class TestUpdate:
    @pytest.fixture(autouse=True)
    def any_loss_will_do(self, plant: Project) -> None:
        """Random weights promise nothing."""
        plant.edit_params(enrolment={"max_loss": 1.0})
        plant.commit("Any loss will do")

    def test_a_class_that_the_decoder_learns_from_gets_a_new_bank_and_nothing_else_changes(
        self, plant: Project, command: Command
    ) -> None:
        layout, name = plant.layout, CLASSES[0]
        before, old = snapshot_of_all_but(name, plant), read_manifest([layout.manifest(name)])
        own = [layout.bank(name), layout.identity(name), layout.calibration(name), layout.evaluation(name)]
        own_before = [plant.outputs()[path.relative_to(plant.root).as_posix()] for path in own]
        code, out, err = command("bank", "update", name, str(offered(plant, name, 20)), "--json")
        assert code == 0, err
        done = json.loads(out.strip().splitlines()[-1])
        assert (done["version"], done["num_normal"]) == (f"models:/{MODEL}/2", 52 + 20)
        assert "train" not in done["seconds"]
        assert snapshot_of_all_but(name, plant) == before  # the decoder and its index are among them
        assert "models/decoder" in before and "data/training_set.json" in before
        own_after = [plant.outputs()[path.relative_to(plant.root).as_posix()] for path in own]
        assert all(was != now for was, now in zip(own_before, own_after, strict=True))
        self.images_of_the_source_stay_where_they_were(old, read_manifest([layout.manifest(name)]))
        self.the_same_images_again_are_refused(plant, name, command)
        self.from_the_next_retraining_on_the_decoder_learns_from_them(plant, name)

    def images_of_the_source_stay_where_they_were(self, old: pd.DataFrame, new: pd.DataFrame) -> None:
        assert not new["image_id"].duplicated().any()
        again = new[new["image_id"].isin(old["image_id"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(again, old)
        later = new[~new["image_id"].isin(old["image_id"])]
        assert later["bank_only"].all() and later["source"].str.startswith("addition:").all()
        assert set(later["split"]) == {"train", "val", "test"}

    def the_same_images_again_are_refused(self, plant: Project, name: str, command: Command) -> None:
        code, _, err = command("bank", "update", name, str(offered(plant, name, 20)))
        assert code == 2 and "none of the images is new, 20 are in it already" in err

    def from_the_next_retraining_on_the_decoder_learns_from_them(self, plant: Project, name: str) -> None:
        """Up to the index on which its training depends."""
        index, before = plant.layout.training_set.read_bytes(), read_manifest([plant.layout.manifest(name)])
        with disable_run_logger():
            take_in.fn(plant.root, open_records().pairs.engine)
        plant.repro("training_set")
        pd.testing.assert_frame_equal(read_manifest([plant.layout.manifest(name)]), before.assign(bank_only=False))
        assert plant.layout.training_set.read_bytes() != index

    def test_images_of_another_class_leave_everything_as_it_was(self, plant: Project, command: Command) -> None:
        name, other = CLASSES
        state, params = plant.git("status", "--porcelain"), plant.layout.params.read_bytes()
        lock = (plant.root / "dvc.lock").read_bytes()
        code, _, err = command("bank", "update", name, str(offered(plant, name, 20, pattern=other)))
        assert code == 1 and f"looks like {other}" in err
        assert plant.git("status", "--porcelain") == state
        assert (plant.layout.params.read_bytes(), (plant.root / "dvc.lock").read_bytes()) == (params, lock)
        assert plant.stale() == set()

    def test_an_image_of_another_class_or_label_is_named_and_not_taken(self, plant: Project, command: Command) -> None:
        name, other = CLASSES
        folder = offered(plant, name, 2)
        shutil.copy(plant.root / f"factory/{other}/train/good/000.png", folder / "of-another-class.png")
        shutil.copy(plant.root / f"factory/{name}/test/hole/000.png", folder / "known-as-defect.png")
        code, _, err = command("bank", "update", name, str(folder))
        assert code == 2 and "2 images refused" in err
        assert f"of-another-class.png: the same image is in class '{other}'" in err
        assert "known-as-defect.png: comes as normal, and is in the class as anomalous" in err


class TestKillsAndRaces:
    def test_a_killed_enrolment_leaves_the_old_version_and_the_next_one_ends(
        self, plant: Project, command: Command
    ) -> None:
        folder = images(plant, NUM_BANK)
        stages = ("data/features", "models/banks", "models/calibration")
        for place in stages:
            running = plant.start("shadowline", "enroll", EXTRA_CLASS, str(folder))
            wait_until(
                lambda place=place: any(  # type: ignore[misc]
                    EXTRA_CLASS in path.name for path in (plant.root / place).iterdir()
                ),
                running,
            )
            kill(running)
            assert plant.layout.enrolling.is_file()
            for folder_of_all in stages:  # as where the kill met a file half written
                unfinished(plant.root / folder_of_all / f"{EXTRA_CLASS}.safetensors").write_bytes(b"half")
            from tasks.integrations.mlflow_registry import list_versions

            assert len(list_versions(MODEL)) == 1
        code, _, err = command("retrain", "--json")  # the mark of the killed one is taken back first
        assert code == 0, err
        assert EXTRA_CLASS not in yaml.safe_load(plant.layout.params.read_text(encoding="utf-8"))["classes"]
        code, _, err = command("enroll", EXTRA_CLASS, str(folder))
        assert code == 0, err

    def test_two_at_once_are_done_one_after_the_other(self, plant: Project) -> None:
        first = plant.start("shadowline", "enroll", EXTRA_CLASS, str(images(plant, 6)))
        second = plant.start("shadowline", "enroll", "gear", str(images(plant, 6, "gears", "dots")))
        assert [first.wait(300), second.wait(300)] == [0, 0]
        assert {cls.class_name for cls in open_records().rollout.state().classes} == {EXTRA_CLASS, "gear"}


def test_the_poll_takes_what_is_due_once(plant: Project, prefect_server: str) -> None:
    from flows.enroll import enroll_waiting
    from shadowline.core.params import load_params
    from shadowline.enrolment.inbox import Inbox, read_folder

    inbox = Inbox(plant.layout.inbox, EXTRA_CLASS)
    inbox.take(read_folder(images(plant, 6), EXTRA_CLASS).images, load_params(plant.layout.params).data)
    assert enroll_waiting() == [EXTRA_CLASS]
    assert enroll_waiting() == []  # nothing has come since
    inbox.take(read_folder(images(plant, 7), EXTRA_CLASS).images, load_params(plant.layout.params).data)
    assert enroll_waiting() == [EXTRA_CLASS]


def test_the_poll_takes_images_from_an_s3_prefix(
    plant: Project, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.enroll import enroll_waiting

    with s3_server("plant") as address:
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", address)
        bucket = boto3.client("s3", endpoint_url=address)
        for path in images(plant, 6).iterdir():
            bucket.put_object(Bucket="plant", Key=f"new/{EXTRA_CLASS}/{path.name}", Body=path.read_bytes())
        assert enroll_waiting("s3://plant/new") == [EXTRA_CLASS]
        assert enroll_waiting("s3://plant/new") == []
    assert open_records().rollout.state().of(EXTRA_CLASS).phase is Phase.LEGACY


def test_a_class_that_cannot_be_taken_in_is_named_and_keeps_no_other_from_its_turn(
    plant: Project, prefect_server: str, monkeypatch: pytest.MonkeyPatch, prefect_log: pytest.LogCaptureFixture
) -> None:
    from flows.enroll import enroll_waiting

    broken = [f"new/gear/{number}.png" for number in range(30)]
    with s3_server("plant") as address:
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", address)
        bucket = boto3.client("s3", endpoint_url=address)
        for path in images(plant, 6).iterdir():
            for name in ("gear", EXTRA_CLASS):
                bucket.put_object(
                    Bucket="plant", Key=f"new/{name}/good/2026-01-05T06:00:{path.name}", Body=path.read_bytes()
                )
        for key in ("new/Not a class/1.png", "new/empty/notes.txt", *broken):
            bucket.put_object(Bucket="plant", Key=key, Body=b"no image")
        assert enroll_waiting("s3://plant/new") == [EXTRA_CLASS]
        refused = {
            record.getMessage().partition("\n")[0]
            for record in prefect_log.records
            if "not taken in" in record.getMessage()
        }
        assert {line.partition(":")[0] for line in refused} == {
            f"class '{name}' not taken in" for name in ("Not a class", "empty", "gear")
        }
        assert "class 'gear' not taken in: class 'gear': 30 images refused:" in refused
        assert classes_waiting(plant.layout.inbox) == (EXTRA_CLASS,)
        for key in broken:  # by a person
            bucket.delete_object(Bucket="plant", Key=key)
        assert enroll_waiting("s3://plant/new") == ["gear"]
    assert Inbox(plant.layout.inbox, "gear").stock.num_images == 6
