"""The provenance of a version beside its commit, which an audit verifies later.

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

from shadowline.core.atomic_files import write_json
from shadowline.core.hashing import file_sha256
from shadowline.core.params import Params
from shadowline.core.secrets import mask
from shadowline.core.settings import Settings
from shadowline.models.registry_uri import download_with_retries

FILES = "files.json"  # artifact of a run: path → sha256 of every file of the model that it logged
PACKAGE = "artifacts/inspector"  # the packaged model, in the logged one
_OF_THE_STORE = "registered_model_meta"  # MLflow writes it itself beside the logged files, and rewrites it


def log_provenance(tracking: mlflow.MlflowClient, model_name: str, version: str, params: Params, root: Path) -> None:
    """Tag a version with its provenance beside its commit; existing tags stay."""
    registered = tracking.get_model_version(model_name, version)
    tags = {"data_url": mask(Settings().data_url), **_encoder_source(params, root)}
    if "verdict" not in registered.tags:  # made by this run; the environment of an older version is unknown
        from shadowline.audit.environment import describe_environment  # loads torch, which a tick does not need

        tags["environment"] = json.dumps(describe_environment(), sort_keys=True)
    if "files_sha256" not in registered.tags:
        tags["files_sha256"] = _list_logged(tracking, f"models:/{model_name}/{version}", registered)
    for key in tags.keys() - registered.tags.keys():
        tracking.set_model_version_tag(model_name, version, key, tags[key])


def _encoder_source(params: Params, root: Path) -> dict[str, str]:
    """The sha256 of the encoder's weights where they are a file; dvc.lock does not have it."""
    weights = root / params.encoder.location
    return {"encoder_source_sha256": file_sha256(weights)} if weights.is_file() else {}


def _list_logged(tracking: mlflow.MlflowClient, uri: str, registered: Any) -> str:
    """Download the logged model, and log the list of its files in the run; returns the sha256 of the list."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / FILES
        write_json(path, list_files(download(uri, str(registered.source), Path(scratch) / "logged")))
        tracking.log_artifact(str(registered.run_id), str(path))
        return file_sha256(path)


def list_files(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file that was logged."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_sha256(path) for name, path in paths.items() if name != _OF_THE_STORE}


def download(uri: str, source: str, folder: Path) -> Path:
    """Download a folder or a file of the store below `folder`. Raises ValueError where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return download_with_retries(
            lambda: mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder))
        )
    except (MlflowException, OSError) as error:
        raise ValueError(f"{uri}: {source} cannot be read: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    return (mask(str(error)).splitlines() or [type(error).__name__])[0]
