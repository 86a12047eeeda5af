"""The end of a legacy model: it is registered, archived, its archive proven, and only then deleted.

    version = register_legacy(model, "shadowline")           # of `validate_legacy_model`
    note_legacy(version, model, now)
    archive_legacy("bolt", fingerprint)             # → the object storage, by hash
    prove_archive("bolt", fingerprint, root)        # restored, it scores bit for bit as the original
    delete_legacy("bolt", fingerprint)              # refuses without that proof

Each can be repeated without harm, also after a kill in between. The first two are Prefect tasks with retries; the
others are plain functions: a rollout's outbox repeats them until they are done (tasks/rollout/outbox.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from PIL import Image

from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.data.images import ImageFiles
from shadowline.models.archive import pack, unpack
from shadowline.models.detector import Detector
from shadowline.models.legacy_validation import LegacyModel, known_images
from shadowline.models.loader import DetectorKind, find_model, load_detector
from shadowline.records.approvals import ApprovalStore
from shadowline.records.model_locations import LEGACY, ModelLocation
from shadowline.records.stores import open_records
from shadowline.rollout.observation import ChecklistItem
from tasks.integrations.audit_log import note_deletion, note_legacy_model
from tasks.integrations.logged_model import example, log_pyfunc, requirements
from tasks.integrations.mlflow_registry import (
    all_versions,
    client,
    describe_version,
    find_version,
    is_missing,
    new_version,
    start_run,
)
from tasks.integrations.model_version import ModelVersion
from tasks.integrations.object_storage import StoredObject, open_storage
from tasks.integrations.retry import retried_task

NUM_PROOF_IMAGES = 8  # known images that the original and the restored model must score alike
PROVER = "prove_archive"  # the author of the proof in the checklist


@dataclass(frozen=True)
class LegacyStatus:
    """One legacy model on record."""

    place: ModelLocation
    tags: dict[str, str]  # of its registered version; empty where that is deleted
    archive: str  # link to the proven archive, or empty

    @property
    def is_registered(self) -> bool:
        return bool(self.tags)


def registered_name(class_name: str) -> str:
    return f"legacy-{class_name}"


# --- on record ------------------------------------------------------------------------------------------------------


@retried_task
def register_legacy(model: LegacyModel, experiment: str) -> ModelVersion:
    """Register the model as a new version of `legacy-<class>`, or find the version that has its fingerprint."""
    tracking, name = client(), registered_name(model.class_name)
    version = find_version(tracking, name, model.fingerprint) or _log_version(tracking, name, model, experiment)
    for key, value in _tags(model).items():
        tracking.set_model_version_tag(name, version, key, value)
    return describe_version(tracking, name, version)


@retried_task
def note_legacy(version: ModelVersion, model: LegacyModel, at: datetime) -> None:
    """Note for the rollout where a class's legacy model can be loaded from, and enter it into the audit log."""
    place = ModelLocation(model.fingerprint, model.class_name, LEGACY, version.uri, version.version)
    open_records().locations.upsert_model([place], at)
    note_legacy_model(model.class_name, version, _tags(model))


def list_legacy() -> list[LegacyStatus]:
    """All legacy models on record, the newest first."""
    records, tracking = open_records(), client()
    return [
        LegacyStatus(
            place, _tags_of(tracking, place), _proof_link(records.approvals, place.class_name, place.fingerprint)
        )
        for place in records.locations.models(LEGACY)
    ]


def _tags(model: LegacyModel) -> dict[str, str]:
    baseline = {name: str(value) for name, value in asdict(model.baseline).items() if value is not None}
    about = {"fingerprint": model.fingerprint, "class": model.class_name, "kind": str(model.kind)}
    return {**about, "source": model.source, **baseline}


def _log_version(tracking: mlflow.MlflowClient, name: str, model: LegacyModel, experiment: str) -> str:
    about = f"Single-class model of `{model.class_name}` ({model.kind}), imported from {model.source}."
    facts = {"class": model.class_name, "kind": str(model.kind), "source": model.source}
    run_id = start_run.fn(experiment, facts, f"Legacy model of {model.class_name}", about)
    for metric, value in _metrics(model).items():
        tracking.log_metric(run_id, metric, value)
    with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=run_id):
        logged = log_pyfunc(
            "legacy",
            "legacy_model.py",
            _artifacts(model, Path(scratch)),
            [*requirements(), *_more_requirements(model.kind)],
            example(model.class_name),
        )
    return new_version(tracking, name, run_id, logged, model.fingerprint, about)


def _metrics(model: LegacyModel) -> dict[str, float]:
    return {f"baseline/{name}": float(value) for name, value in asdict(model.baseline).items() if value is not None}


def _artifacts(model: LegacyModel, scratch: Path) -> dict[str, str]:
    """The model's own files as `legacy`, as they would come out of the archive, and the limits of an image's size."""
    pack(model.directory, scratch / "model.zip", model.class_name, model.fingerprint)
    unpack(scratch / "model.zip", scratch / "legacy")
    names = ("max_pixels", "max_file_bytes", "exif_orientation")
    bounds = {name: getattr(model.data, name) for name in names}
    write_json(scratch / "limits.json", {"class_name": model.class_name, **bounds})
    return {"legacy": str(scratch / "legacy"), "limits": str(scratch / "limits.json")}


def _more_requirements(kind: DetectorKind) -> list[str]:
    return [f"onnxruntime=={version_of('onnxruntime')}"] if kind is DetectorKind.ONNX else []


def _tags_of(tracking: mlflow.MlflowClient, place: ModelLocation) -> dict[str, str]:
    try:
        return describe_version(tracking, registered_name(place.class_name), place.version).tags
    except MlflowException as error:
        if not is_missing(error):
            raise
        return {}


# --- archived -------------------------------------------------------------------------------------------------------


def archive_legacy(class_name: str, fingerprint: str) -> StoredObject:
    """Copy the model to the object storage, and note its hash at the registered version.

    Raises ValueError for a model that is not registered, or whose files are no longer those of its fingerprint.
    """
    tracking = client()
    versions = _versions_of(tracking, class_name, fingerprint)
    if not versions:
        raise ValueError(
            f"class '{class_name}': no registered version of model {fingerprint[:12]}…; run `shadowline legacy import`"
        )
    location = f"models:/{registered_name(class_name)}/{versions[0].version}"
    _load(location, class_name, fingerprint)
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "model.zip"
        sha256 = pack(find_model(location)[0], packed, class_name, fingerprint)
        storage, key = open_storage(), archive_key(class_name, fingerprint)
        stored = storage.find(key)
        if stored is None or stored.sha256 != sha256:
            stored = storage.put(packed, key)
    for version in versions:
        tracking.set_model_version_tag(registered_name(class_name), version.version, "archive", _link(stored))
    return stored


def prove_archive(class_name: str, fingerprint: str, root: Path = Path(), images: Sequence[Image.Image] = ()) -> str:
    """Restore the archive into a clean folder and score known images with it and with the original.

    The images are those given, or the first of the class's test split in the project at `root`. Where all scores are
    equal, bit for bit, the checklist's item is recorded; returns its link. Raises ValueError otherwise.
    """
    records = open_records()
    place = records.locations.model(fingerprint)
    original = _load(place.location, class_name, fingerprint)
    proof_images = images or _project_images(original, class_name, root)
    if not proof_images:
        raise ValueError(f"class '{class_name}': no test images to prove the archive with; import the class")
    with tempfile.TemporaryDirectory() as scratch:
        stored = _restore(class_name, fingerprint, Path(scratch) / "restored")
        restored = _load(str(Path(scratch) / "restored"), class_name, fingerprint)
        _compare(class_name, np.asarray(original.score(proof_images)), np.asarray(restored.score(proof_images)))
    records.approvals.record_evidence(
        class_name, fingerprint, ChecklistItem.ARCHIVED, PROVER, datetime.now(UTC), _link(stored)
    )
    return _link(stored)


def keep_predecessor(class_name: str, fingerprint: str) -> None:
    """Keep a former version of the multi-class model where it is: other classes and auditors need it.

    In place of an archive's proof it must load from the registry with the recorded fingerprint, else ValueError.
    """
    records = open_records()
    place = records.locations.model(fingerprint)
    _load(place.location, class_name, fingerprint)
    records.approvals.record_evidence(
        class_name, fingerprint, ChecklistItem.ARCHIVED, PROVER, datetime.now(UTC), place.location
    )


def restore_legacy(class_name: str, fingerprint: str, folder: Path) -> Path:
    """The archived model's files in a new `folder`, verified; `shadowline legacy import` registers them again."""
    _restore(class_name, fingerprint, folder)
    return folder


def load_or_restore(place: ModelLocation, folder: Path) -> Detector:
    """The model at its location; a legacy model that is gone from there, out of its archive in the new `folder`.

    Raises ValueError or OSError where neither holds it.
    """
    try:
        return load_detector(place.location, place.class_name)
    except (ValueError, OSError, MlflowException) as error:
        if place.role != LEGACY:
            raise
        try:
            restored = restore_legacy(place.class_name, place.fingerprint, folder)
        except (ValueError, OSError) as missing:
            raise ValueError(f"{error}; nor from its archive: {missing}") from None
        return load_detector(str(restored), place.class_name)


def archive_key(class_name: str, fingerprint: str) -> str:
    return f"legacy/{class_name}/{fingerprint}.zip"


def _restore(class_name: str, fingerprint: str, folder: Path) -> StoredObject:
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "model.zip"
        stored = open_storage().get(archive_key(class_name, fingerprint), packed)
        contents = unpack(packed, folder)
    if (contents.class_name, contents.fingerprint) != (class_name, fingerprint):
        raise ValueError(f"{stored.uri}: holds model {contents.fingerprint[:12]}… of class '{contents.class_name}'")
    return stored


def _load(location: str, class_name: str, fingerprint: str) -> Detector:
    detector = load_detector(location, class_name)
    if detector.fingerprint != fingerprint:
        raise ValueError(f"{location}: fingerprint {detector.fingerprint[:12]}…, need {fingerprint[:12]}…")
    return detector


def _compare(class_name: str, original: np.ndarray, restored: np.ndarray) -> None:
    if original.tobytes() != restored.tobytes():
        apart = float(np.abs(original - restored).max())
        raise ValueError(f"class '{class_name}': restored scores differ by up to {apart:g}, need equal bits")


def _project_images(detector: Detector, class_name: str, root: Path) -> ImageFiles:
    layout = Layout(root)
    params: Params = load_params(layout.params)
    return known_images(detector, class_name, params, layout, NUM_PROOF_IMAGES)


def _link(stored: StoredObject) -> str:
    return f"{stored.uri}#sha256={stored.sha256}"


# --- deleted --------------------------------------------------------------------------------------------------------


def delete_legacy(class_name: str, fingerprint: str) -> int:
    """Delete the registered versions of the model with their artifacts; returns how many there were.

    Raises ValueError, with nothing deleted, where the proof of the archive is not on record or the storage no longer
    holds what was proven. Of each version the artifacts go first and the version last: whatever is left after a kill is
    found again through it.
    """
    archive = _require_proof(class_name, fingerprint)
    tracking = client()
    versions = _versions_of(tracking, class_name, fingerprint)
    note_deletion(class_name, fingerprint, [str(version.version) for version in versions], archive)
    for version in versions:
        name = registered_name(class_name)
        get_artifact_repository(tracking.get_model_version_download_uri(name, version.version)).delete_artifacts()
        if version.source.startswith("models:/"):
            tracking.delete_logged_model(version.source.removeprefix("models:/"))
        tracking.delete_model_version(name, version.version)
    return len(versions)


def _require_proof(class_name: str, fingerprint: str) -> str:
    """The link to the proven archive. Raises ValueError where the proof is missing or the archive has changed."""
    subject = f"class '{class_name}', legacy model {fingerprint[:12]}…"
    proven = _proof_link(open_records().approvals, class_name, fingerprint)
    if not proven:
        raise ValueError(f"{subject}: no proof of its archive is on record; prove the archive first")
    key = archive_key(class_name, fingerprint)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            stored = open_storage().get(key, Path(scratch) / "model.zip")
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{subject}: the proven archive does not verify: {error}") from None
    if stored.sha256 != proven.rpartition("#sha256=")[2]:
        raise ValueError(f"{subject}: {stored.uri} is not the archive that was proven; prove it again")
    return proven


def _proof_link(approvals: ApprovalStore, class_name: str, fingerprint: str) -> str:
    record: Any = approvals.evidence(class_name, fingerprint).get(ChecklistItem.ARCHIVED, {})
    return str(record.get("link", ""))


def _versions_of(tracking: mlflow.MlflowClient, class_name: str, fingerprint: str) -> list[Any]:
    versions = all_versions(tracking, registered_name(class_name))
    return [version for version in versions if version.tags.get("fingerprint") == fingerprint]
