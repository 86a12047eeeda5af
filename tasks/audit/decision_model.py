"""The model that decided on a part, even if it was archived or deleted since, and its provenance.

    loaded = load_deciding(stored, open_records(), Path("/tmp/new"))
    loaded.detector, loaded.facts.source, loaded.facts.problem

It comes from the registry, or from its archive where its version was deleted. Only a model with the fingerprint that
the pair names is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mlflow.exceptions import MlflowException
from safetensors import SafetensorError

from shadowline.audit.inspection import CalibrationFacts, ModelFacts
from shadowline.core.hashing import file_sha256
from shadowline.core.secrets import mask
from shadowline.models.detector import Detector
from shadowline.models.few_shot.detector import FewShot
from shadowline.models.inspector_detector import CandidateDetector
from shadowline.models.loader import find_model, load_detector
from shadowline.records.audit_log.entry import timestamp
from shadowline.records.model_locations import LEGACY, ModelLocation
from shadowline.records.stores import Records
from shadowline.records.traces import StoredPair
from tasks.integrations.mlflow_registry import client, list_versions
from tasks.integrations.model_version import ModelVersion
from tasks.rollout.legacy_models import restore_legacy

_UNKNOWN = CalibrationFacts(None, "", None, None, "", "")
_CANNOT_BE_LOADED = (ValueError, OSError, SafetensorError, MlflowException)


@dataclass(frozen=True, eq=False)
class DecisionModel:
    """The model that decided; `detector` is None where it could not be loaded."""

    facts: ModelFacts
    calibration: CalibrationFacts
    detector: Detector | None


def load_deciding(stored: StoredPair, records: Records, scratch: Path) -> DecisionModel:
    """The model of the side that answered; `facts.problem` says why there is none. `scratch` must not exist yet."""
    pair = stored.pair
    fingerprint = pair.candidate if pair.answered_by == "candidate" else pair.legacy
    facts, since = ModelFacts("", "", (), "", "", "", "", "", "", ""), _UNKNOWN
    try:
        place = records.locations.model(fingerprint)
        facts, since = _of_registry(facts, place, stored.received_at)
        facts, detector, directory = _open(facts, place, pair.class_name, scratch)
    except _CANNOT_BE_LOADED as error:
        problem = f"the model that decided cannot be loaded: {mask(str(error))}"
        return DecisionModel(replace(facts, problem=problem), since, None)
    if detector.fingerprint != fingerprint:
        problem = f"{directory} holds model {detector.fingerprint[:12]}…, the pair names {fingerprint[:12]}…"
        return DecisionModel(replace(facts, problem=problem), _calibration(detector, since), None)
    return DecisionModel(_of_files(facts, detector, directory), _calibration(detector, since), detector)


def _open(facts: ModelFacts, place: ModelLocation, class_name: str, scratch: Path) -> tuple[ModelFacts, Detector, Path]:
    """Load the model from the location in the records; a legacy model that is gone, from its archive."""
    location = f"models:/{facts.name}/{facts.version}" if facts.same_in else place.location
    try:
        detector = load_detector(location, class_name)
        source = "registry" if location.startswith("models:/") else "directory"
        return replace(facts, source=source), detector, find_model(location)[0]
    except _CANNOT_BE_LOADED as error:
        if place.role != LEGACY:
            raise
        try:
            restored = restore_legacy(class_name, place.fingerprint, scratch)
        except _CANNOT_BE_LOADED as missing:
            raise ValueError(f"{error}; nor from its archive: {missing}") from None
        return replace(facts, source="archive"), load_detector(str(restored), class_name), restored


def _of_registry(facts: ModelFacts, place: ModelLocation, at: datetime) -> tuple[ModelFacts, CalibrationFacts]:
    """The newest version at time `at` among those with the same fingerprint, and since when there is one."""
    name = place.location.removeprefix("models:/").rpartition("/")[0] if "models:/" in place.location else ""
    if not name:
        return replace(facts, name=place.location, version=place.version), _UNKNOWN
    versions = [version for version in reversed(list_versions(name)) if _decides(version, place)]
    if not versions:
        return replace(facts, name=name, version=place.version), _UNKNOWN
    times = [_registered_at(version) for version in versions]
    chosen = versions[max(0, sum(time <= at for time in times) - 1)]
    described = replace(
        facts,
        name=name,
        version=chosen.version,
        same_in=tuple(version.version for version in versions),
        git_commit=chosen.tags.get("git_commit", ""),
        params_hash=chosen.tags.get("params_hash", ""),
    )
    return described, replace(_UNKNOWN, since_version=versions[0].version, since=timestamp(times[0]))


def _registered_at(version: ModelVersion) -> datetime:
    created_ms = client().get_model_version(version.name, version.version).creation_timestamp
    return datetime.fromtimestamp(created_ms / 1000, UTC)


def _decides(version: ModelVersion, place: ModelLocation) -> bool:
    own = version.class_fingerprints.get(place.class_name, version.tags.get("fingerprint"))
    return own == place.fingerprint


def _of_files(facts: ModelFacts, detector: Detector, directory: Path) -> ModelFacts:
    if not isinstance(detector, CandidateDetector):
        return facts
    return replace(
        facts,
        encoder=detector.inspector.config["encoder_fingerprint"],
        bank=file_sha256(directory / f"banks/{detector.class_name}.safetensors"),
        decoder=file_sha256(directory / "decoder.safetensors"),
    )


def _calibration(detector: Detector, since: CalibrationFacts) -> CalibrationFacts:
    if isinstance(detector, CandidateDetector):
        calibration = detector.inspector.calibrations[detector.class_name]
        method, target_fpr, num_images = (
            "split-conformal threshold",
            calibration.promised_fpr,
            calibration.num_calibrating,
        )
        return replace(
            since, threshold=calibration.threshold, method=method, target_fpr=target_fpr, num_images=num_images
        )
    if isinstance(detector, FewShot):
        few = detector.config
        method = f"few-shot, from {few.basis}"
        return replace(
            since, threshold=few.threshold, method=method, target_fpr=few.promised_fpr, num_images=few.num_images
        )
    return replace(since, threshold=detector.threshold, method="the legacy model's own, without a promise")
