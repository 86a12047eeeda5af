"""DVC's remote: a folder or an S3 bucket that keeps every file of every registered version under its hash.

    push_data(root, commits)                              # what dvc.lock names now, and what it named in those commits
    with open_remote(clone, root) as remote:
        remote.fetch(output, clone)                       # each file is verified by its hash

    file://data/remote      relative to the project's root; file:///mnt/remote is absolute
    s3://bucket/prefix      credentials as AWS tools find them; SHADOWLINE_S3_ENDPOINT: another store

SHADOWLINE_DATA_URL names it. DVC reads it from .dvc/config.local, which git ignores and which never holds a secret.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import get_run_logger, task

from shadowline.audit.comparison import Finding, Item, Output, StageRecord
from shadowline.core.atomic_files import read_json, replace_file
from shadowline.core.hashing import file_md5
from shadowline.core.secrets import mask
from shadowline.core.settings import Settings
from shadowline.models.archive import is_inside
from tasks.integrations.retry import configure_dvc_retries

NAME = "shadowline"  # of the remote, in DVC's configuration
_AT_ONCE = 8  # objects
_DELAYS_S = [2.0, 5.0, 10.0, 20.0, 40.0]  # together more than a minute: as long as a store may be away
_FOLDER = ".dir"  # ends the hash of a folder, whose object lists its files


class RemoteError(ValueError):
    """The remote does not answer, or not as it should; the message says what to check."""


class DamagedError(ValueError):
    """An object of the remote does not hold the bytes that its hash names."""


class MissingError(DamagedError):
    """An object is missing."""


# --- where it is ----------------------------------------------------------------------------------------------------


def configure_remote(root: Path, project: Path | None = None) -> str:
    """Tell DVC in `root` about the remote of the project (itself, where none is given); returns its address.

    A folder inside `root` is written relative to it, so that a copy of the project has a remote of its own.

    Raises ValueError for an invalid address, and where the package that S3 needs is not installed.
    """
    from dvc.config import Config
    from dvc.config_schema import RelPath

    section = _section(project or root)
    config = Config(str(root / ".dvc"))
    with_local = config.load_one("local")
    inside = _is_inside(section["url"], root)
    if with_local.get("remote", {}).get(NAME) != section or (inside and section["url"] in _text_of(config)):
        with config.edit("local") as content:
            url = RelPath(section["url"]) if inside else section["url"]
            content.setdefault("remote", {})[NAME] = {**section, "url": url}
            content.setdefault("core", {}).setdefault("remote", NAME)
    return section["url"]


def _is_inside(url: str, root: Path) -> bool:
    return "://" not in url and Path(url).is_relative_to(root.resolve())


def _text_of(config: Any) -> str:
    """.dvc/config.local as it is written; DVC makes its paths absolute when it reads it."""
    path = Path(config.files["local"])
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _section(project: Path) -> dict[str, str]:
    settings = Settings()
    scheme, _, rest = settings.data_url.partition("://")
    if scheme == "file" and rest:
        return {"url": str((project / rest).resolve())}
    if scheme != "s3" or not rest.strip("/"):
        raise ValueError(
            f"data remote {settings.data_url!r}: need file://FOLDER or s3://BUCKET/PREFIX; set SHADOWLINE_DATA_URL"
        )
    if importlib.util.find_spec("dvc_s3") is None:
        raise ValueError("data remote in S3: dvc-s3 is not installed; run `pip install 'shadowline[s3]'`")
    configure_dvc_retries()
    section = {"url": settings.data_url.rstrip("/")}
    section |= {"endpointurl": settings.s3_endpoint} if settings.s3_endpoint else {}
    return section | ({"sse": settings.s3_encryption} if settings.s3_encryption else {})


# --- writing --------------------------------------------------------------------------------------------------------


def _is_away(task: Any, run: Any, state: Any) -> bool:
    """Whether waiting may help: not where the settings are wrong."""
    return isinstance(state.result(raise_on_failure=False), RemoteError)


@task(retries=len(_DELAYS_S), retry_delay_seconds=_DELAYS_S, retry_condition_fn=_is_away)
def push_data(root: Path, commits: Sequence[str] = ()) -> None:
    """Push every file of dvc.lock to the remote, and those of earlier commits that are still in the cache.

    Raises RemoteError where a file of dvc.lock is not in the remote afterwards.
    """
    url = configure_remote(root)
    _push(root, url)
    if commits:
        try:
            _push(root, url, commits)
        except RemoteError as error:
            get_run_logger().warning("earlier versions: %s", error)


def _push(root: Path, url: str, commits: Sequence[str] = ()) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with _answering(url):
        try:
            with Repo(str(root)) as repo:
                repo.push(remote=NAME, revs=list(commits) or None, workspace=not commits)
                if not commits:
                    _require_all(Remote(repo.cloud.get_remote_odb(NAME), url), repo, read_steps(root, repo))
        except DvcException as error:
            raise RemoteError(_away(url, error)) from None


def _require_all(remote: Remote, repo: Any, steps: Iterable[StageRecord]) -> None:
    """Push files that DVC has missed. Raises RemoteError for files that are neither in the remote nor in the cache.

    DVC takes the list of a folder for all of its files, and only warns of files that are nowhere.
    """
    wanted = {md5: out.path for step in steps for out in step.outs if out.kept for md5 in remote.objects(out)}
    lost, cache = wanted.keys() - set(remote.odb.oids_exist(list(wanted))), repo.cache.local
    here = [md5 for md5 in sorted(lost) if cache.exists(md5)]
    if here:
        remote.odb.add([cache.oid_to_path(md5) for md5 in here], cache.fs, here)
    if nowhere := sorted({wanted[md5] for md5 in lost.difference(here)}):
        raise RemoteError(
            f"data remote {remote.url}: files of {', '.join(nowhere)} are neither there nor in the cache; "
            "restore the remote or .dvc/cache from a backup"
        )


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remote:
    """The objects of the remote, by their hash; every byte that is read is hashed."""

    odb: Any  # dvc_data's HashFileDB
    url: str

    def files(self, output: Output) -> dict[str, str]:
        """Path below the project's root → md5, of every file of an output. Raises DamagedError."""
        if not output.md5.endswith(_FOLDER):
            return {output.path: output.md5}
        with TemporaryDirectory() as folder:
            listing = Path(folder) / "listing"
            self._fetch(output.md5, listing, f"{output.path} (list of its files)")
            entries = read_json(listing)
        return {f"{output.path}/{entry['relpath']}": str(entry["md5"]) for entry in entries}

    def objects(self, output: Output) -> set[str]:
        """The hashes of everything that an output consists of."""
        return {output.md5, *self.files(output).values()}

    def fetch(self, output: Output, root: Path) -> None:
        """Write an output below `root`. Raises DamagedError that names the file."""
        files = self.files(output)
        if outside := [path for path in files if not is_inside(path)]:
            raise DamagedError(f"{outside[0]}: leads out of the project")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda entry: self._fetch(entry[1], root / entry[0], entry[0]), files.items()))

    def check(self, output: Output) -> tuple[Item, ...]:
        """Read all of an output and compare it with its hashes: one item where all is well, else one per damage."""
        try:
            files = self.files(output)
        except DamagedError as error:
            return (_damage(output.path, error),)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            checked = list(pool.map(self._check, files.items()))
        damages = tuple(damage for damage in checked if damage is not None)
        return damages or (Item(output.path, Finding.IDENTICAL, f"{len(files)} files"),)

    def _check(self, file: tuple[str, str]) -> Item | None:
        path, md5 = file
        with TemporaryDirectory() as folder:
            try:
                self._fetch(md5, Path(folder) / "object", path)
            except DamagedError as error:
                return _damage(path, error)
        return None

    def _fetch(self, md5: str, target: Path, name: str) -> None:
        with _answering(self.url), replace_file(target) as temporary:
            try:
                self.odb.fs.get_file(self.odb.oid_to_path(md5), str(temporary))
            except FileNotFoundError:
                raise MissingError(f"{name}: not in the data remote {self.url} (md5 {md5})") from None
            actual = file_md5(temporary)
            if actual != md5.removesuffix(_FOLDER):
                raise DamagedError(f"{name}: md5 {actual} in the data remote {self.url}, on record {md5}")


@contextmanager
def open_remote(root: Path, project: Path | None = None) -> Iterator[Remote]:
    """The remote as DVC in `root` sees it. Raises RemoteError where nothing answers there."""
    from dvc.repo import Repo

    url = configure_remote(root, project)
    with Repo(str(root)) as repo:
        odb = repo.cloud.get_remote_odb(NAME)
        with _answering(url):
            is_there = odb.fs.exists(odb.path)
        if not is_there:
            raise RemoteError(f"data remote {url}: nothing is there; check SHADOWLINE_DATA_URL")
        yield Remote(odb, url)


def read_steps(root: Path, repo: Any = None) -> tuple[StageRecord, ...]:
    """Every stage and class of dvc.yaml in `root`, with the hashes of dvc.lock, in topological order."""
    from dvc.dependency.param import ParamsDependency
    from dvc.repo import Repo
    from networkx import lexicographical_topological_sort

    with nullcontext(repo) if repo else Repo(str(root)) as opened:
        graph = opened.index.graph.reverse()  # of DVC: a stage → what it reads from
        ordered = lexicographical_topological_sort(graph, key=lambda stage: stage.name)
        return tuple(
            StageRecord(
                stage.name,
                {dep.def_path: _hash(dep) for dep in stage.deps if not isinstance(dep, ParamsDependency)},
                tuple(Output(out.def_path, _hash(out), out.use_cache) for out in stage.outs),
            )
            for stage in ordered
        )


def _hash(item: Any) -> str:
    return item.hash_info.value or ""


def _damage(subject: str, error: DamagedError) -> Item:
    finding = Finding.MISSING if isinstance(error, MissingError) else Finding.DIFFERENT
    return Item(subject, finding, str(error).partition(": ")[2])


def _away(url: str, error: Exception) -> str:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return mask(f"data remote {url}: {reason[0]}; check SHADOWLINE_DATA_URL")


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turn an error of the store into a RemoteError of one line."""
    try:
        yield
    except _refusals() as error:
        raise RemoteError(_away(url, error)) from None


def _refusals() -> tuple[type[Exception], ...]:
    """The errors of a folder, and of S3 where its packages are installed."""
    if importlib.util.find_spec("botocore") is None:
        return (OSError,)
    from botocore.exceptions import BotoCoreError, ClientError

    return OSError, BotoCoreError, ClientError
