"""Restore a project: verify its backup, put the files in place, and try the result.

    done = restore("/mnt/backup/20260105T060000Z", Path("/srv/inspection"), progress)

Nothing is written before every file of the backup is verified, and the folder and the databases are found to be empty.
MLflow keeps absolute locations of its files: they are changed to the new folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from sqlalchemy import Engine, update

from shadowline.core.atomic_files import link_or_copy, replace_private_file
from shadowline.core.git import run_git
from shadowline.core.layout import Layout
from shadowline.core.progress import Progress
from shadowline.core.settings import Settings
from shadowline.data.manifest import read_manifest as read_rows
from shadowline.models.inspector import Inspector
from shadowline.records.audit_log.chain import Chain
from shadowline.records.stores import open_records
from shadowline.records.tables import ModelRow
from tasks.backup.consistency import local_folder
from tasks.backup.databases import kind_of, load_dump, open_dump, require_empty
from tasks.backup.manifest import (
    BackupManifest,
    DatabaseDump,
    DatabaseKind,
    check_files,
    read_backup_manifest,
    text_sha256,
)
from tasks.backup.snapshot import note_backup
from tasks.backup.targets import local_copy, one_line_errors
from tasks.integrations.artifact_locations import move_artifacts
from tasks.integrations.audit_log import witnesses_in
from tasks.integrations.dvc_pipeline import StageFailedError, stale_targets
from tasks.integrations.provenance import PACKAGE, download
from tasks.integrations.registry_comparison import split_uri

_BUNDLE = "repository.bundle"
_CACHE = ".dvc/cache"
_OBJECTS = f"{_CACHE}/files/md5"
_MODELS = "data/models"  # for models that the records name by their folder; one folder per fingerprint
_KEYS = "keys"
_PRIVATE_FOLDER = 0o700
_READ_ONLY = 0o444  # as DVC marks objects that it has verified


@dataclass(frozen=True)
class RestoreCheck:
    """One known image of a class, judged by the restored model."""

    class_name: str
    image: str
    score: float
    decision: str


@dataclass(frozen=True)
class RestoreDone:
    """What was restored, and the results of the checks on it."""

    folder: str
    num_files: int
    num_bytes: int
    num_entries: int  # of the audit log, all verified
    registered: tuple[str, ...]
    inspector: str  # the version that was tried, "" where none is registered
    inspected: tuple[RestoreCheck, ...]
    stale: tuple[str, ...]  # stages that the next retraining has to run again
    left_out: tuple[str, ...]
    problems: tuple[str, ...]  # that the backup knew of, and classes that could not be tried
    environment: Mapping[str, str]  # variables to be set before anything runs in the folder
    seconds: float


@one_line_errors("make room if it is full, empty the folder, try again")
def restore(backup: str, folder: Path, progress: Progress) -> RestoreDone:
    """Restore a backup into an empty or missing folder, and its dumps into empty databases.

    Raises ValueError, with nothing written, for an incomplete or damaged backup, and for a folder or a database that is
    not empty; later also where the restored project does not verify. The working directory and the environment of this
    process stay as they are: other threads may be running.
    """
    started, folder = time.monotonic(), folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: not empty; name a new folder to restore into")
    with local_copy(backup, folder.parent, progress) as source:
        manifest = read_backup_manifest(source)
        check_files(source, manifest, progress)
        settings = _settings_of(manifest, folder)
        _put_in_place(source, manifest, folder, settings, progress)
    _check_out(folder)
    chain, tracking = open_records(settings=settings).chain, _registry(settings)
    num_entries = _check_chain(chain, tracking, manifest, progress)
    inspected, untried = _inspect(manifest.inspector, tracking, Layout(folder)) if manifest.inspector else ((), ())
    sha256 = text_sha256(manifest.to_text())
    note_backup(chain, backup.rstrip("/"), {"what": "restored", "manifest_sha256": sha256, "folder": str(folder)})
    return RestoreDone(
        folder=str(folder),
        num_files=len(manifest.files),
        num_bytes=manifest.num_bytes,
        num_entries=num_entries,
        registered=manifest.registered,
        inspector=manifest.inspector,
        inspected=inspected,
        stale=_stale(folder),
        left_out=manifest.left_out,
        problems=(*manifest.problems, *untried),
        environment=_to_set(settings, folder),
        seconds=time.monotonic() - started,
    )


# --- where it goes --------------------------------------------------------------------------------------------------


def _settings_of(manifest: BackupManifest, folder: Path) -> Settings:
    """The settings of the restored project, absolute. Raises ValueError for a database that cannot take its dump."""
    here = Settings()
    moved = {
        "database_url": _url(manifest.records, here.database_url, "SHADOWLINE_DATABASE_URL", folder),
        "tracking_uri": _url(manifest.tracking, here.tracking_uri, "SHADOWLINE_TRACKING_URI", folder),
        "audit_keys": folder / manifest.keys,
    }
    witness = local_folder(here.audit_witness)
    if witness is not None and not witness.is_absolute():
        moved["audit_witness"] = str(folder / witness)
    return here.model_copy(update=moved)


def _registry(settings: Settings) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(settings.tracking_uri, settings.tracking_uri)


def _url(database: DatabaseDump, named: str, setting: str, folder: Path) -> str:
    if database.kind is DatabaseKind.SQLITE:
        return f"sqlite:///{folder / database.place}"
    if kind_of(named) is not DatabaseKind.POSTGRESQL:
        raise ValueError(f"{setting}: {database.file} is a dump of PostgreSQL; name an empty PostgreSQL database there")
    require_empty(named, setting)
    return named


def _to_set(settings: Settings, folder: Path) -> dict[str, str]:
    """The variables that a process in the folder needs in addition to the environment of this process."""
    here = Settings()
    variables = {}
    for name in ("database_url", "tracking_uri", "audit_keys"):
        value = str(getattr(settings, name))
        if str(getattr(here, name)) not in {value, value.replace(f"{folder}/", "")}:
            variables[f"SHADOWLINE_{name.upper()}"] = value
    return variables


# --- put in place ---------------------------------------------------------------------------------------------------


def _put_in_place(source: Path, manifest: BackupManifest, folder: Path, settings: Settings, progress: Progress) -> None:
    _clone(source / _BUNDLE, manifest.branch, folder)
    _dvc(folder, "cache", "dir", "--local", _CACHE)  # whatever the committed settings say
    _make_private(folder / manifest.keys)
    targets = {name: target for name in manifest.files if (target := _target(name, manifest, folder)) is not None}
    with progress.task("restore", total=len(targets)) as bar:
        for name, target in targets.items():
            _copy(source / name, target, is_private=name.startswith(f"{_KEYS}/"))
            bar.advance()
    _protect_objects(manifest, folder)
    for database, url in ((manifest.records, settings.database_url), (manifest.tracking, settings.tracking_uri)):
        if database.kind is DatabaseKind.POSTGRESQL:
            load_dump(source / database.file, url)
    with open_dump(settings.tracking_uri) as engine:
        moved = {place: str(folder / "mlruns" / name) for name, place in manifest.experiments.items()}
        move_artifacts(engine, moved)
    with open_dump(settings.database_url) as engine:
        _move_models(engine, manifest, folder)


def _target(name: str, manifest: BackupManifest, folder: Path) -> Path | None:
    """Where a file of the backup belongs; None for the git bundle and for dumps, which are loaded instead."""
    databases = (manifest.records, manifest.tracking)
    files = {database.file: database.place for database in databases if database.kind is DatabaseKind.SQLITE}
    if name in files:
        return folder / files[name]
    part, _, rest = name.partition("/")
    if part == "folders":
        kind, _, rest = rest.partition("/")
        return folder / manifest.folders[kind] / rest
    homes = {
        _KEYS: manifest.keys,
        "artifacts": "mlruns",
        "models": _MODELS,
        "objects": _OBJECTS,
        "project": ".",
    }
    return folder / homes[part] / rest if part in homes else None


def _clone(bundle: Path, branch: str, folder: Path) -> None:
    """Clone every branch and tag, without a reference back to the backup."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in (
        ("init", "--quiet", "--initial-branch=restoring"),
        ("fetch", "--quiet", str(bundle.resolve()), "+refs/*:refs/*", "+HEAD:refs/restored/head"),
        ("checkout", "--quiet", branch),
        ("update-ref", "-d", "refs/restored/head"),
    ):
        run_git(folder, *command, way_out=f"empty {folder}, try again")


def _make_private(keys: Path) -> None:
    """Create the folder of the keys, for its owner alone, before the first key is written."""
    keys.mkdir(parents=True, exist_ok=True)
    keys.chmod(_PRIVATE_FOLDER)


def _copy(source: Path, target: Path, *, is_private: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_private:
        shutil.copyfile(source, target)
        return
    with source.open("rb") as kept, replace_private_file(target) as file:
        shutil.copyfileobj(kept, file)


def _protect_objects(manifest: BackupManifest, folder: Path) -> None:
    """Make DVC's objects read-only, and link them into a local remote as well."""
    objects = folder / _OBJECTS
    for path in objects.glob("*/*"):
        path.chmod(_READ_ONLY)
        if manifest.remote:
            link_or_copy(path, folder / manifest.remote / "files/md5" / path.relative_to(objects))


def _dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:
        message = " ".join(answer.stderr.split())[:300]
        raise ValueError(f"dvc {arguments[0]} in {folder}: {message}; try `dvc repro` there")


def _move_models(engine: Engine, manifest: BackupManifest, folder: Path) -> None:
    """Change the locations of the models that the records name by their folder."""
    with engine.begin() as connection:
        for fingerprint in manifest.models:
            location = str(folder / _MODELS / fingerprint)
            connection.execute(update(ModelRow).where(ModelRow.fingerprint == fingerprint).values(location=location))


# --- tried ----------------------------------------------------------------------------------------------------------


def _check_out(folder: Path) -> None:
    """Check out every output of the lock that the backup holds."""
    _dvc(folder, "checkout", "--quiet", "--force", "--allow-missing")


def _stale(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(stale_targets(folder)))
    except StageFailedError as error:
        raise ValueError(f"{folder}: {error}") from None


def _check_chain(chain: Chain, tracking: mlflow.MlflowClient, manifest: BackupManifest, progress: Progress) -> int:
    """Number of entries. Raises ValueError for an audit log that is not sound, or does not end as in the manifest."""
    verification = chain.verify(progress, witnesses=witnesses_in(tracking))
    if not verification.sound:
        raise ValueError(f"audit chain: {verification.reason}; restore another backup")
    last = (verification.last.number, verification.last.hash) if verification.last else None
    named = (manifest.head.number, manifest.head.hash) if manifest.head else None
    if last != named:
        raise ValueError(f"audit chain: ends with {last}, the manifest names {named}; restore another backup")
    return verification.num_entries


def _inspect(
    uri: str, tracking: mlflow.MlflowClient, layout: Layout
) -> tuple[tuple[RestoreCheck, ...], tuple[str, ...]]:
    """Inspect one test image of every class; returns the results, and a line for each class without such an image."""
    inspector = _load(uri, tracking)
    images = {name: _known_image(name, layout) for name in inspector.classes}
    untried = (f"class '{name}': not tried, no image of its test split is here" for name in images if not images[name])
    return tuple(_tried(inspector, name, image) for name, image in images.items() if image), tuple(untried)


def _load(uri: str, tracking: mlflow.MlflowClient) -> Inspector:
    """Load the registered version from the location in the restored registry."""
    place = tracking.get_model_version_download_uri(*split_uri(uri))
    folder = local_folder(place)
    if folder is not None:
        return Inspector.load(folder / PACKAGE)
    with tempfile.TemporaryDirectory() as scratch:
        return Inspector.load(download(uri, place, Path(scratch)) / PACKAGE)


def _tried(inspector: Inspector, class_name: str, image: Path) -> RestoreCheck:
    result = inspector.inspect(image, class_name)
    return RestoreCheck(class_name, str(image), result.score, str(result.decision))


def _known_image(class_name: str, layout: Layout) -> Path | None:
    if not layout.manifest(class_name).is_file():
        return None
    rows = read_rows([layout.manifest(class_name)])
    paths = (layout.root / path for path in rows[rows["split"] == "test"]["path"])
    return next((path for path in paths if path.is_file()), None)
