"""The registry is asked in one module: for a URI, again where it fails for a moment, and never by the inspector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shadowline
from shadowline.models.inspector import Inspector
from shadowline.models.registry_uri import download_with_retries, resolve


class StoreError(Exception):
    """As MLflow's: it says by a code whether it may pass."""

    def __init__(self, error_code: str) -> None:
        super().__init__(error_code)
        self.error_code = error_code


def test_the_inspector_reads_directories_and_asks_no_registry() -> None:
    script = (
        "import sys\n"
        "from shadowline.models.inspector import Inspector\n"
        "try:\n"
        "    Inspector.load('models:/inspector/3')\n"
        "except FileNotFoundError:\n"
        "    print('mlflow' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_the_public_inspector_takes_a_version_of_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "shadowline.models.registry_inspector.resolve", lambda uri: (tmp_path / uri.rpartition("/")[2], "3")
    )
    monkeypatch.setattr(
        Inspector, "load", classmethod(lambda cls, path, version="directory": asked.append((str(path), version)))
    )
    shadowline.Inspector.load("models:/inspector/3")
    shadowline.Inspector.load(tmp_path)
    assert asked == [(str(tmp_path / "3"), "3"), (str(tmp_path), "directory")]
    assert issubclass(shadowline.Inspector, Inspector)


def test_a_directory_is_its_own_place(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), inside="artifacts/inspector") == (tmp_path, "directory")


@pytest.mark.parametrize(
    ("codes", "num_attempts"),
    [
        (["INTERNAL_ERROR", "INTERNAL_ERROR"], 3),
        (["INTERNAL_ERROR"] * 3, None),
        (["RESOURCE_DOES_NOT_EXIST"], None),
    ],
)
def test_a_download_is_begun_again_where_the_failure_may_pass(codes: list[str], num_attempts: int | None) -> None:
    attempts: list[str] = []

    def download() -> str:
        attempts.append("")
        if len(attempts) <= len(codes):
            raise StoreError(codes[len(attempts) - 1])
        return "there"

    if num_attempts is None:
        with pytest.raises(StoreError):
            download_with_retries(download)
        assert len(attempts) == len(codes)
    else:
        assert download_with_retries(download) == Path("there")
        assert len(attempts) == num_attempts
