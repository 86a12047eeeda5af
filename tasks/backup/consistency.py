"""What the copies of the two databases name: models, versions, commits, places of files; and whether they agree.

standing = read_standing(connection)            # of the records
registry = read_registry(connection, "inspector")  # of MLflow's store
disagreements(standing, registry, files)        # () where every model that must be there is there
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select, text

from shadowline.inference.routing import needed
from shadowline.records.audit_log.keys import Head
from shadowline.records.tables import AuditEntryRow, ClassRow, ModelRow
from shadowline.rollout.state import ClassState
from tasks.integrations.mlflow_registry import CHALLENGER, CHAMPION
from tasks.integrations.registry_comparison import WITNESS_TAG

_DELETED = "Deleted_Internal"  # MLflow's name for the stage of a version that was deleted


@dataclass(frozen=True)
class Standing:
    """What the records say."""

    head: Head | None  # the last entry of the audit chain
    locations: Mapping[str, str]  # fingerprint → models:/… or a folder
    needed: frozenset[str]  # fingerprints that the rollout may ask at any moment

    @property
    def folders(self) -> dict[str, Path]:
        """Of models that no registry keeps."""
        plain = {name: Path(place) for name, place in self.locations.items() if not place.startswith("models:/")}
        return {name: path for name, path in plain.items() if path.is_dir()}


@dataclass(frozen=True)
class Version:
    uri: str  # models:/NAME/VERSION
    storage: str  # where its files are
    commit: str  # "" where it has none


@dataclass(frozen=True)
class Registry:
    """What MLflow's store says."""

    versions: tuple[Version, ...]
    locations: Mapping[str, str]  # id of an experiment → where its files are
    inspector: str  # models:/… of the champion, else of the challenger, else of the newest; "" where there is none
    num_entries: int = 0  # of the audit chain, as far as versions were told

    @property
    def commits(self) -> tuple[str, ...]:
        return tuple(sorted({one.commit for one in self.versions if one.commit}))

    @property
    def experiments(self) -> dict[str, str]:
        """Only those whose files are on this machine."""
        return {name: place for name, place in self.locations.items() if local_folder(place)}


def local_folder(location: str) -> Path | None:
    """None for files that lie elsewhere: s3://…"""
    if location.startswith("file://"):
        return Path(location.removeprefix("file://"))
    return (
        Path(location) if location and "://" not in location and not location.startswith("mlflow-artifacts:") else None
    )


def read_standing(connection: Connection) -> Standing:
    query = select(AuditEntryRow.number, AuditEntryRow.hash).order_by(AuditEntryRow.number.desc()).limit(1)
    last = connection.execute(query).first()
    places = connection.execute(select(ModelRow.fingerprint, ModelRow.location)).all()
    states = connection.execute(select(ClassRow.state)).scalars()
    asked = {name for raw in states for name in needed(ClassState.from_dict(raw)) if name}
    head = Head(last.number, last.hash) if last else None
    return Standing(head, {row.fingerprint: row.location for row in places}, frozenset(asked))


def read_registry(connection: Connection, model_name: str) -> Registry:
    """`model_name`: of the multi-class model."""
    commits = _tags(connection, "git_commit")
    rows = connection.execute(
        text(
            "SELECT name, version, COALESCE(storage_location, source) AS storage FROM model_versions "
            "WHERE current_stage <> :deleted ORDER BY name, version"
        ),
        {"deleted": _DELETED},
    ).all()
    places = connection.execute(text("SELECT experiment_id, artifact_location FROM experiments")).all()
    return Registry(
        tuple(
            Version(f"models:/{row.name}/{row.version}", row.storage, commits.get((row.name, row.version), ""))
            for row in rows
        ),
        {str(row.experiment_id): row.artifact_location for row in places},
        _leading(connection, model_name, [row.version for row in rows if row.name == model_name]),
        max((int(one.partition(":")[0]) for one in _tags(connection, WITNESS_TAG).values()), default=0),
    )


def disagreements(standing: Standing, registry: Registry, files: Collection[str]) -> tuple[str, ...]:
    """One line for each model, and for an entry of the audit chain, that one copy names and another lacks."""
    whole = {one.uri for one in registry.versions if _is_whole(one, registry, files)}
    lost = [f"{one.uri}: its files are not in {one.storage}" for one in registry.versions if one.uri not in whole]
    if not agree_on_time(standing, registry):
        lost.append(f"audit chain: the registry knows of entry {registry.num_entries}, the records do not")
    for fingerprint in sorted(standing.needed):
        location = standing.locations.get(fingerprint, "")
        kept = location in whole or any(name.startswith(f"models/{fingerprint}/") for name in files)
        if not kept:
            lost.append(f"model {fingerprint[:12]}… of the rollout: not in {location or 'the records'}")
    return tuple(lost)


def agree_on_time(standing: Standing, registry: Registry) -> bool:
    """Whether the records hold every entry of the audit chain that a registered version was told."""
    return registry.num_entries <= (standing.head.number if standing.head else 0)


def _tags(connection: Connection, key: str) -> dict[tuple[str, int], str]:
    """Name and version → value."""
    query = text("SELECT name, version, value FROM model_version_tags WHERE key = :key")
    return {(row.name, row.version): row.value for row in connection.execute(query, {"key": key})}


def _is_whole(version: Version, registry: Registry, files: Collection[str]) -> bool:
    if local_folder(version.storage) is None:
        return True  # elsewhere, and left there
    return any(
        f"artifacts/{name}/{version.storage[len(place) + 1 :]}/MLmodel" in files
        for name, place in registry.experiments.items()
        if version.storage.startswith(f"{place}/")
    )


def _leading(connection: Connection, model_name: str, versions: list[int]) -> str:
    query = text("SELECT alias, version FROM registered_model_aliases WHERE name = :name")
    aliases = {row.alias: row.version for row in connection.execute(query, {"name": model_name})}
    leading = aliases.get(CHAMPION) or aliases.get(CHALLENGER) or max(versions, default=None)
    return f"models:/{model_name}/{leading}" if leading else ""
