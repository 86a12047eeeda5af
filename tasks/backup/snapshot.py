"""A backup of all that git alone does not keep, taken while the gateway answers and ticks run.

    done = back_up("/mnt/backup", Path(), progress)     # or s3://bucket/prefix

Referrers are copied before what they refer to, so that every reference in the backup resolves: first the last entry
that the signing keys remember, then the records, then the registry whose versions they name, then the keys, files and
commits.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from prefect import task

from shadowline.core.atomic_files import write_json
from shadowline.core.hashing import file_md5
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import Progress, default_progress
from shadowline.core.settings import Settings
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.audit_log.keys import open_keys
from shadowline.records.stores import open_records
from tasks.backup.consistency import (
    DatabaseSnapshot,
    Registry,
    agree_on_time,
    disagreements,
    local_folder,
    read_registry,
    read_standing,
)
from tasks.backup.databases import DatabaseCopy, dump_database, kind_of, sqlite_path
from tasks.backup.files import DvcObjects, GitBundle, Source, below, find_objects, in_project, write_bundle
from tasks.backup.manifest import BackedUpFile, BackupManifest, DatabaseDump, DatabaseKind, names_outside, text_sha256
from tasks.backup.targets import BackupTarget, new_place, one_line_errors
from tasks.integrations.mlflow_registry import client

BY = "backup"  # the author of entries on backups and restores in the audit log
_DOWNLOADS = "data/downloads"
_TRIES = 3  # of copying both databases with no registration in between
_SOFTWARE = ("shadowline", "mlflow", "dvc", "sqlalchemy")


@dataclass(frozen=True)
class BackupDone:
    """The result of a backup."""

    location: str
    manifest_sha256: str
    num_files: int
    num_bytes: int
    num_new_bytes: int  # that the target did not have
    has_private_keys: bool
    left_out: tuple[str, ...]
    problems: tuple[str, ...]  # references that do not resolve; see `disagreements`
    seconds: float


@dataclass(frozen=True)
class _Seen:
    """What the copies of the databases, git and DVC refer to."""

    standing: DatabaseSnapshot
    registry: Registry
    bundle: GitBundle
    objects: DvcObjects
    databases: tuple[DatabaseDump, DatabaseDump]  # records, tracking


@task
def make_backup(target: str, root: Path, with_downloads: bool = False) -> BackupDone:
    return back_up(target, root, default_progress(), with_downloads=with_downloads)


@one_line_errors("make room or name another target, and run the backup again")
def back_up(target: str, root: Path, progress: Progress, *, with_downloads: bool = False) -> BackupDone:
    """Write a new backup below `target`, and an entry on it into the audit log.

    Raises ValueError for a project that is not in git or not with all of its history, for an MLflow server in place of
    its store, for a target that cannot be written, and for a file name that a restore would refuse. A partial backup
    has no manifest.json and is ignored.
    """
    started, at, layout = time.monotonic(), datetime.now(UTC), Layout(root)
    model_name, chain = load_params(layout.params).registry.model_name, _open_stores()
    with _staging(layout) as staging:
        place = new_place(target, at)
        seen = _look(root, staging, model_name)
        sources = [*below(staging, "staged"), *_sources(layout, seen, with_downloads)]
        files, damaged = _keep_all(place, sources, progress)
        problems = (*disagreements(seen.standing, seen.registry, files), *damaged, *_unknown(seen.objects))
        manifest = _manifest(at, layout, seen, files, problems, with_downloads)
        if outside := names_outside(manifest):
            raise ValueError(f"{outside[:3]}: not below the project's root, no restore would take it; move it there")
        place.finish(manifest)
    done = _done(place, manifest, time.monotonic() - started)
    note_backup(chain, place.location, {"what": "made", **_facts(done)})
    return done


def note_backup(chain: Chain, location: str, facts: dict[str, object]) -> None:
    """Enter into the audit log that a backup was made or restored."""
    body = {"location": location, **facts}
    chain.append_if_possible(Record(EntryKind.BACKUP, location.rpartition("/")[2], body, BY, datetime.now(UTC)))


def _facts(done: BackupDone) -> dict[str, object]:
    names = ("manifest_sha256", "num_files", "num_bytes", "problems")
    return {name: value for name, value in asdict(done).items() if name in names}


def _done(place: BackupTarget, manifest: BackupManifest, seconds: float) -> BackupDone:
    return BackupDone(
        location=place.location,
        manifest_sha256=text_sha256(manifest.to_text()),
        num_files=len(manifest.files),
        num_bytes=manifest.num_bytes,
        num_new_bytes=place.num_new_bytes,
        has_private_keys=any(name.endswith(".pem") for name in manifest.files),
        left_out=manifest.left_out,
        problems=manifest.problems,
        seconds=seconds,
    )


def _open_stores() -> Chain:
    """Create or upgrade both databases; returns the audit log. Raises ValueError for a URL of no known database."""
    kind_of(Settings().tracking_uri)
    client().search_experiments(max_results=1)
    return open_records().chain


@contextmanager
def _staging(layout: Layout) -> Iterator[Path]:
    """An empty folder for copies in progress; raises ValueError while another backup of the project runs."""
    layout.scratch.mkdir(exist_ok=True)
    try:
        lock = FileLock(layout.scratch / "backup.lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{layout.root.resolve()}: another backup is at work here; wait for its end") from None
    staging = layout.scratch / "backup"
    with lock:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            yield staging
        finally:
            shutil.rmtree(staging)


def _look(root: Path, staging: Path, model_name: str) -> _Seen:
    """Copy the databases and git into `staging`, in the order that makes them agree."""
    for _ in range(_TRIES):
        standing, registry, databases = _copy_databases(root, staging, model_name)
        if agree_on_time(standing, registry):  # false where a version was registered between the two copies
            break
    bundle = write_bundle(root, staging / "repository.bundle")
    return _Seen(standing, registry, bundle, find_objects(root, [bundle.commit, *registry.commits]), databases)


def _copy_databases(
    root: Path, staging: Path, model_name: str
) -> tuple[DatabaseSnapshot, Registry, tuple[DatabaseDump, DatabaseDump]]:
    head, settings = open_keys().head, Settings()
    if head is not None:
        write_json(staging / "keys/head.json", asdict(head))
    with dump_database(settings.database_url, staging / "records") as records:
        standing = read_standing(records.connection)
    tracking, registry = _copy_tracking(settings.tracking_uri, staging, model_name)
    databases = (
        _kept_database(records.kind, records.path, settings.database_url, root, "data/records.db"),
        _kept_database(tracking.kind, tracking.path, settings.tracking_uri, root, "mlflow.db"),
    )
    return standing, registry, databases


def _copy_tracking(uri: str, staging: Path, model_name: str) -> tuple[DatabaseCopy, Registry]:
    """Copy MLflow's store, and read the copy with MLflow's client.

    No client reads a dump of PostgreSQL: there the store is read before and after the dump, until both answers are the
    same. Raises ValueError where they differ `_TRIES` times.
    """
    for _ in range(_TRIES):
        before = read_registry(client(), model_name) if kind_of(uri) is DatabaseKind.POSTGRESQL else None
        with dump_database(uri, staging / "tracking") as copy:
            address = uri if before else copy.read_only_url
            registry = read_registry(mlflow.MlflowClient(address, address), model_name)
        if before in (None, registry):
            return copy, registry
    raise ValueError(f"SHADOWLINE_TRACKING_URI: versions changed during each of {_TRIES} dumps; run the backup again")


def _kept_database(kind: DatabaseKind, file: Path, url: str, root: Path, otherwise: str) -> DatabaseDump:
    is_file = kind is DatabaseKind.SQLITE
    return DatabaseDump(kind, file.name, _place(root, sqlite_path(url), otherwise) if is_file else otherwise)


def _place(root: Path, path: Path, otherwise: str) -> str:
    """The path relative to the project's root; `otherwise` for a path outside of it."""
    absolute, home = path.resolve(), root.resolve()
    return absolute.relative_to(home).as_posix() if absolute.is_relative_to(home) else otherwise


def _folders(layout: Layout) -> dict[str, tuple[Path, str]]:
    """Name of a folder → its path, and its place in the restored project."""
    paths = {
        "inspected": layout.inspected,
        "inbox": layout.inbox,
        "additions": layout.additions,
        "decisions": layout.decisions,
        "reproductions": layout.reproductions,
        "evidence": layout.evidence,
    }
    places = {name: (path, path.relative_to(layout.root).as_posix()) for name, path in paths.items()}
    archive = local_folder(Settings().archive_url)
    if archive is not None:
        places["archive"] = (archive, _place(layout.root, archive, "data/archive"))
    return places


def _sources(layout: Layout, seen: _Seen, with_downloads: bool) -> list[Source]:
    """All files but the staged ones. The keys' last entry is staged, since it must not be newer than the records."""
    keys = [key for key in below(Settings().audit_keys, "keys") if key.paths[0].suffix in {".pem", ".pub"}]
    sources = [*keys, *seen.objects.sources]
    for name, location in seen.registry.experiments.items():
        sources += below(local_folder(location) or layout.root, f"artifacts/{name}")
    for fingerprint, folder in seen.standing.folders.items():
        sources += below(folder, f"models/{fingerprint}")
    for name, (path, _) in _folders(layout).items():
        sources += below(path, f"folders/{name}")
    for place in (*seen.objects.uncached, *([_DOWNLOADS] if with_downloads else [])):
        sources += in_project(layout.root, place)
    return sources


def _keep_all(
    place: BackupTarget, sources: Sequence[Source], progress: Progress
) -> tuple[dict[str, BackedUpFile], list[str]]:
    """Copy the sources; returns the files, and a line per damaged object. Files deleted meanwhile are left out."""
    files: dict[str, BackedUpFile] = {}
    damaged: list[str] = []
    with progress.task("backup", total=len(sources)) as bar:
        for source in sources:
            name = source.name.removeprefix("staged/")
            sound = next((path for path in source.paths if _is_itself(path, source.md5)), None)
            if sound is not None:
                with suppress(FileNotFoundError):  # a file of a run, or a kept image, deleted at this moment
                    files[name] = place.keep(sound, name)
            elif source.md5:
                damaged.append(f"{source.paths[0]}: not what its name says; fetch it again with `dvc pull`")
            bar.advance()
    return files, damaged


def _is_itself(path: Path, md5: str) -> bool:
    return path.is_file() and (not md5 or file_md5(path) == md5)


def _unknown(objects: DvcObjects) -> list[str]:
    return [f"commit {commit[:12]} of a registered version: git does not have it" for commit in objects.unknown]


def _manifest(
    at: datetime,
    layout: Layout,
    seen: _Seen,
    files: dict[str, BackedUpFile],
    problems: tuple[str, ...],
    with_downloads: bool,
) -> BackupManifest:
    remote = local_folder(Settings().data_url)
    return BackupManifest(
        made_at=at.isoformat(),
        versions={name: version(name) for name in _SOFTWARE},
        branch=seen.bundle.branch,
        commit=seen.bundle.commit,
        records=seen.databases[0],
        tracking=seen.databases[1],
        head=seen.standing.head,
        inspector=seen.registry.inspector,
        registered=tuple(version.uri for version in seen.registry.versions),
        experiments=seen.registry.experiments,
        models={name: str(path) for name, path in seen.standing.folders.items()},
        folders={name: place for name, (_, place) in _folders(layout).items()},
        keys=_place(layout.root, Settings().audit_keys, "data/audit/keys"),
        remote=_place(layout.root, remote, "") if remote else "",
        left_out=tuple(_left_out(layout, seen, with_downloads)),
        problems=problems,
        files=files,
    )


def _left_out(layout: Layout, seen: _Seen, with_downloads: bool) -> Iterator[str]:
    settings = Settings()
    for name, location in seen.registry.locations.items():
        if name not in seen.registry.experiments:
            yield f"files of MLflow's experiment {name}: they stay in {location}"
    if local_folder(settings.archive_url) is None:
        yield f"archived models: they stay in {settings.archive_url}"
    if seen.objects.num_missing:
        elsewhere = "" if local_folder(settings.data_url) else f"; {settings.data_url} may hold them"
        yield f"{seen.objects.num_missing} objects of DVC that are not on this machine{elsewhere}"
    if not with_downloads and (layout.root / _DOWNLOADS).is_dir():
        yield f"{_DOWNLOADS}: `shadowline data fetch` gets them again"
