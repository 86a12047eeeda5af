"""What the registry holds of one version, for whoever wants to make it again or to verify it.

    registered = find_registered("inspector", "3")        # its tags, its run
    folder = registered.download(scratch)                 # every file of the logged model
    registered.summary(scratch)                           # data/summary.json as the run has it

At registration `put_origin` lists every file of the logged model with its sha256: the list is an artifact of the run,
and the sha256 of the list is a tag of the version.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from shadowline.archive import file_sha256
from shadowline.atomic import write_json
from shadowline.audit.environment import describe_environment
from shadowline.params import Params
from shadowline.settings import Settings

FILES = "files.json"  # artifact of a run: path → sha256 of every file of the model that it logged
PACKAGE = "artifacts/inspector"  # the packaged model, in the logged one
_OF_THE_STORE = "registered_model_meta"  # MLflow writes it beside what was logged, and anew


@dataclass(frozen=True)
class Registered:
    """One exact version, with all that is needed to make it again."""

    uri: str  # models:/inspector/3
    source: str  # where the logged model lies
    run_id: str  # of the logged model
    tags: Mapping[str, str]

    @property
    def results_run(self) -> str:
        """The run that evaluated what the commit holds: the last one that came to this very model."""
        return self.tags.get("results_run", self.run_id)

    @property
    def environment(self) -> dict[str, str]:
        """Empty where it was not put on record."""
        return dict(json.loads(self.tags.get("environment", "{}")))

    def tag(self, name: str) -> str:
        """Raises ValueError where the version has none."""
        if name not in self.tags:
            raise ValueError(f"{self.uri}: has no tag {name}, and cannot be made again; was it registered by hand?")
        return self.tags[name]

    def download(self, folder: Path) -> Path:
        """The logged model, below `folder`. Raises ValueError where it is not there."""
        return _download(self.uri, self.source, folder / "registered")

    def files(self, folder: Path) -> dict[str, str] | None:
        """Path → sha256 as listed at the registration; None where no list was made. Raises ValueError."""
        if "files_sha256" not in self.tags:
            return None
        path = _download(self.uri, f"runs:/{self.run_id}/{FILES}", folder / "files")
        if file_sha256(path) != self.tags["files_sha256"]:
            raise ValueError(f"{self.uri}: {FILES} of run {self.run_id} is not the list that was made at registration")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def summary(self, folder: Path) -> Path:
        """data/summary.json as the run has it. Raises ValueError where it is not there."""
        return _download(self.uri, f"runs:/{self.results_run}/summary.json", folder / "results")

    def metrics(self) -> dict[str, float]:
        """Name → value as the run has them."""
        return dict(mlflow.MlflowClient(Settings().tracking_uri).get_run(self.results_run).data.metrics)


def find_registered(model_name: str, version: str) -> Registered:
    """Raises ValueError for a version that is not registered."""
    mlflow.set_tracking_uri(Settings().tracking_uri)
    uri = f"models:/{model_name}/{version}"
    try:
        found = mlflow.MlflowClient(Settings().tracking_uri).get_model_version(model_name, version)
    except MlflowException as error:
        raise ValueError(f"{uri}: {_first_line(error)}; `shadowline models` lists the versions") from None
    return Registered(uri, str(found.source), str(found.run_id), dict(found.tags))


def put_origin(tracking: mlflow.MlflowClient, model_name: str, version: str, params: Params, root: Path) -> None:
    """Tag a version with where it comes from, beside its commit; what is tagged already stays."""
    found = tracking.get_model_version(model_name, version)
    tags = {"data_url": Settings().data_url, **_encoder_source(params, root)}
    if "verdict" not in found.tags:  # this run has made it; of an older one nobody knows
        tags["environment"] = json.dumps(describe_environment(), sort_keys=True)
    if "files_sha256" not in found.tags:
        tags["files_sha256"] = _list_logged(tracking, f"models:/{model_name}/{version}", found)
    for key in tags.keys() - found.tags.keys():
        tracking.set_model_version_tag(model_name, version, key, tags[key])


def _encoder_source(params: Params, root: Path) -> dict[str, str]:
    """The bytes of the encoder's weights, where they are a file; dvc.lock does not have their hash."""
    weights = root / params.encoder.location
    return {"encoder_source_sha256": file_sha256(weights)} if weights.is_file() else {}


def _list_logged(tracking: mlflow.MlflowClient, uri: str, found: Any) -> str:
    """Read back what was logged, keep the list of it in the run; returns the sha256 of the list."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / FILES
        write_json(path, list_files(_download(uri, str(found.source), Path(scratch) / "logged")))
        tracking.log_artifact(str(found.run_id), str(path))
        return file_sha256(path)


def list_files(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file that was logged."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_sha256(path) for name, path in paths.items() if name != _OF_THE_STORE}


def known_commits(root: Path, model_name: str) -> list[str]:
    """The commits of the versions that are registered, as far as the repository has them."""
    found = mlflow.MlflowClient(Settings().tracking_uri).search_model_versions(f"name='{model_name}'")
    commits = {one.tags["git_commit"] for one in found if "git_commit" in one.tags}
    return sorted(commit for commit in commits if has_commit(root, commit))


def has_commit(root: Path, commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode == 0


def _download(uri: str, source: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise ValueError(f"{uri}: {source} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
