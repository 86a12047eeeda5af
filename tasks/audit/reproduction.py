"""Reproduce a registered version in a clean clone, from its commit and the remote, and compare it with its record.

    place = check_out(registered, root, folder)           # the commit, with the lock and the parameters of the tags
    outcomes = recompute(place)                           # stage by stage, with the commit's own code
    compare_package(place, model)                         # with what the registry holds
    compare_results(place)                                # with what the run has

The project is not changed: git shares its objects, sources are linked, everything else comes from the remote.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE

from shadowline.audit.comparison import (
    Finding,
    Item,
    StageOutcome,
    StageRecord,
    compare_files,
    compare_metrics,
    compare_step,
)
from shadowline.audit.environment import same_settings
from shadowline.core.atomic_files import link_or_copy, read_json
from shadowline.core.git import run_git
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout
from shadowline.core.secrets import mask
from shadowline.data.additions import Additions
from tasks.integrations.dvc_pipeline import StageFailedError, run_stage, stage_server
from tasks.integrations.dvc_remote import configure_remote, open_remote, read_steps
from tasks.integrations.git import has_commit
from tasks.integrations.provenance import PACKAGE, list_files
from tasks.integrations.registered_version import Registered

_RESTORE = "restore the repository from a backup"
_HASH_PARAMS = """\
from pathlib import Path
try:
    from shadowline.core.params import load_params
except ImportError:  # a commit from before the library had packages
    from shadowline.params import load_params
print(load_params(Path("params.yaml")).hash())
"""


@dataclass(frozen=True)
class Checkout:
    """A clean clone at the commit of a version."""

    root: Path  # the clone
    project: Path
    registered: Registered
    scratch: Path  # for what is downloaded
    steps: tuple[StageRecord, ...]  # of the commit's lock; a step comes after those whose outputs it reads

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def stages(self) -> dict[str, list[StageRecord]]:
        """Stage → its steps (one, or one per class), in the order in which they can run."""
        by_stage: dict[str, list[StageRecord]] = {}
        for step in self.steps:
            by_stage.setdefault(step.stage, []).append(step)
        made_by = {out.path: step.stage for step in self.steps for out in step.outs}
        reads = {
            name: {made_by[out] for step in steps for dep in step.deps for out in made_by if _overlap(dep, out)}
            - {name}
            for name, steps in by_stage.items()
        }
        return {name: by_stage[name] for name in TopologicalSorter(reads).static_order()}


# --- the commit -----------------------------------------------------------------------------------------------------


@task(cache_policy=NO_CACHE)
def check_out(registered: Registered, project: Path, folder: Path) -> Checkout:
    """The version's commit in `folder`/project.

    Raises ValueError where the commit is gone, its files cannot be read, or they are not those of the tags.
    """
    commit = registered.tag("git_commit")
    if not has_commit(project, commit):
        raise ValueError(f"{registered.uri}: commit {commit} is not in this repository; fetch it, or restore a backup")
    clone = folder / "project"
    source = str(project.resolve())
    run_git(project, "clone", "--quiet", "--no-checkout", "--shared", source, str(clone), way_out=_RESTORE)
    run_git(clone, "checkout", "--quiet", "--detach", commit, way_out=_RESTORE)
    lock = clone / "dvc.lock"
    lock_sha256 = file_sha256(lock) if lock.is_file() else "none"
    _require(registered, "dvc_lock_sha256", lock_sha256, f"dvc.lock of commit {commit[:12]}")
    _require(registered, "params_hash", _params_hash(registered, clone), f"params.yaml of commit {commit[:12]}")
    _keep_to_itself(clone)
    configure_remote(clone, project)
    return Checkout(clone, project, registered, folder, read_steps(clone))


def _require(registered: Registered, tag: str, actual: str, subject: str) -> None:
    if registered.tag(tag) != actual:
        raise ValueError(
            f"{registered.uri}: {subject} has hash {actual[:12]}…, and {registered.tag(tag)[:12]}… was registered; "
            f"{_RESTORE}"
        )


def _params_hash(registered: Registered, clone: Path) -> str:
    """Hash of the parameters, as the commit's own library reads them."""
    environment = {**os.environ, **_own_code(clone)}
    command = [sys.executable, "-c", _HASH_PARAMS]
    answer = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"{registered.uri}: params.yaml: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout.strip()


def _own_code(clone: Path) -> dict[str, str]:
    """Environment that puts the commit's own library, if it has one, before the installed library."""
    return {"PYTHONPATH": str(clone.resolve())} if (clone / "shadowline").is_dir() else {}


def _keep_to_itself(clone: Path) -> None:
    """Keep DVC's site cache inside the clone, so that no other project sees it."""
    from dvc.config import Config

    with Config(str(clone / ".dvc")).edit("local") as content:
        content.setdefault("core", {})["site_cache_dir"] = str(clone.resolve() / ".dvc/tmp/site")


# --- recomputed -----------------------------------------------------------------------------------------------------


def recompute(place: Checkout) -> tuple[StageOutcome, ...]:
    """Run every step that can be reproduced, and take the outputs of the others from the remote.

    Stops after the first stage that fails. Raises RemoteError or DamagedError for an input that is not available.
    """
    recorded, archived = place.stages, bring_inputs(place)
    own_code = _own_code(place.root)
    variables = {**same_settings(place.registered.environment), **own_code}
    seconds: dict[str, float] = {}
    failure: dict[str, str] = {}
    with nullcontext() if own_code else stage_server(variables) as server:  # code from before the server has none
        for name, steps in recorded.items():
            wanted = [step.name for step in steps if step.name not in archived]
            targets = [name] if len(wanted) == len(steps) else wanted
            try:
                seconds[name] = _run(place, targets, variables, server.variables if server else {})
            except StageFailedError as error:
                failure[name] = mask(error.reason)
                break
    recomputed = {step.name: step for step in read_steps(place.root)}
    reached = [name for name in recorded if name in seconds]
    outcomes = [
        StageOutcome(name, _compare(recorded[name], recomputed, archived), seconds=seconds[name]) for name in reached
    ]
    return (*outcomes, *(StageOutcome(name, (), failure=reason) for name, reason in failure.items()))


def _run(place: Checkout, targets: list[str], variables: Mapping[str, str], server: Mapping[str, str]) -> float:
    """Run the targets of one stage; returns the seconds."""
    return sum(run_stage(place.root, target, True, None, variables, server).seconds for target in targets)


def _compare(
    steps: Iterable[StageRecord], recomputed: Mapping[str, StageRecord], archived: Mapping[str, str]
) -> tuple[Item, ...]:
    return tuple(
        item for step in steps for item in compare_step(step, recomputed[step.name], archived.get(step.name, ""))
    )


@task(cache_policy=NO_CACHE)
def bring_inputs(place: Checkout) -> dict[str, str]:
    """Link the sources that the project has, and fetch the outputs of steps that lack theirs: step → reason.

    Raises DamagedError for an output whose content in the remote has changed.
    """
    archived = _without_source(place)
    with open_remote(place.root, place.project) as remote:
        for step in place.steps:
            for out in step.outs if step.name in archived else ():
                if out.kept:
                    remote.fetch(out, place.root)
    return archived


def _without_source(place: Checkout) -> dict[str, str]:
    """Link the project's sources into the clone; step → reason where a source is missing or has another hash."""
    from dvc.repo import Repo

    outs = [out.path for step in place.steps for out in step.outs]
    sources = {path for step in place.steps for path in step.deps if not any(_overlap(path, out) for out in outs)}
    for path in sources:
        _bring(place, path)
    with Repo(str(place.root)) as repo:
        moved = {
            stage.name: dep.def_path
            for stage in repo.index.stages
            for dep in stage.deps
            if dep.def_path in sources and dep.status()
        }
    missing = {name: f"source not at hand: {path}" for name, path in moved.items()}
    return {**missing, **additions_gone(place), **_encoder_without_source(place)}


def additions_gone(place: Checkout) -> dict[str, str]:
    """Link the images that were added after the classes' sources; import step → reason where some are missing.

    These images are no dependency in dvc.yaml: params.yaml names them by hash.
    """
    _bring(place, place.layout.additions.relative_to(place.root).as_posix())
    gone = {}
    for name, entry in yaml.safe_load(place.layout.params.read_text(encoding="utf-8"))["classes"].items():
        try:
            Additions(place.layout.additions, name).check(addition["index"] for addition in entry.get("additions", ()))
        except (FileNotFoundError, ValueError) as error:
            gone[f"import@{name}"] = f"source not at hand: {mask(str(error))}"
    return gone


def _encoder_without_source(place: Checkout) -> dict[str, str]:
    """Link the encoder's weights; step → reason where they are missing or differ.

    They are no dependency in dvc.yaml, since a hub has no file: their hash is a tag.
    """
    names = [step.name for step in place.steps if step.stage == "encoder"]
    location = yaml.safe_load(place.layout.params.read_text(encoding="utf-8"))["encoder"].get("location", "")
    wanted = place.registered.tags.get("encoder_source_sha256")
    if wanted is None:
        return dict.fromkeys(names, "the bytes of its weights are not on record")
    _bring(place, location)
    path = place.root / location
    if not path.is_file() or file_sha256(path) != wanted:
        return dict.fromkeys(names, f"source not at hand: {location}")
    return {}


def _bring(place: Checkout, path: str) -> None:
    """Link a file, or the files of a folder, from the project; a path that the commit has itself is left alone."""
    source, target = place.project / path, place.root / path
    if Path(path).is_absolute() or target.exists() or not source.exists():
        return
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy)
    else:
        link_or_copy(source, target)


def _overlap(path: str, other: str) -> bool:
    """Whether two paths are equal, or one contains the other."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


def compare_package(place: Checkout, registered: Path) -> tuple[Item, ...]:
    """Compare every file of the reproduced package with the registered package, by sha256."""
    package = place.layout.package
    if not package.is_dir():
        return (Item(f"{PACKAGE}", Finding.DIFFERENT, "no package was made", inherited=True),)
    return compare_files(list_files(registered / PACKAGE), list_files(package), "the package that was made")


def compare_results(place: Checkout) -> tuple[Item, ...]:
    """Compare every number of the run's summary with the reproduced summary."""
    if not place.layout.summary.is_file():
        return (Item("summary", Finding.DIFFERENT, "no summary was made", inherited=True),)
    summary = read_json(place.layout.summary)
    try:
        return compare_metrics(read_json(place.registered.summary(place.scratch)), summary)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return (Item("summary.json", Finding.DIFFERENT, f"the run's is gone, or is no summary: {error}"),)
