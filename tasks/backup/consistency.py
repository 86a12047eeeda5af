"""What the copies of the two databases refer to (models, versions, commits, files), and whether they agree.

standing = read_standing(connection)            # of the records
registry = read_registry(tracking, "inspector")  # of MLflow's store, through its client
disagreements(standing, registry, files)        # () where every model that must be there is there
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from sqlalchemy import Connection, select

from shadowline.inference.routing import required_models
from shadowline.records.audit_log.keys import ChainHead
from shadowline.records.tables import AuditEntryRow, ClassRow, ModelRow
from shadowline.rollout.state import ClassState
from tasks.integrations.mlflow_registry import CHALLENGER, CHAMPION, is_missing
from tasks.integrations.registry_comparison import WITNESS_TAG


@dataclass(frozen=True)
class DatabaseSnapshot:
    """What the records refer to."""

    head: ChainHead | None  # the last entry of the audit log
    locations: Mapping[str, str]  # fingerprint → models:/… or a folder
    required_models: frozenset[str]  # fingerprints that the rollout may ask at any moment

    @property
    def folders(self) -> dict[str, Path]:
        """Fingerprint → folder, of models outside a registry."""
        plain = {name: Path(place) for name, place in self.locations.items() if not place.startswith("models:/")}
        return {name: path for name, path in plain.items() if path.is_dir()}


@dataclass(frozen=True)
class Version:
    uri: str  # models:/NAME/VERSION
    storage: str  # where its files are
    commit: str  # "" where it has none


@dataclass(frozen=True)
class Registry:
    """What MLflow's store refers to."""

    versions: tuple[Version, ...]
    locations: Mapping[str, str]  # id of an experiment → where its files are
    inspector: str  # models:/… of the champion, else of the challenger, else of the newest; "" where there is none
    num_entries: int = 0  # of the audit log, as far as the versions' witness tags say

    @property
    def commits(self) -> tuple[str, ...]:
        return tuple(sorted({version.commit for version in self.versions if version.commit}))

    @property
    def experiments(self) -> dict[str, str]:
        """Those whose files are on this machine."""
        return {name: place for name, place in self.locations.items() if local_folder(place)}


def local_folder(location: str) -> Path | None:
    """None for files that lie elsewhere: s3://…"""
    if location.startswith("file://"):
        return Path(location.removeprefix("file://"))
    return (
        Path(location) if location and "://" not in location and not location.startswith("mlflow-artifacts:") else None
    )


def read_standing(connection: Connection) -> DatabaseSnapshot:
    query = select(AuditEntryRow.number, AuditEntryRow.hash).order_by(AuditEntryRow.number.desc()).limit(1)
    last = connection.execute(query).first()
    places = connection.execute(select(ModelRow.fingerprint, ModelRow.location)).all()
    states = connection.execute(select(ClassRow.state)).scalars()
    asked = {name for raw in states for name in required_models(ClassState.from_dict(raw)) if name}
    head = ChainHead(last.number, last.hash) if last else None
    return DatabaseSnapshot(head, {row.fingerprint: row.location for row in places}, frozenset(asked))


def read_registry(tracking: mlflow.MlflowClient, model_name: str) -> Registry:
    """`model_name`: of the multi-class model."""
    registered = sorted(_all(tracking.search_model_versions), key=lambda version: (version.name, int(version.version)))
    versions = [
        Version(
            uri=f"models:/{version.name}/{version.version}",
            storage=tracking.get_model_version_download_uri(version.name, version.version),
            commit=version.tags.get("git_commit", ""),
        )
        for version in registered
    ]
    experiments = _all(partial(tracking.search_experiments, view_type=ViewType.ALL))
    witnessed = (version.tags[WITNESS_TAG] for version in registered if WITNESS_TAG in version.tags)
    return Registry(
        versions=tuple(versions),
        locations={experiment.experiment_id: experiment.artifact_location for experiment in experiments},
        inspector=_leading(tracking, model_name, [int(each.version) for each in registered if each.name == model_name]),
        num_entries=max((int(entry.partition(":")[0]) for entry in witnessed), default=0),
    )


def disagreements(standing: DatabaseSnapshot, registry: Registry, files: Collection[str]) -> tuple[str, ...]:
    """One line for each model, and for an entry of the audit log, that one copy refers to and the other lacks."""
    whole = {version.uri for version in registry.versions if _is_whole(version, registry, files)}
    broken = (version for version in registry.versions if version.uri not in whole)
    lost = [f"{version.uri}: its files are not in {version.storage}" for version in broken]
    if not agree_on_time(standing, registry):
        lost.append(f"audit chain: the registry knows of entry {registry.num_entries}, the records do not")
    for fingerprint in sorted(standing.required_models):
        location = standing.locations.get(fingerprint, "")
        kept = location in whole or any(name.startswith(f"models/{fingerprint}/") for name in files)
        if not kept:
            lost.append(f"model {fingerprint[:12]}… of the rollout: not in {location or 'the records'}")
    return tuple(lost)


def agree_on_time(standing: DatabaseSnapshot, registry: Registry) -> bool:
    """Whether the records hold every entry of the audit log that a registered version names in its tag."""
    return registry.num_entries <= (standing.head.number if standing.head else 0)


def _all(search: Callable[..., PagedList[Any]]) -> list[Any]:
    """The items of all pages of a search."""
    page = search()
    items = list(page)
    while page.token:
        page = search(page_token=page.token)
        items += page
    return items


def _is_whole(version: Version, registry: Registry, files: Collection[str]) -> bool:
    if local_folder(version.storage) is None:
        return True  # not on this machine, so not part of a backup
    return any(
        f"artifacts/{name}/{version.storage[len(place) + 1 :]}/MLmodel" in files
        for name, place in registry.experiments.items()
        if version.storage.startswith(f"{place}/")
    )


def _leading(tracking: mlflow.MlflowClient, model_name: str, versions: list[int]) -> str:
    try:
        aliases = tracking.get_registered_model(model_name).aliases
    except MlflowException as error:
        if not is_missing(error):
            raise
        return ""
    leading = aliases.get(CHAMPION) or aliases.get(CHALLENGER) or max(versions, default=None)
    return f"models:/{model_name}/{leading}" if leading else ""
