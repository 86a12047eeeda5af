"""A new project holds what its classes need and nothing of the demo, and is committed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from fixtures.learning import ROOT
from fixtures.replicas import save_picture
from shadowline.core.params import load_params
from shadowline.core.project import is_project
from shadowline.data.sources import list_images
from shadowline.data.sources.recognition import FoundClass, recognise
from shadowline.project.image_survey import ImageSurvey
from shadowline.project.skeleton import template_limits, write_project


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def fill(folder: Path, *classes: str) -> Path:
    for name in classes or ("bolt", "nut"):
        for number in range(3):
            save_picture(folder / name / "good" / f"{number}.png", name, number)
        save_picture(folder / name / "crack" / "0.png", name, 0, defect=True)
    return folder


def found(name: str, **fields: object) -> FoundClass:
    values = {"source": "folder", "location": f"/srv/{name}", "select": ".", "num_normal": 200, "num_test_normal": 0}
    return FoundClass(name=name, **{"defects": {}, "num_masks": 0, **values, **fields})  # type: ignore[arg-type]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    images = fill(tmp_path / "images")
    write_project(tmp_path / "line7", recognise(images).classes, {}, images)
    return tmp_path / "line7"


def test_the_classes_of_the_folder_are_those_of_the_project_and_can_be_listed(project: Path) -> None:
    params = load_params(project / "params.yaml")
    assert list(params.classes) == list(params.train.classes) == ["bolt", "nut"]
    for name, cls in params.classes.items():
        assert Path(cls.location).is_absolute()
        assert len(list_images(name, cls, project)) == 4


def test_it_is_a_repository_of_its_own_with_one_commit_and_nothing_beside_it(project: Path) -> None:
    assert is_project(project)
    assert Path(git(project, "rev-parse", "--show-toplevel").strip()) == project
    assert git(project, "rev-list", "--count", "HEAD") == "1\n"
    assert git(project, "status", "--porcelain") == ""


def test_what_a_training_writes_is_nothing_for_git(project: Path) -> None:
    for name in ("data/images/bolt/1.png", "models/inspector/x", "mlflow.db", ".shadowline/run.pid", "mlruns/1/x"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    (project / ".venv").symlink_to(ROOT)
    assert git(project, "status", "--porcelain") == ""


def test_the_pipeline_is_that_of_the_repository(project: Path) -> None:
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore", "prompts/default.yaml"):
        assert (project / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_numbers_are_those_of_the_repository_and_nothing_is_left_of_the_demo(project: Path) -> None:
    ours, new = (yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")) for root in (ROOT, project))
    demo = set(ours["classes"])
    for values in (ours, new):
        del values["classes"], values["train"]["classes"]
    del ours["demo"]
    assert new == ours
    for path in project.rglob("*"):
        if path.is_file() and ".git/" not in path.as_posix():
            text = path.read_text(encoding="utf-8")
            assert not [name for name in (*demo, "elpv", "demo:", "ten minutes") if name in text], path


def test_images_of_several_sizes_or_modes_do_not_stop_a_training(tmp_path: Path) -> None:
    mixed = ImageSurvey(2, 2, sizes={(64, 48): 1, (32, 32): 1}, modes={"L": 2})
    write_project(tmp_path / "line7", [found("bolt")], {"bolt": mixed}, tmp_path / "images")
    severity = load_params(tmp_path / "line7/params.yaml").validation.severity
    assert severity.consistent_size == "advisory"
    assert severity.consistent_mode == load_params(ROOT / "params.yaml").validation.severity.consistent_mode


@pytest.mark.parametrize("place", ["/srv/Größe 8: a #1", "/srv/0815", "/srv/{x}", "/srv/나사"])
def test_any_name_and_place_is_read_back_as_it_is(tmp_path: Path, place: str) -> None:
    """By us, and by DVC, which reads YAML 1.2."""
    names = ["0815", "4711", "1e3", "on", "null", "0x1f", "bolt-m8"]
    classes = [found(name, location=place, select="Metal Nut") for name in names]
    write_project(tmp_path / "line7", classes, {}, tmp_path / "images")
    path = tmp_path / "line7/params.yaml"
    expected = dict.fromkeys(names, (place, "Metal Nut"))
    assert {name: (cls.location, cls.select) for name, cls in load_params(path).classes.items()} == expected
    by_dvc = YAML(typ="safe").load(path)["classes"]
    assert {name: (cls["location"], cls["select"]) for name, cls in by_dvc.items()} == expected


def test_images_in_the_project_s_own_folder_are_named_from_there_and_are_nothing_for_git(tmp_path: Path) -> None:
    root = tmp_path / "line7"
    images = fill(root / "photos")
    write_project(root, recognise(images).classes, {}, images)
    locations = {cls.location for cls in load_params(root / "params.yaml").classes.values()}
    assert all(location.startswith("photos") for location in locations)
    assert git(root, "status", "--porcelain") == ""


def test_a_repository_that_is_there_gets_one_commit_of_ours_alone(tmp_path: Path) -> None:
    root = tmp_path / "line7"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / "notes.txt").write_text("mine", encoding="utf-8")
    git(root, "add", "notes.txt")
    write_project(root, [found("bolt")], {}, tmp_path / "images")
    assert git(root, "status", "--porcelain") == "A  notes.txt\n"


def refused(folder: Path, images: Path) -> str:
    before = sorted(folder.rglob("*")) if folder.is_dir() else None
    with pytest.raises(ValueError) as caught:
        write_project(folder, [found("bolt")], {}, images)
    assert (sorted(folder.rglob("*")) if folder.is_dir() else None) == before
    return str(caught.value)


def test_a_folder_that_is_a_project_or_holds_its_files_is_refused(project: Path, tmp_path: Path) -> None:
    assert refused(project, tmp_path / "images").endswith("a project already; `shadowline check` looks at it")
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").touch()
    assert refused(other, tmp_path / "images").endswith("README.md would be overwritten; name a new folder")
    assert "lies in the folder of the images" in refused(tmp_path / "images/line7", tmp_path / "images")
    assert refused(other / "README.md", tmp_path / "images").endswith("a file; name a new folder")


def test_the_limits_of_an_image_are_those_of_the_file(project: Path) -> None:
    data = load_params(project / "params.yaml").data
    assert template_limits() == template_limits().__class__(data.max_pixels, data.max_file_bytes)
