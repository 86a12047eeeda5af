"""Foreign models behind the detector's protocol: ONNX graphs and MLflow pyfuncs, their laws and their refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from shadowline.models.detector import Detector
from shadowline.models.external.onnx import OnnxDetector
from shadowline.models.external.pyfunc import PyfuncDetector
from shadowline.models.loader import DetectorKind, find_model, load_detector

SIDE = 8  # pixels
DESCRIPTION = {
    "class_name": "bolt",
    "threshold": 0.6,
    "higher_is_anomalous": True,
    "input_name": "pixels",
    "input_size": SIDE,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "score_output": "score",
    "map_output": "map",
}
PYFUNC = """
import base64, io
import mlflow, numpy as np, pandas as pd
from PIL import Image

class Brightness(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        images = [Image.open(io.BytesIO(base64.b64decode(one))) for one in model_input["{column}"]]
        return pd.DataFrame({{"{answer}": [{value} for image in images]}})

mlflow.models.set_model(Brightness())
"""
MEAN = "float(np.asarray(image).mean() / 255)"


def grey(value: int, side: int = 12) -> Image.Image:
    return Image.new("RGB", (side, side), (value, value, value))


def graph(*, batch: int | str = 1, weight: float = 1.0, score_axes: str = "all") -> onnx.ModelProto:
    """Score = weight · mean of the input (per row, with score_axes="rows"); map = its first channel."""
    axes = {"all": [1, 2, 3], "rows": [1, 3]}[score_axes]
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "weight"], ["score"]),
        helper.make_node("Slice", ["pixels", "zero", "one", "channel"], ["map"]),
    ]
    constants = {"axes": axes, "zero": [0], "one": [1], "channel": [1]}
    initial = [numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in constants.items()]
    initial.append(numpy_helper.from_array(np.array([weight], dtype=np.float32), "weight"))
    shape = [batch, 3, SIDE, SIDE]
    built = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("score", "map")],
        initial,
    )
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a model's directory: `write(graph(), threshold=0.1)`."""

    def write_model(model: onnx.ModelProto | None = None, **changes: Any) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        onnx.save(model or graph(), folder / "model.onnx")
        (folder / "detector.json").write_text(json.dumps({**DESCRIPTION, **changes}), encoding="utf-8")
        return folder

    return write_model


# --- ONNX: scores and maps ------------------------------------------------------------------------------------------


def test_a_graph_scores_what_it_computes_of_the_normalised_image(write):
    detector: Detector = OnnxDetector.load(write(mean=[0.2, 0.2, 0.2], std=[0.5, 0.5, 0.5]))
    assert detector.score([grey(0), grey(255)]) == pytest.approx([-0.4, 1.6], abs=1e-6)
    assert (detector.class_name, detector.threshold) == ("bolt", 0.6)


def test_a_score_does_not_depend_on_the_images_beside_it(write):
    detector = OnnxDetector.load(write())
    images = [grey(10), grey(200), grey(90)]
    assert [detector.score([image])[0] for image in images] == detector.score(images).tolist()
    assert detector.score([]).shape == (0,)


def test_a_model_that_scores_the_other_way_round_decides_the_same(write):
    images = [grey(value) for value in (0, 100, 152, 154, 255)]
    upright, turned = (
        OnnxDetector.load(write()),
        OnnxDetector.load(write(graph(weight=-1.0), threshold=-0.6, higher_is_anomalous=False)),
    )
    expected = [False, False, False, True, True]
    for detector in (upright, turned):
        assert (detector.score(images) > detector.threshold).tolist() == expected
    assert turned.maps(images).max() <= 0


def test_maps_are_those_of_the_named_output(write):
    image = grey(0)
    image.paste((255, 255, 255), (6, 0, 12, 12))
    maps = OnnxDetector.load(write()).maps([image, grey(255)])
    assert maps.shape == (2, SIDE, SIDE)
    assert maps[0, :, -1].min() == 1.0 and abs(maps[0, :, 0]).max() < 0.1 and (maps[1] == 1.0).all()


def test_a_model_without_a_map_says_so_instead_of_making_one_up(write):
    with pytest.raises(ValueError, match="class 'bolt': the model gives no map; name one as map_output"):
        OnnxDetector.load(write(map_output="")).maps([grey(0)])


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_fixed_and_a_free_batch_axis_are_both_taken(write, batch):
    assert OnnxDetector.load(write(graph(batch=batch))).score([grey(255)]) == pytest.approx([1.0])


def test_the_fingerprint_moves_with_either_file_and_with_nothing_else(write):
    first = OnnxDetector.load(write()).fingerprint
    (write() / "notes.txt").write_text("beside it", encoding="utf-8")
    assert OnnxDetector.load(write()).fingerprint == first
    described = OnnxDetector.load(write(threshold=0.61)).fingerprint
    trained = OnnxDetector.load(write(graph(weight=1.0 + 1e-6))).fingerprint
    assert len({first, described, trained}) == 3


# --- ONNX: refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_name": "image"}, r"input_name 'image', but the graph asks for \['pixels'\]"),
        ({"score_output": "logit"}, r"no output \['logit'\]; the graph gives \['map', 'score'\]"),
        ({"map_output": "heat"}, r"no output \['heat'\]"),
        ({"input_size": 9}, r"wants tensor\(float\) \[1, 3, 8, 8\], but gets tensor\(float\) \[1, 3, 9, 9\]"),
        ({"std": [1.0, 0.0, 1.0]}, "std.1: Input should be greater than 0"),
        ({"mean": [0.5]}, "mean.1: Field required"),
        ({"class_name": "../bolt"}, "class_name: String should match pattern"),
        ({"treshold": 1}, "treshold: Extra inputs are not permitted"),
        ({"threshold": "NaN"}, "threshold: Input should be a finite number"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_with_the_reason(write, changes, message):
    with pytest.raises(ValueError, match=message):
        OnnxDetector.load(write(**changes))


def test_a_graph_for_batches_of_eight_is_refused(write):
    with pytest.raises(ValueError, match="export it for single RGB images"):
        OnnxDetector.load(write(graph(batch=8)))


@pytest.mark.parametrize(("score_axes", "shown"), [("rows", r"shape \(1, 8\)")])
def test_more_than_one_number_an_image_is_no_score(write, score_axes, shown):
    with pytest.raises(ValueError, match=f"output 'score' gave {shown}, need one finite number"):
        OnnxDetector.load(write(graph(score_axes=score_axes))).score([grey(1)])


@pytest.mark.parametrize(("weight", "shown"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_score_that_is_not_finite_is_an_error_and_never_a_decision(write, weight, shown):
    with pytest.raises(ValueError, match=f"output 'score' gave {shown}"):
        OnnxDetector.load(write(graph(weight=weight))).score([grey(255)])


def test_a_map_of_another_shape_is_refused(write):
    with pytest.raises(ValueError, match=r"output 'score' gave .*need one map"):
        OnnxDetector.load(write(map_output="score")).maps([grey(1)])


def test_damaged_and_missing_files_are_named(write):
    folder = write()
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"model\.onnx: .*export it again, as one file"):
        OnnxDetector.load(folder)
    (folder / "detector.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"detector\.json: file: Invalid JSON"):
        OnnxDetector.load(folder)
    (folder / "detector.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"detector\.json: no such file"):
        OnnxDetector.load(folder)


def test_weights_in_another_file_are_refused_because_no_fingerprint_covers_them(write, monkeypatch):
    folder = write()
    model = graph()
    big = numpy_helper.from_array(np.ones(4096, dtype=np.float32), "big")
    model.graph.initializer.append(big)
    model.graph.node.append(helper.make_node("Identity", ["big"], ["unused"]))
    model.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [4096]))
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").is_file()
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="export it again, as one file"):
        OnnxDetector.load(folder)


# --- pyfunc ---------------------------------------------------------------------------------------------------------


def save_pyfunc(folder: Path, *, column: str = "image", answer: str = "score", value: str = MEAN) -> Path:
    """A model logged as code: the mean brightness of the image, or what `value` says."""
    import mlflow

    code = folder.parent / "brightness.py"
    code.write_text(PYFUNC.format(column=column, answer=answer, value=value), encoding="utf-8")
    mlflow.pyfunc.save_model(str(folder), python_model=str(code), pip_requirements=["mlflow"])
    return folder


def describe(folder: Path, **changes: Any) -> Path:
    (folder / "detector.json").write_text(
        json.dumps({"class_name": "bolt", "threshold": 0.5, **changes}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def pyfunc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return describe(save_pyfunc(tmp_path / "pyfunc"))


def test_a_pyfunc_is_asked_with_base64_and_answers_with_a_score(pyfunc, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    detector: Detector = load_detector(str(pyfunc), "bolt")
    assert isinstance(detector, PyfuncDetector)
    assert detector.score([grey(0), grey(51)]) == pytest.approx([0.0, 0.2])
    assert (detector.class_name, detector.threshold) == ("bolt", 0.5)
    with pytest.raises(ValueError, match="a pyfunc gives no maps"):
        detector.maps([grey(0)])
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # loading leaves no tracking store behind


def test_other_columns_and_the_other_way_round_are_mapped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_pyfunc(tmp_path / "other", column="payload", answer="quality")
    detector = PyfuncDetector.load(
        describe(folder, image_column="payload", score_column="quality", higher_is_anomalous=False)
    )
    assert (detector.score([grey(0), grey(255)]) > detector.threshold).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"answered 1 rows of \['quality'\], need one with 'score'"):
        PyfuncDetector.load(describe(folder, image_column="payload")).score([grey(0)])


def test_a_pyfunc_that_answers_nan_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    detector = PyfuncDetector.load(describe(save_pyfunc(tmp_path / "nan", value='float("nan")')))
    with pytest.raises(ValueError, match="class 'bolt': score nan, need a finite number"):
        detector.score([grey(0)])


def test_the_fingerprint_of_a_pyfunc_moves_with_its_code_and_description_but_not_with_caches(pyfunc):
    first = PyfuncDetector.load(pyfunc).fingerprint
    (pyfunc / "__pycache__").mkdir(exist_ok=True)
    (pyfunc / "__pycache__/x.pyc").write_bytes(b"cache")
    (pyfunc / "registered_model_meta").write_text("model_version: 3", encoding="utf-8")
    assert PyfuncDetector.load(pyfunc).fingerprint == first
    described = PyfuncDetector.load(describe(pyfunc, threshold=0.51)).fingerprint
    with (pyfunc / "brightness.py").open("a", encoding="utf-8") as code:
        code.write("# changed\n")
    assert len({first, described, PyfuncDetector.load(pyfunc).fingerprint}) == 3


@pytest.mark.parametrize(("name", "head"), [("python_model.pkl", b""), ("weights.pt", b""), ("blob", b"\x80\x04")])
def test_a_pyfunc_that_needs_a_pickle_is_refused_before_anything_is_loaded(pyfunc, name, head):
    (pyfunc / "artifacts").mkdir()
    (pyfunc / "artifacts" / name).write_bytes(head)
    (pyfunc / "MLmodel").write_text("loading me would fail: [", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"needs a pickle \(artifacts/{name}\); log the model as code, or as ONNX"):
        load_detector(str(pyfunc), "bolt")


def test_a_pyfunc_that_mlflow_cannot_load_is_refused_with_its_reason(pyfunc):
    (pyfunc / "MLmodel").write_text("flavors: {}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="pyfunc: "):
        load_detector(str(pyfunc), "bolt")


# --- which is which -------------------------------------------------------------------------------------------------


def test_every_kind_is_recognised_by_its_files(write, pyfunc, tmp_path):
    assert find_model(str(write())) == (tmp_path / "model", DetectorKind.ONNX)
    assert find_model(str(pyfunc)) == (pyfunc, DetectorKind.PYFUNC)
    inside = tmp_path / "registered/artifacts/legacy"
    inside.parent.mkdir(parents=True)
    write().rename(inside)
    (tmp_path / "registered/MLmodel").write_text("", encoding="utf-8")
    assert find_model(str(tmp_path / "registered")) == (inside, DetectorKind.ONNX)
    assert load_detector(str(tmp_path / "registered"), "bolt").class_name == "bolt"


def test_a_model_of_another_class_is_not_taken_for_this_one(write):
    with pytest.raises(ValueError, match="a model of class 'bolt', not 'nut'"):
        load_detector(str(write()), "nut")


def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model, since there is no config\.json or detector\.json"):
        load_detector(str(tmp_path), "bolt")
