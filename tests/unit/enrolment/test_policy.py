"""Enrolment: which phase, which advice, what the inbox takes, how a starter model is tried."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shadowline.core.params import Params
from shadowline.core.params_file import editing
from shadowline.data.images import read_bounded
from shadowline.data.sources import list_images
from shadowline.enrolment.inbox import Inbox, NamedImage, classes_waiting, read_folder
from shadowline.enrolment.policy import Advice, EnrolmentPhase, Trial, advise, choose_phase, missing_images
from shadowline.enrolment.starter import build_few_shot, inject_defects, try_few_shot
from shadowline.features.encoder import Encoder

PHASES = list(EnrolmentPhase)


def png(seed: int, size: int = 24) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def offer(*images: tuple[bytes, str]) -> list[NamedImage]:
    return [
        NamedImage(f"{n}.png", kind, lambda limit, data=data: data[:limit])  # type: ignore[misc]
        for n, (data, kind) in enumerate(images)
    ]


class TestPhases:
    @pytest.mark.parametrize(
        ("num_normal", "phase"),
        [(0, "zero_shot"), (1, "few_shot"), (199, "few_shot"), (200, "bank"), (5000, "bank")],
    )
    def test_images_choose_the_phase(self, params: Params, num_normal: int, phase: str) -> None:
        assert choose_phase(num_normal, params.enrolment) == phase

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 1000), st.integers(0, 100))
    def test_more_images_never_take_a_phase_back(self, params: Params, some: int, more: int) -> None:
        before, after = (choose_phase(n, params.enrolment) for n in (some, some + more))
        assert PHASES.index(after) >= PHASES.index(before)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 1000))
    def test_the_missing_images_lead_to_the_next_phase_and_one_less_does_not(self, params: Params, some: int) -> None:
        phase, missing = choose_phase(some, params.enrolment), missing_images(some, params.enrolment)
        if phase is EnrolmentPhase.BANK:
            assert missing == 0
        else:
            assert PHASES.index(choose_phase(some + missing, params.enrolment)) == PHASES.index(phase) + 1
            assert choose_phase(some + missing - 1, params.enrolment) is phase


class TestTheDeploymentRule:
    @pytest.mark.parametrize(
        ("phase", "auroc", "advice"),
        [
            ("zero_shot", None, Advice.UNMEASURED),  # the first day
            ("zero_shot", 0.90, Advice.DEPLOY),
            ("zero_shot", 0.899, Advice.FEW_SHOT),
            ("zero_shot", 0.85, Advice.FEW_SHOT),
            ("zero_shot", 0.849, Advice.COLLECT),
            ("few_shot", None, Advice.COLLECT),
            ("few_shot", 0.90, Advice.DEPLOY),
            ("few_shot", 0.899, Advice.COLLECT),
        ],
    )
    def test_it_is_that_of_the_background(
        self, params: Params, phase: str, auroc: float | None, advice: Advice
    ) -> None:
        assert advise(EnrolmentPhase(phase), Trial(auroc, 8, 8, injected=True), params.enrolment) is advice

    def test_what_was_not_measured_is_never_advised(self, params: Params) -> None:
        for phase in EnrolmentPhase:
            advice = advise(phase, Trial(None, 0, 0, injected=False), params.enrolment)
            assert advice is not Advice.DEPLOY
            assert advice.may_answer == (phase is EnrolmentPhase.ZERO_SHOT)  # a product without images has nothing else

    def test_a_trial_says_whether_its_defects_are_real(self) -> None:
        assert "8 injected defects" in str(Trial(0.9, 4, 8, injected=True))
        assert "8 real defects" in str(Trial(0.9, 4, 8, injected=False))


class TestInbox:
    def test_it_keeps_bytes_by_content_and_tells_normals_from_defects(self, tmp_path: Path, params: Params) -> None:
        inbox = Inbox(tmp_path, "bolt")
        done = inbox.take(offer((png(1), "good"), (png(2), "crack"), (png(1), "good")), params.data)
        assert (len(done.new), done.num_known, done.refused) == (2, 1, ())
        assert [len(part) for part in (inbox.stock.normals, inbox.stock.defects)] == [1, 1]
        assert inbox.stock.normals[0].read_bytes() == png(1)
        assert inbox.take(offer((png(2), "crack")), params.data).num_known == 1

    def test_what_is_no_image_is_named_and_not_kept(self, tmp_path: Path, params: Params) -> None:
        inbox = Inbox(tmp_path, "bolt")
        done = inbox.take(offer((b"hello", "good"), (png(3)[:80], "good"), (b"", "good")), params.data)
        assert not done.new and len(done.refused) == 3 and not inbox.stock.num_images
        assert all(line.startswith(f"{n}.png") for n, line in enumerate(done.refused))

    @pytest.mark.parametrize("name", ["", "..", "a/b", "Bolt", "x" * 65, "ä", "a.b", "a\n"])
    def test_no_name_leaves_the_inbox(self, tmp_path: Path, params: Params, name: str) -> None:
        with pytest.raises(ValueError, match="class"):
            Inbox(tmp_path, name)
        with pytest.raises(ValueError, match="kind"):
            Inbox(tmp_path, "bolt").put(png(1), name, params.data, "x")
        assert not list(tmp_path.rglob("*.png"))

    def test_a_folder_is_read_by_its_subfolders(self, tmp_path: Path, params: Params) -> None:
        for path in ("1.png", "good/2.png", "crack/3.png"):
            (tmp_path / "new" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "new" / path).write_bytes(png(int(Path(path).stem)))
        kinds = {Path(image.name).name: image.kind for image in read_folder(tmp_path / "new", "bolt").images}
        assert kinds == {"1.png": "good", "2.png": "good", "3.png": "crack"}

    def test_the_layouts_of_an_import_are_read_and_masks_left_out(self, tmp_path: Path, params: Params) -> None:
        names = ("train/good/1.png", "test/Good/2.png", "test/Broken Edge/3.png", "ground_truth/Broken Edge/3_mask.png")
        for name in (*names, "test_private/5.png", "train/good/@eaDir/6.png"):
            (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "new" / name).write_bytes(png(int(Path(name).stem[0])))
        offered = read_folder(tmp_path / "new", "bolt")
        kinds = {Path(image.name).name: image.kind for image in offered.images}
        assert kinds == {"1.png": "good", "2.png": "good", "3.png": "broken_edge"}
        assert offered.left_out == {"a mask": 1, "an image without a label": 1, "a file of the system": 1}

    def test_folders_of_defects_alone_are_defects_and_a_data_set_of_other_classes_is_refused(
        self, tmp_path: Path, params: Params
    ) -> None:
        for name in (
            "new/crack/1.png",
            "new/dent/2.png",
            "set/nut/good/3.png",
            "set/bolt/good/4.png",
            "set/a/ok/5.png",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(png(int(Path(name).stem)))
        assert {image.kind for image in read_folder(tmp_path / "new", "bolt").images} == {"crack", "dent"}
        assert [Path(image.name).name for image in read_folder(tmp_path / "set", "bolt").images] == ["4.png"]
        with pytest.raises(
            ValueError, match=r"class 'gear': .*set holds 3 other classes \(a, bolt, nut\); name the folder"
        ):
            read_folder(tmp_path / "set", "gear")

    def test_a_kind_means_the_same_to_the_inbox_and_to_an_import(self, tmp_path: Path, params: Params) -> None:
        inbox = Inbox(tmp_path / "data/inbox", "bolt")
        inbox.take(offer((png(1), "ok"), (png(2), "ng"), (png(3), "label"), (png(4), "test")), params.data)
        assert [len(part) for part in (inbox.stock.normals, inbox.stock.defects)] == [1, 3]
        listed = list_images("bolt", inbox.as_source(tmp_path, params.enrolment), tmp_path)
        assert sorted(image.defect_type for image in listed) == ["", "label", "ng", "test"]
        for kind, message in (("mask", "says nothing of a defect"), ("goood", "did you mean good")):
            with pytest.raises(ValueError, match=message):
                inbox.put(png(5), kind, params.data, "x")

    def test_a_kind_that_contradicts_the_inbox_is_refused_until_its_images_are_forgotten(
        self, tmp_path: Path, params: Params
    ) -> None:
        inbox = Inbox(tmp_path / "inbox", "bolt")
        inbox.take(offer((png(1), "train"), (png(2), "train")), params.data)
        (refused,) = inbox.take(offer((png(1), "good")), params.data).refused
        assert "comes as good, and lies in the inbox as train" in refused and "enrolment forget bolt" in refused
        assert inbox.forget(tmp_path / "forgotten/bolt") == 2
        assert not inbox.stock.num_images and classes_waiting(tmp_path / "inbox") == ()
        assert len(list((tmp_path / "forgotten/bolt").rglob("*.png"))) == 2
        assert len(inbox.take(offer((png(1), "good")), params.data).new) == 1

    def test_a_link_that_leads_out_of_the_folder_is_refused_by_name(self, tmp_path: Path, params: Params) -> None:
        (tmp_path / "secret.png").write_bytes(png(1))
        (tmp_path / "new").mkdir()
        (tmp_path / "new/2.png").symlink_to(tmp_path / "secret.png")
        done = Inbox(tmp_path / "inbox", "bolt").take(read_folder(tmp_path / "new", "bolt").images, params.data)
        assert not done.new and "2.png" in done.refused[0]

    def test_an_empty_or_missing_folder_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder"):
            read_folder(tmp_path / "nowhere", "bolt")
        with pytest.raises(ValueError, match="no files"):
            read_folder(tmp_path, "bolt")

    def test_the_importer_reads_what_the_inbox_keeps(self, tmp_path: Path, params: Params) -> None:
        inbox = Inbox(tmp_path / "data/inbox", "bolt")
        inbox.take(offer((png(1), "good"), (png(2), "crack")), params.data)
        listed = list_images("bolt", inbox.as_source(tmp_path, params.enrolment), tmp_path)
        assert {(image.label.value, image.defect_type) for image in listed} == {("normal", ""), ("anomalous", "crack")}
        assert {image.read(10**6) for image in listed} == {png(1), png(2)}

    def test_classes_that_wait_are_those_with_a_folder(self, tmp_path: Path, params: Params) -> None:
        Inbox(tmp_path, "nut").take(offer((png(1), "good")), params.data)
        Inbox(tmp_path, "bolt").take(offer((png(1), "good")), params.data)
        (tmp_path / "Not A Class").mkdir()
        assert classes_waiting(tmp_path) == ("bolt", "nut")
        assert classes_waiting(tmp_path / "nowhere") == ()

    def test_reading_is_bounded(self, tmp_path: Path, params: Params) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new/big.png").write_bytes(png(1, 64))
        limits = params.data.model_copy(update={"max_file_bytes": 1000})
        done = Inbox(tmp_path / "inbox", "bolt").take(read_folder(tmp_path / "new", "bolt").images, limits)
        assert len(done.refused) == 1 and len(read_bounded(tmp_path / "new/big.png", 1001)) == 1001


class TestStarter:
    def images(self, count: int) -> list[Image.Image]:
        return [Image.open(BytesIO(png(seed, 56))).convert("RGB") for seed in range(count)]

    def test_references_are_limited_and_the_first(self, encoder: Encoder, params: Params) -> None:
        limited = params.model_copy(update={"enrolment": params.enrolment.model_copy(update={"few_shot_images": 3})})
        few, all_given = (build_few_shot("bolt", self.images(n), encoder, limited) for n in (3, 5))
        assert few.fingerprint == all_given.fingerprint
        assert few.config.num_images == 3

    def test_too_few_images_are_not_tried(self, encoder: Encoder, params: Params) -> None:
        assert try_few_shot("bolt", self.images(3), [], encoder, params).auroc is None

    def test_defects_that_are_nothing_but_other_normals_are_not_told_apart(
        self, encoder: Encoder, params: Params
    ) -> None:
        images = self.images(24)
        trial = try_few_shot("bolt", images[:12], images[12:], encoder, params)
        assert trial.auroc is not None and 0.1 < trial.auroc < 0.9
        assert (trial.num_anomalous, trial.injected) == (12, False)

    def test_another_texture_is_told_apart(self, encoder: Encoder, params: Params) -> None:
        flat = [Image.new("RGB", (56, 56), (shade, shade, shade)) for shade in range(100, 108)]
        trial = try_few_shot("bolt", flat, self.images(6), encoder, params)
        assert trial.auroc is not None and trial.auroc > 0.95

    def test_injected_defects_are_seeded(self, params: Params) -> None:
        images = self.images(2)
        first, again = (list(inject_defects("bolt", images, params)) for _ in range(2))
        assert len(first) == 2 * len(params.calibration.injected)
        assert [image.tobytes() for image in first] == [image.tobytes() for image in again]


class TestParamsFile:
    def test_comments_and_order_stay_and_an_error_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "params.yaml"
        path.write_text("classes:\n  nut: {source: folder}  # since May\nseed: 7 # why\n", encoding="utf-8")
        with editing(path) as content:
            content["classes"]["bolt"] = {"source": "folder", "location": "x"}
        text = path.read_text(encoding="utf-8")
        assert "# since May" in text and text.index("nut") < text.index("bolt") < text.index("seed: 7 # why")
        with pytest.raises(KeyError), editing(path) as content:
            content["seed"] = 8
            raise KeyError
        assert path.read_text(encoding="utf-8") == text
