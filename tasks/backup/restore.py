"""A project again from its backup: verified first, put in place, then tried.

    done = restore("/mnt/backup/20260105T060000Z", Path("/srv/inspection"), progress)

Nothing is written before every file of the backup is found to be what was kept, and the folder and the databases to
be empty. MLflow keeps absolute places of its files: they become those of the new folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text, update

from shadowline.core.atomic_files import replace_private_file
from shadowline.core.layout import Layout
from shadowline.core.progress import Progress
from shadowline.core.settings import Settings
from shadowline.data.manifest import read_manifest as read_rows
from shadowline.models.inspector import Inspector
from shadowline.models.registry_uri import RegistryInspector
from shadowline.records.audit_log.chain import Chain
from shadowline.records.stores import open_records
from shadowline.records.tables import ModelRow
from tasks.backup.databases import kind_of, load_dump, opened, refuse_unless_empty
from tasks.backup.manifest import BackupManifest, DatabaseKind, KeptDatabase, check_files, read_manifest, text_sha256
from tasks.backup.snapshot import note_backup
from tasks.backup.targets import at_hand, in_one_line
from tasks.integrations.audit_log import registry_witnesses
from tasks.integrations.dvc_pipeline import StageFailedError, stale_targets

_PLACES_OF_FILES = (  # every column in which MLflow's store says where files are
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
_BUNDLE = "repository.bundle"
_CACHE = ".dvc/cache"
_OBJECTS = f"{_CACHE}/files/md5"
_MODELS = "data/models"  # of models that the records name by their folder: a place of their own, by fingerprint
_KEYS = "keys"
_PRIVATE_FOLDER = 0o700
_READ_ONLY = 0o444  # as DVC keeps what it has verified


@dataclass(frozen=True)
class Inspected:
    """One known image of a class, judged by the restored model."""

    class_name: str
    image: str
    score: float
    decision: str


@dataclass(frozen=True)
class RestoreDone:
    """What is there again, and what was tried."""

    folder: str
    num_files: int
    num_bytes: int
    num_entries: int  # of the audit chain, all sound
    registered: tuple[str, ...]
    inspector: str  # the version that was tried, "" where none is registered
    inspected: tuple[Inspected, ...]
    stale: tuple[str, ...]  # stages that the next retraining has to run again
    left_out: tuple[str, ...]
    problems: tuple[str, ...]  # that the backup knew of, and classes that could not be tried
    environment: Mapping[str, str]  # to be set before work goes on there
    seconds: float


@in_one_line("make room if it is full, empty the folder, try again")
def restore(backup: str, folder: Path, progress: Progress) -> RestoreDone:
    """Bring a backup into an empty or missing folder, and its dumps into empty databases.

    Raises ValueError, with nothing written, for a backup that is incomplete or damaged, and for a folder or a database
    that is not empty; and where what was restored turns out not to be sound.
    """
    started, folder = time.monotonic(), folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: not empty; name a new folder to restore into")
    with at_hand(backup, folder.parent, progress) as source:
        manifest = read_manifest(source)
        check_files(source, manifest, progress)
        environment = _environment(manifest, folder)
        _put_in_place(source, manifest, folder, environment, progress)
    to_set = _to_set(environment, folder)
    with _working_in(folder, environment):
        _check_out(folder)
        chain = open_records().chain
        num_entries = _check_chain(chain, manifest, progress)
        inspected, untried = _inspect(manifest.inspector, Layout(folder)) if manifest.inspector else ((), ())
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
            environment=to_set,
            seconds=time.monotonic() - started,
        )


# --- where it goes --------------------------------------------------------------------------------------------------


def _environment(manifest: BackupManifest, folder: Path) -> dict[str, str]:
    """The settings of the restored project, absolute. Raises ValueError for a database that cannot take its dump."""
    settings = Settings()
    return {
        "SHADOWLINE_DATABASE_URL": _url(manifest.records, settings.database_url, "SHADOWLINE_DATABASE_URL", folder),
        "SHADOWLINE_TRACKING_URI": _url(manifest.tracking, settings.tracking_uri, "SHADOWLINE_TRACKING_URI", folder),
        "SHADOWLINE_AUDIT_KEYS": str(folder / manifest.keys),
    }


def _url(database: KeptDatabase, named: str, setting: str, folder: Path) -> str:
    if database.kind is DatabaseKind.SQLITE:
        return f"sqlite:///{folder / database.place}"
    if kind_of(named) is not DatabaseKind.POSTGRESQL:
        raise ValueError(f"{setting}: {database.file} is a dump of PostgreSQL; name an empty PostgreSQL database there")
    refuse_unless_empty(named, setting)
    return named


def _to_set(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Those that a process in the folder, started as this one was, would not have."""
    found = {}
    for name, value in environment.items():
        default = Settings.model_fields[name.removeprefix("SHADOWLINE_").lower()].default
        if os.environ.get(name, str(default)) not in {value, value.replace(f"{folder}/", "")}:
            found[name] = value
    return found


@contextmanager
def _working_in(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """This process works in the restored project."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with chdir(folder):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})


# --- put in place ---------------------------------------------------------------------------------------------------


def _put_in_place(
    source: Path, manifest: BackupManifest, folder: Path, environment: Mapping[str, str], progress: Progress
) -> None:
    _clone(source / _BUNDLE, manifest.branch, folder)
    _dvc(folder, "cache", "dir", "--local", _CACHE)  # wherever the committed settings have it
    _make_private(folder / manifest.keys)
    targets = {name: target for name in manifest.files if (target := _target(name, manifest, folder)) is not None}
    with progress.task("restore", total=len(targets)) as bar:
        for name, target in targets.items():
            _copy(source / name, target, is_private=name.startswith(f"{_KEYS}/"))
            bar.advance()
    _protect_objects(manifest, folder)
    for database, setting in ((manifest.records, "DATABASE_URL"), (manifest.tracking, "TRACKING_URI")):
        url = environment[f"SHADOWLINE_{setting}"]
        if database.kind is DatabaseKind.POSTGRESQL:
            load_dump(source / database.file, url)
    with opened(environment["SHADOWLINE_TRACKING_URI"]) as engine:
        _move_registry(engine, manifest, folder)
    with opened(environment["SHADOWLINE_DATABASE_URL"]) as engine:
        _move_models(engine, manifest, folder)


def _target(name: str, manifest: BackupManifest, folder: Path) -> Path | None:
    """Where a file of the backup belongs; None for what is no file there."""
    files = {one.file: one.place for one in (manifest.records, manifest.tracking) if one.kind is DatabaseKind.SQLITE}
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
    """Every branch and tag, and nothing that points back to the backup."""
    _git(folder.parent, "init", "--quiet", "--initial-branch=restoring", str(folder))
    _git(folder, "fetch", "--quiet", str(bundle.resolve()), "+refs/*:refs/*", "+HEAD:refs/restored/head")
    _git(folder, "checkout", "--quiet", branch)
    _git(folder, "update-ref", "-d", "refs/restored/head")


def _git(root: Path, *arguments: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"git {arguments[0]} in {root}: {' '.join(answer.stderr.split())[:300]}; empty it, try again")


def _make_private(keys: Path) -> None:
    """For their owner alone before the first of them is there."""
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
    """What DVC keeps is read-only, and lies in a local remote as well."""
    objects = folder / _OBJECTS
    for path in objects.glob("*/*"):
        path.chmod(_READ_ONLY)
        if manifest.remote:
            _link(path, folder / manifest.remote / "files/md5" / path.relative_to(objects))


def _link(path: Path, twin: Path) -> None:
    twin.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, twin)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, twin)
        twin.chmod(_READ_ONLY)


def _dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = " ".join(answer.stderr.split())[:300]
        raise ValueError(f"dvc {arguments[0]} in {folder}: {said}; try `dvc repro` there")


def _move_registry(engine: Engine, manifest: BackupManifest, folder: Path) -> None:
    """Write where the files are now into every column that says where they were."""
    moved = {place: str(folder / "mlruns" / name) for name, place in manifest.experiments.items()}
    with engine.begin() as connection:
        for table, column in _PLACES_OF_FILES:
            values = connection.execute(text(f"SELECT DISTINCT {column} FROM {table}")).scalars().all()
            for old in filter(None, values):
                new = next((to + old[len(at) :] for at, to in moved.items() if f"{old}/".startswith(f"{at}/")), old)
                statement = text(f"UPDATE {table} SET {column} = :new WHERE {column} = :old")
                connection.execute(statement, {"new": new, "old": old})


def _move_models(engine: Engine, manifest: BackupManifest, folder: Path) -> None:
    """The same for models that the records name by their folder."""
    with engine.begin() as connection:
        for fingerprint in manifest.models:
            location = str(folder / _MODELS / fingerprint)
            connection.execute(update(ModelRow).where(ModelRow.fingerprint == fingerprint).values(location=location))


# --- tried ----------------------------------------------------------------------------------------------------------


def _check_out(folder: Path) -> None:
    """Every output of the lock that the backup holds."""
    _dvc(folder, "checkout", "--quiet", "--force", "--allow-missing")


def _stale(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(stale_targets(folder)))
    except StageFailedError as error:
        raise ValueError(f"{folder}: {error}") from None


def _check_chain(chain: Chain, manifest: BackupManifest, progress: Progress) -> int:
    """Returns the number of entries. Raises ValueError for a chain that is not the one that the manifest names."""
    found = chain.verify(progress, witnesses=registry_witnesses())
    if not found.sound:
        raise ValueError(f"audit chain: {found.reason}; restore another backup")
    last = (found.last.number, found.last.hash) if found.last else None
    named = (manifest.head.number, manifest.head.hash) if manifest.head else None
    if last != named:
        raise ValueError(f"audit chain: ends with {last}, the manifest names {named}; restore another backup")
    return found.num_entries


def _inspect(location: str, layout: Layout) -> tuple[tuple[Inspected, ...], tuple[str, ...]]:
    """One image of the test split of every class, and a line for each class that has none here."""
    inspector = RegistryInspector.load(location)
    images = {name: _known_image(name, layout) for name in inspector.classes}
    untried = (f"class '{name}': not tried, no image of its test split is here" for name in images if not images[name])
    return tuple(_tried(inspector, name, image) for name, image in images.items() if image), tuple(untried)


def _tried(inspector: Inspector, class_name: str, image: Path) -> Inspected:
    result = inspector.inspect(image, class_name)
    return Inspected(class_name, str(image), result.score, str(result.decision))


def _known_image(class_name: str, layout: Layout) -> Path | None:
    if not layout.manifest(class_name).is_file():
        return None
    rows = read_rows([layout.manifest(class_name)])
    paths = (layout.root / path for path in rows[rows["split"] == "test"]["path"])
    return next((path for path in paths if path.is_file()), None)
