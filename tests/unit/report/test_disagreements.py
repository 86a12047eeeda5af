"""The page of disagreements: which pairs, in what order, with whose heat maps, and what it says of what is gone."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from shadowline.core.params import LegacyParams, Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.data.manifest import content_id
from shadowline.evaluation.agreement import agree
from shadowline.features import backbones
from shadowline.inference.rescoring import colour_range
from shadowline.models.loader import load_detector
from shadowline.models.patchcore.detector import PatchCore
from shadowline.records.model_locations import ModelLocation
from shadowline.records.pair import ModelDecision, Pair
from shadowline.records.stores import Records, open_records
from shadowline.report.disagreements import (
    Adjudication,
    adjudicate,
    build_gallery,
    choose_shown,
    describe_dispute,
    rank_disagreements,
)
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def texture(seed: int, *, defect: bool = False) -> Image.Image:
    """A fine grey weave; the defect is a bright square in its lower left quarter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:80, :80]
    pixels = 120 + 30 * np.sin(x / 2) * np.sin(y / 2) + rng.normal(0, 6, size=(80, 80))
    if defect:
        pixels[48:64, 16:32] = 250
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@dataclass
class Line:
    """A class in shadow with two real models on disk, and a camera."""

    folder: Path
    records: Records
    state: ClassState

    def capture(self, seed: int, candidate: float, legacy: float, *, defect: bool = False, label: str = "") -> str:
        """One pair with these scores; both thresholds are 10. Returns the image's id."""
        path = self.folder / f"images/{seed}.png"
        path.parent.mkdir(exist_ok=True)
        texture(seed, defect=defect).save(path)
        return self.record(str(path), content_id(path.read_bytes()), seed, candidate, legacy, label)

    def record(self, path: str, image_id: str, seed: int, candidate: float, legacy: float, label: str = "") -> str:
        said = [ModelDecision(score, 10.0, 5.0) for score in (candidate, legacy)]
        one, at = self.state, START + timedelta(minutes=seed)
        pair = Pair(one.class_name, image_id, at, one.candidate, one.legacy, "legacy", *said, image_path=path)
        self.records.pairs.record([pair])
        if label:
            self.records.pairs.label(one.class_name, image_id, Label(label), "Ada", at)
        return image_id

    def page(self, params: Params, limit: int = 40) -> str:
        target = build_gallery(self.state, self.records, params, self.folder / "out", limit, Progress())
        assert target == self.folder / "out/disagreements-weave.html"
        return target.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Directory and fingerprint of each side: PatchCore on timm's smallest ResNet with seeded weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_file(
        backbones.build("test_resnet", features_only=True, out_indices=(1, 2)).state_dict(), folder / "w.safetensors"
    )
    params = LegacyParams(
        network="test_resnet", location=str(folder / "w.safetensors"), input_size=64, layers=(1, 2),
        coreset_share=0.1, neighbours=5, target_fpr=0.05,
    )  # fmt: skip
    found = {}
    for seed, side in enumerate(("candidate", "legacy")):
        detector = PatchCore.fit("weave", [texture(i) for i in range(8)], params, seed=seed)
        detector = detector.calibrate(detector.score([texture(100 + i) for i in range(20)]), 0.05)
        detector.save(folder / side)
        found[side] = (folder / side, detector.fingerprint)
    return found


@pytest.fixture
def line(tmp_path: Path, models: dict[str, tuple[Path, str]]) -> Line:
    records = open_records(f"sqlite:///{tmp_path / 'records.db'}")
    for side, (directory, fingerprint) in models.items():
        shutil.copytree(directory, tmp_path / side)
        place = ModelLocation(fingerprint, "weave", side, str(tmp_path / side), "7")
        records.locations.upsert_model([place], START)
    fingerprints = {side: fingerprint for side, (_, fingerprint) in models.items()}
    return Line(tmp_path, records, ClassState("weave", 1, Phase.SHADOW, START, share=0.0, **fingerprints))


def shown(page: str) -> list[str]:
    """Ids of the images on the page, from the top."""
    return re.findall(r'<span class="id">([0-9a-f]{64})</span>', page)


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int) for encoded in found]


# --- which, and in what order


def test_only_disagreements_are_shown_the_farthest_apart_first(line: Line, params: Params) -> None:
    for seed in range(6):
        line.capture(seed, 8.0 + 0.1 * seed, 7.0 + 0.1 * seed)  # both pass
    line.capture(10, 12.0, 13.0)  # both stop
    close, far = line.capture(11, 10.1, 9.9), line.capture(12, 15.0, 6.0)
    middle = line.capture(13, 9.0, 12.0)
    assert shown(line.page(params)) == [far, middle, close]


@pytest.mark.parametrize(
    ("limit", "num_against", "num_proven"), [(1, 1, 0), (4, 2, 2), (5, 3, 2), (8, 4, 4), (9, 4, 5), (40, 4, 10)]
)
def test_both_kinds_are_shown_where_not_all_are(limit: int, num_against: int, num_proven: int) -> None:
    """However many speak against the new model, those in which it was right are not pushed off the page."""
    ranked = pd.DataFrame({"proven": [False] * 4 + [True] * 10, "distance": range(14)})
    chosen = choose_shown(ranked, limit)
    assert (int((~chosen["proven"]).sum()), int(chosen["proven"].sum())) == (num_against, num_proven)
    assert chosen["distance"].tolist() == [*range(num_against), *range(4, 4 + num_proven)], "the worst of each"


def test_a_model_that_is_gone_draws_its_maps_where_the_caller_can_load_it(line: Line, params: Params) -> None:
    line.capture(1, 15.0, 5.0, defect=True)
    archive = line.folder / "archive"
    shutil.move(line.folder / "legacy", archive)
    assert len(pictures(line.page(params))) == 2, "the image and the candidate's map"
    gallery = build_gallery(
        line.state, line.records, params, line.folder / "out", 40, Progress(),
        lambda place: load_detector(str(archive) if place.role == "legacy" else place.location, place.class_name),
    )  # fmt: skip
    assert len(pictures(gallery.read_text(encoding="utf-8"))) == 3


def test_a_pair_with_only_one_answer_is_no_disagreement(line: Line, params: Params) -> None:
    one = line.state
    failed = Pair(
        "weave",
        "f" * 64,
        START,
        one.candidate,
        one.legacy,
        "legacy",
        ModelDecision(error="boom"),
        ModelDecision(12.0, 10.0),
    )
    alone = Pair("weave", "a" * 64, START, one.candidate, one.legacy, "candidate", ModelDecision(12.0, 10.0), None)
    line.records.pairs.record([failed, alone])
    assert shown(line.page(params)) == []


def test_pairs_of_other_models_are_not_shown(line: Line, params: Params) -> None:
    line.capture(1, 12.0, 8.0)
    line.state = replace(line.state, candidate="another")
    assert shown(line.page(params)) == []


def test_what_the_label_settles_for_the_candidate_comes_last(line: Line, params: Params) -> None:
    proven = line.capture(1, 30.0, 2.0, defect=True, label="anomalous")
    wrong = line.capture(2, 11.0, 9.0, label="normal")
    open_ = line.capture(3, 14.0, 8.0)
    page = line.page(params)
    assert shown(page) == [open_, wrong, proven]
    pills = re.findall(r'<span class="pill (\w+)">([^<]+)</span>', page)
    assert [pill for pill, _ in pills] == ["open", "bad", "good"]
    assert shown(line.page(params, limit=2)) == [open_, proven]  # one of each kind
    assert shown(line.page(params, limit=1)) == [open_]  # however far apart the settled one lies


@pytest.mark.parametrize(
    ("candidate", "label", "right"),
    [
        (True, "anomalous", Adjudication.CANDIDATE),
        (True, "normal", Adjudication.LEGACY),
        (False, "anomalous", Adjudication.LEGACY),
        (False, "normal", Adjudication.CANDIDATE),
        (True, None, Adjudication.OPEN),
        (False, float("nan"), Adjudication.OPEN),
    ],
)
def test_the_label_says_who_was_right(candidate: bool, label: object, right: Adjudication) -> None:
    assert adjudicate({"candidate_alarm": candidate, "legacy_alarm": not candidate, "label": label}) is right


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_the_order_does_not_depend_on_a_models_unit(factor: float) -> None:
    rng = np.random.default_rng(0)
    scores = pd.DataFrame({"candidate_score": rng.normal(0, 1, 50), "legacy_score": rng.normal(0, 1, 50) * factor})
    disagreeing = pd.DataFrame(
        {
            "candidate_score": [3.0, 1.5, 2.0],
            "candidate_threshold": 1.0,
            "legacy_score": np.array([0.9, -2.0, 0.5]) * factor,
            "legacy_threshold": factor,
            "candidate_alarm": True,
            "legacy_alarm": False,
            "label": None,
        }
    )
    assert list(rank_disagreements(disagreeing, scores).index) == [1, 0, 2]


def test_saturated_scores_still_have_an_order() -> None:
    scores = pd.DataFrame({"candidate_score": [1.0] * 9 + [2.0], "legacy_score": [5.0] * 10})
    disagreeing = pd.DataFrame(
        {
            "candidate_score": [1.0, 2.0], "candidate_threshold": 0.5, "candidate_alarm": True,
            "legacy_score": 5.0, "legacy_threshold": 6.0, "legacy_alarm": False, "label": None,
        }
    )  # fmt: skip
    found = rank_disagreements(disagreeing, scores)
    assert list(found.index) == [1, 0]
    assert np.isfinite(found["distance"]).all()


def test_the_limit_keeps_the_worst_and_says_so(line: Line, params: Params) -> None:
    ids = [line.capture(seed, 11.0 + seed, 9.0) for seed in range(5)]
    page = line.page(params, limit=2)
    assert shown(page) == [ids[4], ids[3]]
    assert "5 disagreements, 2 shown" in page
    with pytest.raises(ValueError, match="limit 0, need at least 1"):
        line.page(params, limit=0)


# --- what the models saw


def test_both_heat_maps_mark_the_defect_beside_the_image(line: Line, params: Params) -> None:
    for seed in range(100, 106):
        line.capture(seed, 8.0, 8.0)  # what both pass shows where colour begins
    line.capture(1, 15.0, 9.0, defect=True)
    image, *overlays = pictures(line.page(params))
    assert len(overlays) == 2
    for overlay in overlays:
        colour = np.ptp(overlay, axis=-1) > 40
        height, width = colour.shape
        near = colour[height // 2 : int(0.9 * height), int(0.1 * width) : width // 2]
        assert near.sum() > 0.5 * colour.sum() > 100
    assert (np.ptp(image, axis=-1) > 40).sum() == 0


def test_colour_begins_above_what_good_parts_show() -> None:
    rng = np.random.default_rng(0)
    good = [rng.normal(50, 1, (20, 20)).astype(np.float32) for _ in range(8)]
    hot = [score_map + np.float32(30) * (np.arange(400).reshape(20, 20) < 20) for score_map in good]
    level, high = colour_range(good, hot)
    assert 52 < level < 54
    assert 78 < high < 86
    assert colour_range(good, good)[1] > max(float(score_map.max()) for score_map in good)  # a quiet map never glows
    assert colour_range([], []) == (0.0, 1.0)


def test_colour_learns_from_what_is_shown_where_nothing_was_passed_by_both() -> None:
    shown_maps = [np.arange(100, dtype=np.float32).reshape(10, 10)]
    level, high = colour_range(shown_maps, shown_maps)
    assert 95 < level < high


# --- what is gone


def test_a_missing_image_is_said_in_its_place(line: Line, params: Params) -> None:
    kept, gone = line.capture(1, 15.0, 9.0), line.capture(2, 14.0, 9.0)
    (line.folder / "images/2.png").unlink()
    page = line.page(params)
    assert shown(page) == [kept, gone]
    assert "2.png: cannot be read" in page
    assert page.count("no image to look at") == 2
    assert len(pictures(page)) == 3


@pytest.mark.parametrize(
    ("path", "words"), [("", "the image was not kept"), ("images/1.png", "is another image by now")]
)
def test_an_image_that_is_not_the_one_that_was_judged_is_not_shown(
    line: Line, params: Params, path: str, words: str
) -> None:
    line.capture(1, 8.0, 8.0)
    line.record(str(line.folder / path) if path else "", "0" * 64, 2, 15.0, 9.0)
    page = line.page(params)
    assert words in page
    assert pictures(page) == []


def test_a_file_that_is_no_image_is_said_in_its_place(line: Line, params: Params) -> None:
    path = line.folder / "broken.png"
    path.write_bytes(b"not an image")
    line.record(str(path), content_id(path.read_bytes()), 2, 15.0, 9.0)
    assert "no readable image header" in line.page(params)


def test_a_vanished_model_is_said_in_place_and_the_other_still_looks(line: Line, params: Params) -> None:
    line.capture(1, 15.0, 9.0, defect=True)
    shutil.rmtree(line.folder / "legacy")
    page = line.page(params)
    assert "the model cannot be loaded" in page
    assert len(pictures(page)) == 2  # the image, and the candidate's map


def test_a_model_that_nobody_has_noted_is_said_in_place(line: Line, params: Params) -> None:
    line.state = replace(line.state, candidate="0" * 64)
    line.capture(1, 15.0, 9.0)
    assert "not on record" in line.page(params)


def test_the_map_of_another_model_is_never_shown(line: Line, params: Params) -> None:
    line.capture(1, 15.0, 9.0)
    shutil.rmtree(line.folder / "candidate")
    shutil.copytree(line.folder / "legacy", line.folder / "candidate")
    page = line.page(params)
    assert "holds another model by now" in page
    assert len(pictures(page)) == 2


# --- words and the page


def test_the_numbers_are_said_in_plain_words(line: Line, params: Params) -> None:
    for seed in range(16):
        line.capture(seed, 8.0, 8.0)
    line.capture(20, 12.0, 8.0, label="anomalous")
    line.capture(21, 12.0, 8.0, label="normal")
    line.capture(22, 12.0, 8.0)
    line.capture(23, 8.0, 12.0)
    counts = line.records.pairs.counts("weave", line.state.candidate, line.state.legacy)
    alike, differed, alarms = describe_dispute("weave", counts, agree(counts, 0.95), 0.95)
    assert alike.startswith("Both models judged 20 parts and decided alike on 80\u202f% of them (95\u202f% interval")
    assert differed == (
        "They differed on 4: inspectors proved the new model right on 1 and wrong on 1; 2 wait for a label."
    )
    assert alarms.startswith("Of 100 parts, the new model stops 10.0 more than today’s (interval: ")
    assert alike in line.page(params)


def test_fewer_alarms_are_called_fewer(line: Line) -> None:
    for seed in range(4):
        line.capture(seed, 8.0, 12.0 if seed else 8.0)
    counts = line.records.pairs.counts("weave", line.state.candidate, line.state.legacy)
    assert "stops 75.0 fewer than today’s" in describe_dispute("weave", counts, agree(counts, 0.95), 0.95)[-1]


def test_the_interval_is_the_one_that_params_ask_for(line: Line, params: Params) -> None:
    line.capture(1, 12.0, 8.0)
    wide = params.model_copy(update={"shadow": params.shadow.model_copy(update={"confidence": 0.8})})
    assert "80\u202f% interval" in line.page(wide)


def test_without_pairs_the_page_says_so(line: Line, params: Params) -> None:
    page = line.page(params)
    assert "have judged no part of weave together yet" in page
    assert "None." in page
    assert "nan" not in page.partition("</style>")[2].lower().replace("provenance", "")


def test_the_page_is_one_file_without_scripts_that_needs_nothing(line: Line, params: Params) -> None:
    for seed in range(4):
        line.capture(seed, 12.0 + seed, 8.0)
    line.record("</p><script>alert(1)</script>", "b" * 64, 9, 12.0, 8.0)
    page = line.page(params)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not [each for each in re.findall(r'(?:src|href)="([^"]*)"', page) if not each.startswith(("data:", "#"))]
    assert {each[1:] for each in re.findall(r'href="(#\w+)"', page)} <= set(re.findall(r'id="(\w+)"', page))
    assert not list((line.folder / "out").glob(".*"))
