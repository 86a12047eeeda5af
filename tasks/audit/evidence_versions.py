"""The model versions of a period, for the evidence pack: from MLflow, the rollout and DVC.

find_versions(records, params, period, stretch)      # made in the period, active in it, or named by its entries
read_classes(version, Layout())                      # metrics and calibration, at the version's commit
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from mlflow.exceptions import MlflowException

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.summary import Summary
from shadowline.models.calibration_file import CalibrationFile
from shadowline.records.audit_log.chain_range import ChainRange, Period
from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.model_locations import LEGACY
from shadowline.records.stores import Records
from shadowline.report.evidence import VersionFacts, version_id
from shadowline.report.model_card import CardClass, card_classes
from shadowline.rollout.phases import CANDIDATE_JUDGES
from shadowline.rollout.state import Event
from tasks.integrations.mlflow_registry import client, describe_version

_ABSENT = (OSError, ValueError, DvcException, MlflowException)  # where an old version no longer has a file
Kept = TypeVar("Kept", ClassMetrics, CalibrationFile)


def judging(events: Iterable[Event], period: Period) -> set[str]:
    """Fingerprints of the models that judged parts in the period, according to the rollout's events."""
    fingerprints: set[str] = set()
    ordered = sorted(events, key=lambda event: (event.after.class_name, event.revision))
    for _, of_class in groupby(ordered, key=lambda event: event.after.class_name):
        states = list(of_class)
        ends = [event.at for event in states[1:]] + [None]
        for event, end in zip(states, ends, strict=True):
            state = event.after
            if event.at < period.until and (end is None or period.since is None or end > period.since):
                fingerprints |= {state.candidate} if state.standing in CANDIDATE_JUDGES else set()
                fingerprints |= {state.legacy} if state.legacy_judges else set()
    return fingerprints - {""}


def find_versions(records: Records, params: Params, period: Period, stretch: ChainRange) -> tuple[VersionFacts, ...]:
    """Sorted by creation time. A version deleted since then is unknown to MLflow, and missing here."""
    tracking, versions, active = client(), {}, judging(records.rollout.events(), period)
    places = [model.location.removeprefix("models:/") for model in records.locations.models(LEGACY)]
    names = {params.registry.model_name, *(place.partition("/")[0] for place in places if "/" in place)}
    for name in sorted(names):
        for raw in tracking.search_model_versions(f"name='{name}'"):
            version = _version(tracking, raw)
            made_at = datetime.fromisoformat(version.made_at)
            decides = {version.tags.get("fingerprint"), *_class_fingerprints(version)}
            is_active = made_at < period.until and (bool(version.aliases) or bool(decides & active))
            if made_at in period or is_active:
                versions[version.id] = version
    for named in _named(stretch) - set(versions):
        name, _, number = named.rpartition("/")
        try:
            versions[named] = _version(tracking, tracking.get_model_version(name, number))
        except MlflowException:
            continue  # deleted; the verifier reports it
    return tuple(sorted(versions.values(), key=lambda version: (version.made_at, version.id)))


def _named(stretch: ChainRange) -> set[str]:
    """Versions that registrations and reproductions in the range name, such as `inspector/3`."""
    entries = stretch.entries([EntryKind.REGISTRATION, EntryKind.REPRODUCTION])
    return {version_id(entry.subject) for entry in entries}


def _class_fingerprints(version: VersionFacts) -> set[str]:
    return set(json.loads(version.tags.get("class_fingerprints", "{}")).values())


def _version(tracking: mlflow.MlflowClient, raw: Any) -> VersionFacts:
    described = describe_version(tracking, raw.name, str(raw.version))
    params, metrics, summary = _run(tracking, described.tags.get("results_run", raw.run_id))
    return VersionFacts(
        name=raw.name,
        version=str(raw.version),
        made_at=datetime.fromtimestamp(raw.creation_timestamp / 1000, UTC).isoformat(),
        aliases=described.aliases,
        tags=described.tags,
        params=params,
        metrics=metrics,
        summary=summary,
    )


def _run(tracking: mlflow.MlflowClient, run_id: str | None) -> tuple[dict[str, str], dict[str, float], Summary | None]:
    """Hyper-parameters, metrics and summary of a run; empty where the run was deleted."""
    if not run_id:
        return {}, {}, None
    try:
        run = tracking.get_run(run_id)
    except MlflowException:
        return {}, {}, None
    return dict(run.data.params), dict(run.data.metrics), _summary(f"{run.info.artifact_uri}/summary.json")


def _summary(uri: str) -> Summary | None:
    try:
        return Summary.model_validate(mlflow.artifacts.load_dict(uri))
    except _ABSENT:
        return None


def read_classes(version: VersionFacts, layout: Layout) -> tuple[CardClass, ...]:
    """Metrics and calibration of each class at the version's commit; None where DVC no longer has the file."""
    commit = version.tags.get("git_commit")
    files = DVCFileSystem(str(layout.root), rev=commit) if commit else None
    return tuple(
        CardClass(
            name=name,
            num_images=num_images,
            metrics=_read(files, layout.metrics(name).relative_to(layout.root), ClassMetrics),
            calibration=_read(files, layout.calibration(name).relative_to(layout.root), CalibrationFile),
        )
        for name, num_images in card_classes(version).items()
    )


def _read(files: DVCFileSystem | None, path: Path, record: type[Kept]) -> Kept | None:
    try:
        return record.parse(files.read_text(path.as_posix()), str(path)) if files else None
    except _ABSENT:
        return None
