"""The files that go into a backup: where each lies now, and its name in the backup.

bundle = write_bundle(root, scratch / "repository.bundle")
objects = find_objects(root, [bundle.commit, *commits])     # what DVC keeps of these commits
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shadowline.core.atomic_files import read_json
from shadowline.core.git import run_git
from shadowline.core.hashing import file_md5
from shadowline.core.settings import Settings
from tasks.backup.consistency import local_folder
from tasks.integrations.git import has_commit

_OBJECTS = "files/md5"  # below DVC's cache, and below a remote that is a folder
_UNFINISHED = re.compile(r"\.num_bytes|\.lock|\..*\.tmp")  # may change at any moment, and are not needed


@dataclass(frozen=True)
class Source:
    """A file for a backup: the first of `paths`, or the first whose content has the md5 where one is given."""

    paths: tuple[Path, ...]
    name: str
    md5: str = ""


@dataclass(frozen=True)
class GitBundle:
    """All of git in one file."""

    path: Path
    branch: str  # the commit itself where no branch is checked out
    commit: str


@dataclass(frozen=True)
class DvcObjects:
    """The objects that DVC keeps for some commits."""

    sources: tuple[Source, ...]
    num_missing: int  # neither in the cache nor in a remote that is a folder
    uncached: tuple[str, ...]  # outputs of the first commit that DVC does not keep; paths in the project
    unknown: tuple[str, ...]  # commits that git does not have


# --- git ------------------------------------------------------------------------------------------------------------


def write_bundle(root: Path, path: Path) -> GitBundle:
    """Bundle every branch and tag. Raises ValueError for a repository without commits, and for a shallow clone."""
    if not run_git(root, "rev-parse", "--verify", "HEAD", check=False):
        raise ValueError(f"{root.resolve()}: no git repository with a commit; run the backup in the project's root")
    if run_git(root, "rev-parse", "--is-shallow-repository", check=False) == "true":
        raise ValueError(f"{root.resolve()}: a shallow clone, which no restore can fetch; run `git fetch --unshallow`")
    bundle = str(path.resolve())
    run_git(root, "bundle", "create", "--quiet", bundle, "--all", way_out="check `git fsck`")
    commit = run_git(root, "bundle", "list-heads", bundle, "HEAD").split()[0]
    return GitBundle(path, run_git(root, "symbolic-ref", "--short", "HEAD", check=False) or commit, commit)


# --- DVC ------------------------------------------------------------------------------------------------------------


def find_objects(root: Path, commits: Iterable[str]) -> DvcObjects:
    """The objects that the locks of these commits name; the first commit is the one that is checked out."""
    places = _object_places(root)
    sources: dict[str, Source] = {}
    uncached: list[str] = []
    unknown: list[str] = []
    missing: set[str] = set()
    for number, commit in enumerate(dict.fromkeys(commits)):
        if not has_commit(root, commit):
            unknown.append(commit)
            continue
        left = not_kept(run_git(root, "show", f"{commit}:./dvc.yaml", check=False))
        for path, md5 in _outputs(run_git(root, "show", f"{commit}:./dvc.lock", check=False)):
            if left.fullmatch(path):
                uncached += [path] if number == 0 else []
                continue
            for md5_of_part in _with_members(md5, places):
                source = _object(md5_of_part, places)
                if source.paths:
                    sources[md5_of_part] = source
                else:
                    missing.add(md5_of_part)
    return DvcObjects(tuple(sources.values()), len(missing), tuple(uncached), tuple(unknown))


def _object_places(root: Path) -> tuple[Path, ...]:
    """The object folders of DVC's cache, and of its remote where that is a folder."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"dvc cache dir: {answer.stderr.strip()}; run the backup in the project's root")
    remote = local_folder(Settings().data_url)
    return tuple(path / _OBJECTS for path in (root / answer.stdout.strip(), root / remote if remote else None) if path)


def _outputs(lock: str) -> Iterator[tuple[str, str]]:
    """Path and md5 of each output in a dvc.lock."""
    stages: Mapping[str, Any] = (yaml.safe_load(lock) or {}).get("stages", {})
    for stage in stages.values():
        yield from ((out["path"], out["md5"]) for out in stage.get("outs", ()) if "md5" in out)


def not_kept(dvc_yaml: str) -> re.Pattern[str]:
    """A pattern of the outputs with `cache: false`; ${…} stands for any name."""
    stages: Mapping[str, Any] = (yaml.safe_load(dvc_yaml) or {}).get("stages", {})
    kinds = (stage.get("do", stage).get(kind, ()) for stage in stages.values() for kind in ("outs", "metrics"))
    named = [out for outs in kinds for out in outs]
    paths = [path for out in named if isinstance(out, dict) for path, how in out.items() if how.get("cache") is False]
    templates = (re.split(r"\$\{[^}]*\}", path) for path in paths)
    return re.compile("|".join("[^/]+".join(map(re.escape, parts)) for parts in templates) or "(?!)")


def _with_members(md5: str, places: tuple[Path, ...]) -> Iterator[str]:
    """The md5 of an object, and for a directory those of its files, if an undamaged list of them is found."""
    yield md5
    if not md5.endswith(".dir"):
        return
    source = _object(md5, places)
    sound = next((path for path in source.paths if file_md5(path) == source.md5), None)
    if sound is not None:
        yield from (member["md5"] for member in read_json(sound))


def _object(md5: str, places: tuple[Path, ...]) -> Source:
    name = f"{md5[:2]}/{md5[2:]}"
    candidates = (place / name for place in places)
    return Source(tuple(path for path in candidates if path.is_file()), f"objects/{name}", md5.removesuffix(".dir"))


# --- folders --------------------------------------------------------------------------------------------------------


def below(folder: Path, name: str) -> list[Source]:
    """Every finished file below a folder, with `name` in place of the folder's path; empty for a missing folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    finished = (path for path in paths if not _UNFINISHED.fullmatch(path.name))
    return [Source((path,), f"{name}/{path.relative_to(folder).as_posix()}") for path in finished]


def in_project(root: Path, place: str) -> list[Source]:
    """A file or a folder of the project."""
    path = root / place
    return [Source((path,), f"project/{place}")] if path.is_file() else below(path, f"project/{place}")
