"""`shadowline init` and `shadowline check`, on a folder that nobody prepared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from fixtures.replicas import save_mask, save_picture
from flows.commands.retrain import retrain
from shadowline.cli.check import check
from shadowline.cli.init import init
from shadowline.core.params import load_params
from shadowline.core.project import in_project
from shadowline.data.sources import list_images


def run(command: Callable[..., Any], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(in_project(command))
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number in range(4):
        save_picture(folder / "Metal Nut/train/good" / f"{number}.png", "nut", number)
        save_picture(folder / "Metal Nut/test/scratch" / f"{number}.png", "nut", number, defect=True)
        save_mask(folder / "Metal Nut/ground_truth/scratch" / f"{number}_mask.png")
        save_picture(folder / "bolt/OK" / f"{number}.png", "bolt", number, size=64)
    save_picture(folder / "bolt/OK/@eaDir/0.png", "bolt", 9)
    return folder


@pytest.fixture
def project(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that `init` has just made, without weights; this process is in its root."""
    monkeypatch.chdir(tmp_path)
    assert run(init, "line7", "--images", "images", "--no-download").exit_code == 0
    monkeypatch.chdir(tmp_path / "line7")
    return tmp_path / "line7"


def test_what_is_understood_is_shown_and_written(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run(init, "line7", "--images", "images", "--no-download")
    assert answer.exit_code == 0, answer.output
    cells = [re.split(" {2,}", line.strip()) for line in answer.output.splitlines()]
    assert cells[2:4] == [
        ["metal_nut", "4", "scratch 4", "4", "32 × 32", "RGB"],
        ["bolt", "4", "none", "0", "64 × 64", "RGB"],
    ]
    assert "left out: 1 files" in answer.output
    assert (tmp_path / "line7/params.yaml").is_file()


def test_a_machine_reads_the_same(images: Path, tmp_path: Path) -> None:
    answer = run(init, str(tmp_path / "line7"), "--images", str(images), "--no-download", "--json")
    found = {cls["name"]: cls for cls in json.loads(answer.output)["classes"]}
    assert found["metal_nut"]["defects"] == {"scratch": 4}
    assert (found["metal_nut"]["num_masks"], found["bolt"]["sizes"], found["bolt"]["num_normal"]) == (
        4,
        {"64x64": 4},
        4,
    )


def test_what_stops_a_training_ends_a_check_with_exit_code_2(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "prompts")
    answer = run(check)
    assert answer.exit_code == 2
    assert "stops encoder.location: " in answer.output
    assert "→ run `shadowline data fetch`" in answer.output
    assert "stops bolt: 1 normal images in val, needs at least 8" in answer.output


@pytest.mark.parametrize("content", [None, (), ("notes.txt",)])
def test_a_folder_without_images_leaves_no_project(tmp_path: Path, content: tuple[str, ...] | None) -> None:
    images = tmp_path / "images"
    if content is not None:
        images.mkdir()
        for name in content:
            (images / name).touch()
    answer = run(init, str(tmp_path / "line7"), "--images", str(images), "--no-download")
    assert isinstance(answer.exception, (ValueError, FileNotFoundError))
    assert not (tmp_path / "line7").exists()


def test_a_class_of_defects_alone_is_left_out(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name, kind, label in (("bolt", "Normal", "normal"), ("gear", "Anomaly", "scratch")):
        path = f"{name}/Data/Images/{kind}/000.png"
        save_picture(images / path, name, 0)
        (images / name / "image_anno.csv").write_text(f"image,label,mask\n{path},{label},\n", encoding="utf-8")
    answer = run(init, str(tmp_path / "line7"), "--images", str(images), "--no-download")
    assert answer.exit_code == 0, answer.output
    assert "left out: class gear, which has no normal images" in answer.output
    assert list(load_params(tmp_path / "line7/params.yaml").classes) == ["bolt"]


def test_images_that_are_links_out_of_the_folder_are_read_where_they_lead(tmp_path: Path) -> None:
    good = tmp_path / "images/bolt/good"
    good.mkdir(parents=True)
    for number in range(4):
        save_picture(tmp_path / f"store/pool/{number}.png", "bolt", number)
        (good / f"{number}.png").symlink_to(tmp_path / f"store/pool/{number}.png")
    answer = run(init, str(tmp_path / "line7"), "--images", str(tmp_path / "images"), "--no-download", "--json")
    (found,) = json.loads(answer.output)["classes"]
    assert (found["num_normal"], found["refused"]) == (4, [])
    entry = load_params(tmp_path / "line7/params.yaml").classes["bolt"]
    assert entry.links_to == str(tmp_path / "store/pool")
    images = list_images("bolt", entry, tmp_path / "line7")
    assert len([image.read(10_000) for image in images]) == 4


def test_a_first_training_is_refused_before_anything_starts(project: Path) -> None:
    before = sorted(Path().rglob("*"))
    answer = run(retrain)
    assert answer.exit_code == 2
    assert "stops encoder.location: " in answer.stderr
    assert sorted(Path().rglob("*")) == before


def test_an_update_brings_the_pipeline_of_this_version(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(init, "line7", "--images", "images", "--no-download").exit_code == 0
    monkeypatch.chdir(tmp_path / "line7")
    current = Path("dvc.yaml").read_bytes()
    Path("dvc.yaml").write_bytes(current.replace(b"always_changed: true", b"always_changed: false"))
    assert "→ run `shadowline check --update`" in run(check).output
    run(check, "--update")
    assert Path("dvc.yaml").read_bytes() == current
