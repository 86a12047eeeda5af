"""The packaged inspector: what it says of an image, and what it refuses."""

from __future__ import annotations

import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fixtures.tiny_project import CLASSES, CROP, EXTRA_CLASS, PATCH, Project, picture, read_json
from shadowline.core.atomic_files import write_json
from shadowline.data.bit_depth import from_grey8
from shadowline.data.images import RefusedImage
from shadowline.data.labels import Label
from shadowline.models.decoding import Decoding
from shadowline.models.fingerprints import class_fingerprints, model_fingerprint
from shadowline.models.inspector import Inspector, UnknownProduct


@pytest.fixture(scope="module")
def inspector(finished: Project) -> Inspector:
    return Inspector.load(finished.layout.package)


@pytest.fixture
def hole(finished: Project) -> Path:
    return finished.root / "factory/dots/test/hole/000.png"


def test_a_result_says_everything_about_one_decision(finished: Project, inspector: Inspector, hole: Path) -> None:
    result = inspector.inspect(hole, "dots")
    assert result.decision is Label.ANOMALOUS
    assert result.score > result.threshold == inspector.calibrations["dots"].threshold
    assert (result.class_name, result.class_confidence, result.model_version) == ("dots", None, "directory")
    assert result.fingerprint == model_fingerprint(finished.layout.package)
    assert result.latency_ms > 0
    assert result.anomaly_map.shape == (CROP // PATCH, CROP // PATCH)
    assert np.isfinite(result.anomaly_map).all()
    assert result.to_dict().keys() == set(result.__dict__) - {"anomaly_map"} | {"stop"}


def test_the_map_is_hottest_at_the_defect(inspector: Inspector, hole: Path) -> None:
    rows, columns = np.nonzero(np.asarray(Image.open(hole.parents[2] / "ground_truth/hole/000_mask.png")))
    result = inspector.inspect(hole, "dots")
    top = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
    size = 64 / result.anomaly_map.shape[0]  # pixels per patch, near enough
    assert abs(top[0] * size + size / 2 - rows.mean()) < 2 * size
    assert abs(top[1] * size + size / 2 - columns.mean()) < 2 * size


def test_paths_bytes_and_pictures_score_the_same(inspector: Inspector, hole: Path) -> None:
    scores = {
        inspector.inspect(source, "dots").score for source in (hole, str(hole), hole.read_bytes(), Image.open(hole))
    }
    assert len(scores) == 1


def test_an_image_scores_the_same_alone_and_among_others(finished: Project, inspector: Inspector) -> None:
    paths = sorted((finished.root / "factory/stripes/test").rglob("*.png"))[:11]  # more than one batch of the encoder
    together = [result.score for result in inspector.inspect_many(paths, "stripes")]
    assert together == pytest.approx([inspector.inspect(path, "stripes").score for path in paths], abs=0.01)


@pytest.mark.parametrize("name", CLASSES)
def test_the_inspector_scores_what_the_evaluation_scored(finished: Project, inspector: Inspector, name: str) -> None:
    scores = pd.read_parquet(finished.layout.evaluation(name) / "scores.parquet")
    paths = [finished.root / path for path in scores["path"]]
    results = list(inspector.inspect_many(paths, name))
    assert [result.score for result in results] == pytest.approx(list(scores["score"]), abs=0.01)
    assert [str(result.decision) for result in results] == list(scores["decision"])


@pytest.mark.parametrize("name", CLASSES)
def test_without_a_class_an_image_is_judged_as_of_its_own_or_of_none(
    finished: Project, inspector: Inspector, name: str
) -> None:
    paths = sorted((finished.root / f"factory/{name}/test/good").glob("*.png"))
    judged = 0
    for path in paths:
        result = inspector.inspect(path)
        if isinstance(result, UnknownProduct):  # params.identification.unknown_share of them may be
            assert result.nearest_class == name
            continue
        judged += 1
        assert result.class_name == name
        assert result.class_confidence is not None and 0 < result.class_confidence < 1
        assert result.score == inspector.inspect(path, name).score
    assert judged >= len(paths) / 2


def test_an_unknown_product_is_an_answer_without_a_decision(finished: Project, inspector: Inspector) -> None:
    path = finished.root / f"factory/{EXTRA_CLASS}/test/good/000.png"
    result = inspector.inspect(path)
    assert isinstance(result, UnknownProduct)
    assert result.nearest_class in CLASSES
    assert 0 < result.class_confidence < 0.5  # no class accepts it
    assert result.stop
    assert result.fingerprint == inspector.fingerprint
    said = result.to_dict()
    assert (said["decision"], said["score"], said["class_name"], said["stop"]) == (None, None, None, True)
    assert said.keys() >= inspector.inspect(path, "dots").to_dict().keys()


def test_images_with_and_without_a_class_are_answered_in_their_order(finished: Project, inspector: Inspector) -> None:
    paths = [finished.root / f"factory/{name}/test/good/001.png" for name in (*CLASSES, EXTRA_CLASS)]
    answers = list(inspector.inspect_each([(paths[2], None), (paths[0], "dots"), (paths[1], "stripes")]))
    assert [isinstance(answer, UnknownProduct) for answer in answers] == [True, False, False]
    assert [answer.class_confidence for answer in answers[1:]] == [None, None]


def test_identities_decide_no_class_but_belong_to_the_model(project: Project) -> None:
    folder = project.layout.package
    before = model_fingerprint(folder), class_fingerprints(folder)
    one, other = (folder / f"identity/{name}.safetensors" for name in CLASSES)
    shutil.copyfile(one, other)
    assert class_fingerprints(folder) == before[1]
    assert model_fingerprint(folder) != before[0]


def test_a_model_packaged_without_identities_asks_for_the_class(project: Project) -> None:
    folder = project.layout.package
    shutil.rmtree(folder / "identity")
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "fingerprint": model_fingerprint(folder)})
    old = Inspector.load(folder)
    hole = project.root / "factory/dots/test/hole/000.png"
    assert old.identified_classes == ()
    assert old.inspect(hole, "dots").decision is Label.ANOMALOUS
    for ask in (lambda: old.inspect(hole), lambda: old.identify_many([hole])):
        with pytest.raises(ValueError, match="holds no identity/ to tell classes apart; name one of dots, stripes"):
            ask()


def test_an_unknown_class_is_refused_with_the_known_ones(inspector: Inspector, hole: Path) -> None:
    with pytest.raises(ValueError, match="class 'bolts' is not in this model; it knows dots, stripes"):
        inspector.inspect(hole, "bolts")


def test_a_missing_directory_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no packaged inspector; run `shadowline retrain`"):
        Inspector.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("calibration.json", '"threshold": 1'),
        ("calibration.json", '"threshold": [1'),  # not JSON any more
        ("banks/dots.safetensors", -3),
        ("identity/dots.safetensors", -3),
        ("decoder.safetensors", -3),
        ("encoder.safetensors", -3),
    ],
)
def test_a_tampered_file_is_refused(project: Project, file: str, change: int | str) -> None:
    path = project.layout.package / file
    data = bytearray(path.read_bytes())
    if isinstance(change, str):
        data = bytearray(re.sub(rb'"threshold": [-\d.e]+', change.encode(), data))
    else:
        data[change] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"files changed since packaging|restore the file"):
        Inspector.load(project.layout.package)


def test_a_truncated_image_is_refused_by_name(inspector: Inspector, hole: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(hole.read_bytes()[:-200])
    with pytest.raises(RefusedImage, match=r"broken\.png"):
        inspector.inspect(broken, "dots")


def test_a_16_bit_image_scores_like_its_8_bit_picture(inspector: Inspector, tmp_path: Path) -> None:
    grey = np.asarray(picture("dots", "grey", 0).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "flat.png")
    deep, flat = (inspector.inspect(tmp_path / name, "dots") for name in ("deep.png", "flat.png"))
    assert deep.score == flat.score


def test_a_class_of_12_bits_is_decoded_alike_from_every_input(project: Project, tmp_path: Path) -> None:
    folder = project.layout.package
    assert not (folder / "decoding.json").exists()  # its images have 8 bits
    before = class_fingerprints(folder)
    Decoding({"dots": 12}).write(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "fingerprint": model_fingerprint(folder)})
    assert class_fingerprints(folder)["dots"] != before["dots"]
    grey = picture("dots", "grey", 0).convert("L")
    deep = from_grey8(grey, 12)
    path = tmp_path / "deep.tif"
    Image.fromarray(deep).save(path)
    sources = (path, path.read_bytes(), Image.open(path), Image.fromarray(deep), deep, np.asarray(grey), grey)
    inspector = Inspector.load(folder)
    assert len({inspector.inspect(source, "dots").score for source in sources}) == 1


def test_an_array_of_opencv_scores_like_its_file(inspector: Inspector, hole: Path) -> None:
    rgb = np.asarray(Image.open(hole).convert("RGB"))
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    arrays = [(rgb, False), (rgb[..., ::-1], True), (alpha, False), (alpha[..., [2, 1, 0, 3]], True)]
    scores = {inspector.inspect(array, "dots", bgr=bgr).score for array, bgr in arrays}
    assert scores == {inspector.inspect(hole, "dots").score}


def test_a_cmyk_image_scores_like_its_rgb_picture(inspector: Inspector) -> None:
    buffer = BytesIO()
    picture("dots", "cmyk", 0).convert("CMYK").save(buffer, "TIFF")
    rgb = Image.open(BytesIO(buffer.getvalue())).convert("RGB")
    assert inspector.inspect(buffer.getvalue(), "dots").score == inspector.inspect(rgb, "dots").score
