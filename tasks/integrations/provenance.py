"""Where a version comes from, beside its commit: what of it the registry can be held to later.

    log_provenance(tracking, "inspector", "3", params, root)      # once, at its registration
    list_files(folder)                                        # path → sha256, as they were listed then

Every file of the logged model is listed with its sha256: the list is an artifact of the run, and the sha256 of the list
is a tag of the version.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from shadowline.audit.environment import describe_environment
from shadowline.core.atomic_files import write_json
from shadowline.core.hashing import file_sha256
from shadowline.core.params import Params
from shadowline.core.settings import Settings
from shadowline.models.registry_uri import download_with_retries

FILES = "files.json"  # artifact of a run: path → sha256 of every file of the model that it logged
PACKAGE = "artifacts/inspector"  # the packaged model, in the logged one
_OF_THE_STORE = "registered_model_meta"  # MLflow writes it beside what was logged, and anew


def log_provenance(tracking: mlflow.MlflowClient, model_name: str, version: str, params: Params, root: Path) -> None:
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
        write_json(path, list_files(download(uri, str(found.source), Path(scratch) / "logged")))
        tracking.log_artifact(str(found.run_id), str(path))
        return file_sha256(path)


def list_files(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file that was logged."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_sha256(path) for name, path in paths.items() if name != _OF_THE_STORE}


def download(uri: str, source: str, folder: Path) -> Path:
    """A folder or a file of the store, below `folder`. Raises ValueError where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return download_with_retries(
            lambda: mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder))
        )
    except (MlflowException, OSError) as error:
        raise ValueError(f"{uri}: {source} cannot be read: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
