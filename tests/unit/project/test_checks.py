"""What would stop a training is known before it, in one list, with numbers and commands that work."""

from __future__ import annotations

import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fixtures.replicas import picture, save_picture
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.params_file import editing
from shadowline.data.sources.recognition import recognise
from shadowline.features.encoder import build_network
from shadowline.features.encoder_weights import check_weights, fetch_state
from shadowline.project.checks import ProjectCheck, check_project
from shadowline.project.skeleton import write_project

ENCODER, CROP = "vit_tiny_patch16_224", 32


def write_normals(folder: Path, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        save_picture(folder / "good" / f"{number}.png", folder.name, number)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 24 normal images each, with numbers that they satisfy. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "line7"
    for name in ("bolt", "nut"):
        write_normals(root / "images" / name, 24)
        save_picture(root / "images" / name / "crack" / "0.png", name, 0, defect=True)
    write_project(root, recognise(root / "images").classes, {}, root / "images")
    (root / "data").mkdir()
    (root / "data/legacy.safetensors").touch()
    save_file(build_network(ENCODER, CROP, depth=2).state_dict(), root / "data/encoder.safetensors")
    with editing(root / "params.yaml") as content:
        content["encoder"].update(name=ENCODER, weights="file", location="data/encoder.safetensors", layers=[0, 1])
        content["encoder"].update(resize=CROP, crop=CROP)
        content["legacy"].update(location="data/legacy.safetensors", target_fpr=0.4)
        content["identification"]["unknown_share"] = content["calibration"]["target_fpr"] = 0.4
        content["validation"]["min_normal"] = 9
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "line7")


def edit(root: Path, section: str, **fields: object) -> None:
    with editing(root / "params.yaml") as content:
        content[section].update(fields)


def check(root: Path) -> ProjectCheck:
    return check_project(Layout(root))


def lines(result: ProjectCheck) -> list[str]:
    return [f"{finding.subject}: {finding.message}; {finding.way_out}" for finding in result.findings]


def test_a_project_that_can_be_trained_has_no_finding(project: Path) -> None:
    result = check(project)
    assert (lines(result), result.blocks) == ([], False)
    assert {name: forecast.counts.normals for name, forecast in result.forecasts.items()} == {"bolt": 24, "nut": 24}
    assert result.surveys["bolt"].sizes == {(32, 32): 25}


def test_everything_is_said_at_once_and_what_stops_comes_first(project: Path) -> None:
    edit(project, "validation", min_normal=30)
    edit(project, "legacy", location="nowhere.whl", target_fpr=0.01)
    (project / "notes.txt").touch()
    result = check(project)
    subjects = [(finding.blocks, finding.subject) for finding in result.findings]
    assert subjects == [
        (True, "git"),
        (True, "legacy.location"),
        (False, "bolt"),
        (False, "bolt"),
        (False, "nut"),
        (False, "nut"),
    ]
    assert result.blocks


def test_the_numbers_that_are_named_work(project: Path) -> None:
    edit(project, "validation", min_normal=30)
    result = check(project)
    bolt, nut = result.findings
    num_train = result.forecasts["bolt"].splits.train
    assert bolt.message == f"{num_train} normal training images, validation.min_normal asks for 30"
    needed = int(bolt.way_out.removesuffix(" normal images would do"))
    write_normals(project / "images/bolt", needed - 24, start=24)
    write_normals(project / "images/nut", needed - 25, start=24)
    (left,) = check(project).findings
    assert (left.subject, left.way_out) == (nut.subject, nut.way_out)


def test_a_minimum_that_the_plant_has_made_critical_stops_the_training(project: Path) -> None:
    edit(project, "validation", min_normal=30)
    with editing(project / "params.yaml") as content:
        content["validation"]["severity"]["min_normal"] = "critical"
    assert [finding.blocks for finding in check(project).findings] == [True, True]


def test_a_rate_that_so_few_images_cannot_promise_is_said_and_stops_nothing(project: Path) -> None:
    edit(project, "identification", unknown_share=0.02)
    result = check(project)
    bolt, nut = result.findings
    num_val = result.forecasts["bolt"].splits.val
    assert bolt.message == (
        f"{num_val} normal images promise a rate of {1 / (num_val + 1):.3g}, "
        "not of identification.unknown_share 0.02, which needs 49"
    )
    assert nut.message == bolt.message
    assert not result.blocks


def test_one_class_that_cannot_be_read_does_not_hide_the_others(project: Path) -> None:
    with editing(project / "params.yaml") as content:
        content["classes"]["bolt"]["location"] = "/nowhere"
        content["classes"]["nut"]["source"] = "foldr"
    result = check(project)
    assert result.blocks
    assert [line for line in lines(result) if line.startswith("bolt: /nowhere")]
    assert "nut: unknown source 'foldr'; did you mean folder?" in "\n".join(lines(result))


def test_errors_in_params_yaml_are_in_the_list(project: Path) -> None:
    edit(project, "train", lrr=1)
    edit(project, "registry", model_name="line7/inspector")
    (project / "notes.txt").touch()
    found = lines(check(project))
    assert "params.yaml: unknown key train.lrr; did you mean train.lr?" in found
    assert any(line.startswith("params.yaml: registry.model_name: 'line7/inspector' is no name") for line in found)
    assert any(line.startswith("git: 1 uncommitted changes") for line in found)


def test_images_that_differ_or_are_none_are_seen(project: Path) -> None:
    folder = project / "images/bolt/good"
    Image.fromarray(picture("bolt", 99, size=64)).save(folder / "large.png")
    Image.fromarray(picture("bolt", 98)).convert("L").save(folder / "grey.png")
    (folder / "broken.png").write_bytes(b"no image")
    said = "\n".join(lines(check(project)))
    assert "images of 2 sizes: " in said
    assert "images of 2 modes: " in said
    assert "1 of 28 files looked at are refused: " in said
    assert "broken.png" in said


def test_a_device_that_is_none_is_seen(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOWLINE_DEVICE", "gpu")
    assert lines(check(project)) == [
        "SHADOWLINE_DEVICE: 'gpu' is no device; need auto, cpu, cuda or, for one of several GPUs, cuda:1"
    ]


def test_another_pipeline_is_said(project: Path) -> None:
    with (project / "dvc.yaml").open("a", encoding="utf-8") as file:
        file.write("# mine\n")
    said = lines(check(project))
    assert said[-1].startswith("dvc.yaml: differs from the pipeline of this version of Shadowline; ")


def test_images_in_s3_that_are_not_copied_yet_stop_nothing(project: Path) -> None:
    with editing(project / "params.yaml") as content:
        content["classes"]["bolt"] = {
            "source": "folder",
            "location": "data/sources/plant/bolt",
            "copy_of": "s3://plant/bolt",
        }
    result = check(project)
    assert not result.blocks
    assert [finding.way_out for finding in result.findings] == ["`shadowline retrain` copies them first"]


# --- the encoder's weights ------------------------------------------------------------------------------------------


def of_encoder(root: Path, **fields: object) -> str:
    """The error of the weights with these fields of params.encoder."""
    params = load_params(root / "params.yaml").encoder.model_copy(update=fields)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        check_weights(params, root)
    return str(caught.value)


def test_the_weights_are_in_the_list(project: Path) -> None:
    edit(project, "encoder", location="nowhere.safetensors")
    (line,) = lines(check(project))
    assert line.startswith("encoder.location: ")
    assert line.endswith("nowhere.safetensors is missing; run `shadowline data fetch` or place the file there")


def test_weights_that_are_none_are_seen_and_say_what_they_are(made: Path, tmp_path: Path) -> None:
    with ZipFile(tmp_path / "model.pth", "w") as file:  # as torch.save writes it
        file.writestr("model/data.pkl", b"")
    (tmp_path / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    save_file({"embeddings.cls_token": torch.zeros(1)}, tmp_path / "transformers.safetensors")
    save_file({"cls_token": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, what in {
        "nowhere.safetensors": "is missing",
        "model.pth": "is a file of torch.save",
        "pointer.safetensors": "is a pointer of git-lfs",
        "cut.safetensors": "is no whole safetensors file",
        "transformers.safetensors": "has the names of Hugging Face's transformers",
        "other.safetensors": "lacks",
        ".": "is no file",
    }.items():
        assert what in of_encoder(made, location=str(tmp_path / name)), name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3 is a Eva, no ViT of DINOv2"),
        ("resnet18", "resnet18 does not take 32 pixels"),
        ("nothing", "timm has no model 'nothing'"),
    ],
)
def test_a_network_that_is_no_dinov2_is_seen_by_name(made: Path, name: str, what: str) -> None:
    assert f"encoder.name: {what}" in of_encoder(made, name=name)


def test_weights_of_another_network_are_seen(made: Path) -> None:
    assert "is (192,), vit_small_patch16_224 needs (384,)" in of_encoder(made, name="vit_small_patch16_224")


def test_weights_of_a_hub_that_is_not_reached_say_how_to_get_them(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    params = load_params(made / "params.yaml").encoder.model_copy(update={"weights": "hub", "location": ""})
    with pytest.raises(ValueError, match=r"not in the cache of the model hub.*; set SHADOWLINE_ALLOW_NETWORK=true"):
        fetch_state(params, made)
