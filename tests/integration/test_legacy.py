"""The last years of a legacy model: on record, archived, proven, deleted; with real stores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from fixtures.learning import ROOT
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout
from shadowline.core.params import LegacyParams, load_params
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import COLUMNS, content_id, write_manifest
from shadowline.features import backbones
from shadowline.models.archive import pack, unpack
from shadowline.models.legacy_validation import DeclaredMetrics, validate_legacy_model
from shadowline.models.loader import find_model, load_detector
from shadowline.models.patchcore.detector import PatchCore
from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.stores import Records, open_records
from shadowline.rollout.inventory import load_inventory
from shadowline.rollout.observation import ChecklistItem

CLASS, OTHER = "weave", "bolt"  # the first has a test split, the second has none
NOW = datetime(2026, 3, 2, tzinfo=UTC)
Command = Callable[..., tuple[int, str, str]]

NOISY = """
import mlflow, numpy as np, pandas as pd

class Noisy(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"score": np.random.default_rng().normal(size=len(model_input))})

mlflow.models.set_model(Noisy())
"""
STEADY = NOISY.replace("np.random.default_rng().normal(size=len(model_input))", "[0.25] * len(model_input)")

# Each process deletes, and dies, without a word to anybody, when it comes to one step; prints how it ended.
DYING = """
import os, sys
import mlflow.store.artifact.local_artifact_repo as local
from mlflow import MlflowClient
from tasks.rollout.legacy_models import delete_legacy
for owner, step in ((local.LocalArtifactRepository, "delete_artifacts"),
                    (MlflowClient, "delete_logged_model"), (MlflowClient, "delete_model_version")):
    child = os.fork()
    if not child:
        setattr(owner, step, lambda *_, **__: os._exit(9))
        delete_legacy(*sys.argv[1:])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def texture(seed: int, *, defect: bool = False) -> Image.Image:
    """A fine grey weave; the defect is a bright square."""
    y, x = np.mgrid[:64, :64]
    pixels = 120 + 30 * np.sin(x / 2) * np.sin(y / 2) + np.random.default_rng(seed).normal(0, 6, (64, 64))
    if defect:
        pixels[40:54, 12:26] = 250
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> LegacyParams:
    torch.manual_seed(0)
    weights = backbones.build("test_resnet", features_only=True, out_indices=(1, 2))
    location = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(weights.state_dict(), location)
    return LegacyParams(
        network="test_resnet",
        location=str(location),
        input_size=48,
        layers=(1, 2),
        coreset_share=0.1,
        neighbours=3,
        target_fpr=0.1,
    )


@pytest.fixture(scope="module")
def patchcores(network: LegacyParams) -> dict[str, PatchCore]:
    """A calibrated model of each class."""
    train, val = [texture(seed) for seed in range(8)], [texture(seed) for seed in range(50, 70)]
    fitted = {name: PatchCore.fit(name, train, network, seed=7) for name in (CLASS, OTHER)}
    return {name: model.calibrate(model.score(val), 0.1) for name, model in fitted.items()}


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take seconds to make; the experiments in it are each test's own."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@dataclass(frozen=True)
class Plant:
    """A project with one class on record, and all stores below its root."""

    root: Path

    @property
    def records(self) -> Records:
        return open_records()

    def import_model(self, class_name: str, location: Path | str, **stated: float) -> tuple[str, str]:
        """Fingerprint and URI of the registered model, without an orchestrator."""
        from tasks.rollout.legacy_models import note_legacy, register_legacy

        layout = Layout(self.root)
        params = load_params(layout.params)
        model = validate_legacy_model(class_name, str(location), params, layout, DeclaredMetrics(**stated))
        version = register_legacy.fn(model, params.registry.experiment)
        note_legacy.fn(version, model, NOW)
        return model.fingerprint, version.uri

    def artifacts(self) -> list[Path]:
        """Files of all registered models."""
        return sorted(path for path in (self.root / "mlruns").rglob("*") if path.is_file() and "models" in path.parts)


@pytest.fixture
def plant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patchcores: dict[str, PatchCore], empty_registry: Path
) -> Plant:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["classes"] = {name: {"source": "folder", "location": "nowhere"} for name in (CLASS, OTHER)}
    raw["train"]["classes"] = [CLASS]
    raw["evaluation"]["bootstrap"] = 5
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    layout = Layout(tmp_path)
    rows = [write_image(layout, seed, defect=seed >= 12) for seed in range(24)]
    write_manifest(pd.DataFrame(rows, columns=list(COLUMNS)), layout.manifest(CLASS))
    for name, model in patchcores.items():
        model.save(layout.legacy(name))
    shutil.copyfile(empty_registry, tmp_path / "mlflow.db")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SHADOWLINE_DATABASE_URL", f"sqlite:///{tmp_path}/records.db")
    monkeypatch.setenv("SHADOWLINE_ARCHIVE_URL", f"file://{tmp_path}/archive")
    monkeypatch.chdir(tmp_path)
    return Plant(tmp_path)


def write_image(layout: Layout, seed: int, *, defect: bool) -> dict[str, Any]:
    """A test image on disk; returns its row of the manifest."""
    path = layout.images(CLASS) / f"{seed}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    texture(100 + seed, defect=defect).save(path)
    label = Label.ANOMALOUS if defect else Label.NORMAL
    known = {"image_id": content_id(path.read_bytes()), "path": path.relative_to(layout.root).as_posix()}
    known |= {"class_name": CLASS, "split": str(Split.TEST), "label": str(label), "captured_at": NOW, "source": "test"}
    empty = {"defect_type": "", "mask_path": "", "mode": "RGB", "width": 64, "height": 64}
    return {**known, **empty, "brightness": 0.5, "contrast": 0.1, "sharpness": 0.1}


def write_onnx(folder: Path, name: str = CLASS) -> Path:
    """Score = mean brightness."""
    axes = numpy_helper.from_array(np.array([1, 2, 3], dtype=np.int64), "axes")
    built = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixels", "axes"], ["score"], keepdims=0)],
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)],
        [axes],
    )
    folder.mkdir()
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(built, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    described = {
        "class_name": name,
        "threshold": 0.5,
        "input_name": "pixels",
        "input_size": 16,
        "score_output": "score",
    }
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    (folder / "detector.json").write_text(json.dumps({**described, **plain}), encoding="utf-8")
    return folder


def write_pyfunc(folder: Path, code: str = STEADY, name: str = CLASS) -> Path:
    source = folder.parent / "model_code.py"
    source.write_text(code, encoding="utf-8")
    mlflow.pyfunc.save_model(str(folder), python_model=str(source), pip_requirements=["mlflow"])
    (folder / "detector.json").write_text(json.dumps({"class_name": name, "threshold": 0.5}), encoding="utf-8")
    return folder


@pytest.fixture(params=["patchcore", "onnx", "pyfunc"])
def location(request: pytest.FixtureRequest, plant: Plant) -> str:
    """A model of each kind."""
    if request.param == "patchcore":
        return str(Layout(plant.root).legacy(CLASS))
    return str({"onnx": write_onnx, "pyfunc": write_pyfunc}[request.param](plant.root / "foreign"))


IMAGES = [texture(200), texture(201, defect=True)]

# --- on record ------------------------------------------------------------------------------------------------------


def test_a_registered_model_of_any_kind_scores_as_its_directory_does(plant: Plant, location: str) -> None:
    fingerprint, uri = plant.import_model(CLASS, location)
    original, registered = load_detector(location, CLASS), load_detector(uri, CLASS)
    assert registered.fingerprint == original.fingerprint == fingerprint
    assert registered.score(IMAGES).tobytes() == original.score(IMAGES).tobytes()
    place = plant.records.locations.model(fingerprint)
    assert (place.role, place.class_name, place.location, uri) == ("legacy", CLASS, uri, "models:/legacy-weave/1")


def test_the_same_model_is_registered_once_and_another_one_beside_it(plant: Plant, tmp_path: Path) -> None:
    first = plant.import_model(CLASS, Layout(plant.root).legacy(CLASS))
    moved = (tmp_path / "elsewhere").resolve()
    Layout(plant.root).legacy(CLASS).rename(moved)
    assert plant.import_model(CLASS, moved) == first
    assert plant.import_model(CLASS, first[1]) == first  # from the registry itself
    assert plant.import_model(CLASS, write_onnx(tmp_path / "foreign"))[1] == "models:/legacy-weave/2"


def test_the_registered_pyfunc_answers_as_the_inspector_s_does(plant: Plant, tmp_path: Path) -> None:
    fingerprint, uri = plant.import_model(CLASS, Layout(plant.root).legacy(CLASS))
    detector = load_detector(uri, CLASS)
    rows = pd.DataFrame({"path": ["12.png"], "class_name": [CLASS]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWLINE_IMAGE_ROOT", str(Layout(plant.root).images(CLASS)))
        served = mlflow.pyfunc.load_model(uri)
        (answer,) = served.predict(rows).to_dict("records")
        (other,) = served.predict(rows.assign(class_name="bolt")).to_dict("records")
    assert (other["score"], other["stop"]) == (None, True)
    assert other["error"] == "class 'bolt' is not in this model; it knows weave"
    score = detector.score([texture(112, defect=True)])[0]
    assert answer == {
        "score": score,
        "threshold": detector.threshold,
        "decision": "anomalous",
        "stop": True,
        "class_name": CLASS,
        "model_version": "1",
        "fingerprint": fingerprint,
        "error": None,
    }


def test_the_baseline_is_measured_on_the_test_split_and_what_is_stated_does_not_beat_it(plant: Plant) -> None:
    layout = Layout(plant.root)
    params = load_params(layout.params)
    found = validate_legacy_model(
        CLASS, str(layout.legacy(CLASS)), params, layout, DeclaredMetrics(auroc=0.1, hours_per_month=3)
    ).baseline
    assert (found.auroc, found.misses, found.num_images, found.hours_per_month) == (1.0, 0.0, 24, 3)
    assert found.false_alarms is not None and 0 <= found.false_alarms < 0.5
    size = sum(path.stat().st_size for path in layout.legacy(CLASS).iterdir())
    assert found.storage_mb == pytest.approx(size / 1e6)


def test_where_nothing_can_be_measured_the_factory_s_word_stands(plant: Plant) -> None:
    layout = Layout(plant.root)
    stated = DeclaredMetrics(auroc=0.97, storage_mb=300)
    found = validate_legacy_model(OTHER, str(layout.legacy(OTHER)), load_params(layout.params), layout, stated).baseline
    assert (found.auroc, found.num_images, found.storage_mb, found.misses) == (0.97, 0, 300, None)


def test_scores_on_record_are_used_only_where_they_are_of_this_model(plant: Plant, monkeypatch: Any) -> None:
    layout = Layout(plant.root)
    params, place = load_params(layout.params), layout.legacy(CLASS)
    detector = load_detector(str(place), CLASS)
    images = {path: content_id(path.read_bytes()) for path in layout.images(CLASS).iterdir()}
    scores = {key: float(detector.score([Image.open(path).convert("RGB")])[0]) for path, key in images.items()}
    first = sorted(scores)[:4]

    def auroc_with(recorded: dict[str, float]) -> float | None:
        layout.evaluation(CLASS).mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"image_id": list(recorded), "legacy_score": list(recorded.values())})
        table.to_parquet(layout.evaluation(CLASS) / "scores.parquet")
        return validate_legacy_model(CLASS, str(place), params, layout, DeclaredMetrics()).baseline.auroc

    turned = {key: score if key in first else -score for key, score in scores.items()}
    used = auroc_with(turned)
    assert used is not None and used < 1.0  # taken on trust, because the first ones are this model's
    assert auroc_with({key: score + 1 for key, score in scores.items()}) == 1.0  # another model's: scored again
    assert auroc_with(dict(list(turned.items())[:10])) == 1.0  # of other images: scored again


@pytest.mark.parametrize("breaks", ["threshold", "weights", "class", "score", "missing"])
def test_a_model_that_cannot_be_used_is_refused_and_leaves_nothing_on_record(plant: Plant, breaks: str) -> None:
    place = Layout(plant.root).legacy(CLASS)
    if breaks == "threshold":
        uncalibrated = PatchCore.load(place)
        config = uncalibrated.config.model_copy(update={"threshold": None})
        PatchCore(config, uncalibrated.network, uncalibrated.bank).save(place)
    elif breaks == "weights":
        tensors = bytearray((place / "weights.safetensors").read_bytes())
        tensors[-1] ^= 1
        (place / "weights.safetensors").write_bytes(tensors)
    elif breaks == "class":
        place = Layout(plant.root).legacy(OTHER)
    elif breaks == "score":
        place = write_pyfunc(plant.root / "foreign", STEADY.replace("0.25", "float('nan')"))
    else:
        place = plant.root / "nowhere"
    with pytest.raises((ValueError, FileNotFoundError)):
        plant.import_model(CLASS, place)
    assert plant.records.locations.models("legacy") == ()
    assert plant.artifacts() == []


def test_the_commands_import_one_and_all_and_list_them(prefect_server: str, plant: Plant, command: Command) -> None:
    code, out, err = command("legacy", "import", OTHER, f"models/legacy/{OTHER}", "--auroc", "0.97", "--json")
    assert code == 0, err
    (bolt,) = json.loads(out.splitlines()[-1])
    assert (bolt["uri"], bolt["tags"]["auroc"], bolt["tags"]["num_images"]) == ("models:/legacy-bolt/1", "0.97", "0")
    assert command("legacy", "import", "--all")[0] == 0
    code, out, _ = command("legacy", "list", "--json")
    listed = {load["class_name"]: load for load in json.loads(out)}
    assert listed.keys() == {CLASS, OTHER}
    assert listed[OTHER]["location"] == "models:/legacy-bolt/1"  # still the one version
    weave = listed[CLASS]
    assert (weave["registered"], weave["archive"], weave["tags"]["auroc"]) == (True, "", "1.0")
    assert weave["tags"].keys() >= {"fingerprint", "class", "kind", "source", "false_alarms", "misses", "storage_mb"}
    assert "models:/legacy-weave/1" in command("legacy", "list")[1]


def test_what_is_imported_is_in_the_audit_chain_once(plant: Plant) -> None:
    fingerprint, uri = plant.import_model(CLASS, f"models/legacy/{CLASS}", auroc=0.97)
    plant.import_model(CLASS, f"models/legacy/{CLASS}", auroc=0.97)
    (entry,) = open_records().chain.entries(kinds=[EntryKind.LEGACY])
    assert (entry.subject, entry.facts["version"], entry.facts["fingerprint"]) == (CLASS, uri, fingerprint)
    assert entry.facts["auroc"] == "1.0"  # as it was measured, not as it was stated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import",), "give CLASS and LOCATION, or --all"),
        (("import", CLASS), "give CLASS and LOCATION, or --all"),
        (("import", CLASS, "models/legacy/weave", "--all"), "give CLASS and LOCATION, or --all"),
        (("import", CLASS, "nowhere"), "nowhere: no such directory"),
        (("import", CLASS, "models:/legacy-weave/9"), "models:/legacy-weave/9: "),
        (("import", CLASS, "models/legacy/weave", "--auroc", "97"), "Invalid value for '--auroc'"),
        (("import", "--all", "--auroc", "0.97"), "--all: what is stated is of one model"),
        (("restore", CLASS, "0" * 64, "back"), "nothing is archived there"),
    ],
)
def test_what_the_commands_cannot_use_ends_in_one_line_and_code_2(
    plant: Plant, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = command("legacy", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_an_assessment_writes_the_plan_and_answers_with_its_code(plant: Plant, command: Command) -> None:
    good = ROOT / "docs/examples/inventory.yaml"
    code, out, _ = command("assess", str(good), "--out", "plan.json", "--json")
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    assert (code, plan.keys()) == (0, {"waves", "reasons", "assessed_at"})
    assert json.loads(out)["waves"] == plan["waves"]
    assert sorted(name for wave in plan["waves"] for name in wave) == sorted(
        model.class_name for model in load_inventory(good).models
    )
    assert "High" in command("assess", str(good))[1]
    poor = yaml.safe_load(good.read_text(encoding="utf-8"))
    poor["site"] |= {"consistent_imaging": False, "accelerator_gb": 0, "new_products_per_year": 0}
    Path("poor.yaml").write_text(yaml.safe_dump(poor), encoding="utf-8")
    code, out, _ = command("assess", "poor.yaml")
    assert (code, "3 of 6 met: Low" in out) == (1, True)
    Path("bad.yaml").write_text("models: []", encoding="utf-8")
    assert command("assess", "bad.yaml")[0] == 2


# --- archived -------------------------------------------------------------------------------------------------------


def test_an_archive_has_the_same_bytes_wherever_and_whenever_it_is_packed(plant: Plant, tmp_path: Path) -> None:
    place = Layout(plant.root).legacy(CLASS)
    first = pack(place, tmp_path / "a.zip", CLASS, "f" * 64)
    moved = tmp_path / "moved"
    place.rename(moved)
    for path in moved.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (moved / "__pycache__").mkdir()
    (moved / "__pycache__/x.pyc").write_bytes(b"cache")
    assert pack(moved, tmp_path / "b.zip", CLASS, "f" * 64) == first
    assert pack(moved, tmp_path / "c.zip", CLASS, "e" * 64) != first
    contents = unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (contents.class_name, contents.fingerprint) == (CLASS, "f" * 64)
    assert contents.files == {path.name: file_sha256(path) for path in moved.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="not empty; name a new folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil"])
def test_nothing_is_unpacked_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    import zipfile

    contents = {"class_name": CLASS, "fingerprint": "f", "files": {name: "0" * 64}}
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("contents.json", json.dumps(contents))
        archive.writestr(f"model/{name}", "evil")
    with pytest.raises(ValueError, match="would lie outside of the model's folder"):
        unpack(tmp_path / "evil.zip", tmp_path / "folder/out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil.zip"]


@pytest.mark.parametrize("change", ["content", "missing", "undeclared", "no zip"])
def test_an_archive_that_is_not_what_was_packed_is_refused(tmp_path: Path, change: str) -> None:
    import zipfile

    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"weights")
    pack(tmp_path / "model", tmp_path / "good.zip", CLASS, "f")
    with zipfile.ZipFile(tmp_path / "good.zip") as good:
        files = {name: good.read(name) for name in good.namelist()}
    files |= {"content": {"model/weights": b"others"}, "undeclared": {"model/more": b"more"}}.get(change, {})
    if change == "missing":
        del files["model/weights"]
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for name, data in files.items():
            bad.writestr(name, data)
    if change == "no zip":
        (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"bad\.zip: "):
        unpack(tmp_path / "bad.zip", tmp_path / "out")


def test_archiving_again_keeps_the_one_archive_and_notes_it_at_the_version(plant: Plant) -> None:
    from tasks.integrations.mlflow_registry import client
    from tasks.rollout.legacy_models import archive_legacy

    fingerprint, _ = plant.import_model(CLASS, Layout(plant.root).legacy(CLASS))
    stored = archive_legacy(CLASS, fingerprint)
    kept = plant.root / f"archive/legacy/{CLASS}/{fingerprint}.zip"
    before = kept.stat().st_mtime_ns
    assert archive_legacy(CLASS, fingerprint) == stored
    assert kept.stat().st_mtime_ns == before  # not written again
    assert file_sha256(kept) == stored.sha256
    tags = client().get_model_version(f"legacy-{CLASS}", "1").tags
    assert tags["archive"] == f"{kept.as_uri()}#sha256={stored.sha256}"
    assert plant.records.approvals.evidence(CLASS, fingerprint) == {}  # an archive alone proves nothing


def test_an_archive_can_only_be_made_of_a_registered_model_with_its_own_bits(plant: Plant) -> None:
    from tasks.rollout.legacy_models import archive_legacy

    with pytest.raises(ValueError, match=r"no registered version of model 0000.*run `shadowline legacy import`"):
        archive_legacy(CLASS, "0" * 64)
    fingerprint, uri = plant.import_model(CLASS, write_onnx(plant.root / "foreign"))
    described = find_model(uri)[0] / "detector.json"
    described.write_text(described.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(ValueError, match=f"need {fingerprint[:12]}"):
        archive_legacy(CLASS, fingerprint)
    assert not (plant.root / "archive").exists()


def test_a_restored_model_of_any_kind_scores_bit_for_bit_and_that_is_put_on_record(plant: Plant, location: str) -> None:
    from tasks.rollout.legacy_models import archive_legacy, prove_archive

    fingerprint, _ = plant.import_model(CLASS, location)
    stored = archive_legacy(CLASS, fingerprint)
    link = prove_archive(CLASS, fingerprint, plant.root)
    record = plant.records.approvals.evidence(CLASS, fingerprint)[ChecklistItem.ARCHIVED]
    assert record["link"] == link == f"{stored.uri}#sha256={stored.sha256}"
    assert record["by"] == "prove_archive"


def test_images_can_be_given_where_the_project_has_none(plant: Plant) -> None:
    from tasks.rollout.legacy_models import archive_legacy, prove_archive

    fingerprint, _ = plant.import_model(OTHER, Layout(plant.root).legacy(OTHER))
    archive_legacy(OTHER, fingerprint)
    with pytest.raises(ValueError, match="class 'bolt': no test images to prove the archive with"):
        prove_archive(OTHER, fingerprint, plant.root)
    prove_archive(OTHER, fingerprint, images=IMAGES)
    assert ChecklistItem.ARCHIVED in plant.records.approvals.evidence(OTHER, fingerprint)


@pytest.mark.parametrize("lie", ["never archived", "changed", "another model", "unequal scores"])
def test_what_does_not_restore_bit_for_bit_is_never_put_on_record(plant: Plant, lie: str) -> None:
    from tasks.integrations.object_storage import open_storage
    from tasks.rollout.legacy_models import archive_key, archive_legacy, prove_archive

    noisy = lie == "unequal scores"
    place = write_pyfunc(plant.root / "foreign", NOISY) if noisy else Layout(plant.root).legacy(CLASS)
    fingerprint, _ = plant.import_model(CLASS, place)
    expected = "nothing is archived there"
    if lie != "never archived":
        stored = archive_legacy(CLASS, fingerprint)
        kept = Path(stored.uri.removeprefix("file://"))
    if lie == "changed":
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
        expected = "sha256 .* was put"
    elif lie == "another model":
        pack(write_onnx(plant.root / "foreign"), plant.root / "x.zip", CLASS, "e" * 64)
        open_storage().put(plant.root / "x.zip", archive_key(CLASS, fingerprint))
        expected = "holds model eeee"
    elif noisy:
        expected = "restored scores differ by up to .* need equal bits"
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        prove_archive(CLASS, fingerprint, plant.root)
    assert plant.records.approvals.evidence(CLASS, fingerprint) == {}


# --- deleted --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proven(plant: Plant) -> str:
    """The fingerprint of a model whose archive is proven."""
    from tasks.rollout.legacy_models import archive_legacy, prove_archive

    fingerprint, _ = plant.import_model(CLASS, Layout(plant.root).legacy(CLASS))
    archive_legacy(CLASS, fingerprint)
    prove_archive(CLASS, fingerprint, plant.root)
    return fingerprint


def test_nothing_is_deleted_without_a_proof_on_record(plant: Plant) -> None:
    from tasks.rollout.legacy_models import archive_legacy, delete_legacy

    fingerprint, uri = plant.import_model(CLASS, Layout(plant.root).legacy(CLASS))
    archive_legacy(CLASS, fingerprint)
    before = plant.artifacts()
    with pytest.raises(ValueError, match="no proof of its archive is on record; prove the archive first"):
        delete_legacy(CLASS, fingerprint)
    assert plant.artifacts() == before
    load_detector(uri, CLASS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("gone", "the proven archive does not verify: .*nothing is archived there"),
        ("changed", "the proven archive does not verify: .*sha256 .* was put"),
        ("replaced", "is not the archive that was proven; prove it again"),
    ],
)
def test_nothing_is_deleted_where_the_storage_no_longer_holds_what_was_proven(
    plant: Plant, proven: str, loss: str, message: str
) -> None:
    from tasks.integrations.object_storage import open_storage
    from tasks.rollout.legacy_models import archive_key, delete_legacy

    kept = plant.root / "archive" / archive_key(CLASS, proven)
    if loss == "gone":
        kept.unlink()
    elif loss == "changed":
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    else:
        pack(Layout(plant.root).legacy(CLASS), plant.root / "x.zip", CLASS, "e" * 64)
        open_storage().put(plant.root / "x.zip", archive_key(CLASS, proven))
    before = plant.artifacts()
    with pytest.raises(ValueError, match=message):
        delete_legacy(CLASS, proven)
    assert plant.artifacts() == before
    load_detector(f"models:/legacy-{CLASS}/1", CLASS)


def test_deleting_takes_this_model_alone_and_all_of_it_and_again_has_no_effect(plant: Plant, proven: str) -> None:
    from tasks.integrations.mlflow_registry import list_versions
    from tasks.rollout.legacy_models import delete_legacy

    _, other = plant.import_model(CLASS, write_onnx(plant.root / "foreign"))
    assert delete_legacy(CLASS, proven) == 1
    assert [version.uri for version in list_versions(f"legacy-{CLASS}")] == [other]
    left = [path for path in plant.artifacts() if path.name == "weights.safetensors"]
    assert left == []
    assert load_detector(other, CLASS).score(IMAGES).shape == (2,)
    with pytest.raises(ValueError, match="models:/legacy-weave/1: "):
        load_detector("models:/legacy-weave/1", CLASS)
    assert delete_legacy(CLASS, proven) == 0


def test_a_deleted_model_comes_back_from_its_archive_as_it_was(
    prefect_server: str, plant: Plant, proven: str, command: Command
) -> None:
    from tasks.rollout.legacy_models import delete_legacy, load_or_restore

    before = load_detector(f"models:/legacy-{CLASS}/1", CLASS).score(IMAGES).tobytes()
    delete_legacy(CLASS, proven)
    archived = load_or_restore(plant.records.locations.model(proven), plant.root / "scratch")
    assert (archived.fingerprint, archived.score(IMAGES).tobytes()) == (proven, before)
    (listed,) = json.loads(command("legacy", "list", "--json")[1])
    assert (listed["registered"], listed["fingerprint"]) == (False, proven)
    assert listed["archive"].startswith("file://")
    assert command("legacy", "restore", CLASS, proven, "back")[:2] == (0, "back\n")
    assert command("legacy", "import", CLASS, "back")[0] == 0
    again = load_detector(plant.records.locations.model(proven).location, CLASS)
    assert (again.fingerprint, again.score(IMAGES).tobytes()) == (proven, before)


def test_a_deletion_that_is_killed_anywhere_is_finished_by_the_next_one(plant: Plant, proven: str) -> None:
    from tasks.integrations.mlflow_registry import list_versions
    from tasks.rollout.legacy_models import delete_legacy

    died = subprocess.run(
        [sys.executable, "-c", DYING, CLASS, proven], capture_output=True, text=True, check=False, timeout=240
    )
    assert died.stdout.split() == ["9", "9", "9"], died.stderr  # each found the version, the thread to the rest
    assert delete_legacy(CLASS, proven) == 1
    assert list_versions(f"legacy-{CLASS}") == []
    assert plant.artifacts() == []
