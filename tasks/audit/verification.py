"""What is on record of a registered version, read and hashed without computing anything.

verify_remote(place)                                  # every output of its lock
verify_registered(place, model)                       # every file of its logged model, its summary, its metrics
keep_result(found, root, now)                         # the result: a file, and an entry of the audit chain
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from shadowline.audit.comparison import BAD, Finding, Item, ReproductionResult, StageOutcome, compare_files, worst
from shadowline.core.atomic_files import read_json, write_json
from shadowline.core.hashing import file_md5, file_sha256
from shadowline.core.layout import Layout
from shadowline.evaluation.summary import Summary
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.stores import open_records
from tasks.audit.reproduction import Checkout
from tasks.integrations.dvc_remote import DamagedError, open_remote
from tasks.integrations.mlflow_registry import client, result_metrics
from tasks.integrations.provenance import PACKAGE, list_files
from tasks.integrations.registered_version import Registered
from tasks.integrations.registry_comparison import PROVENANCE, SIGNED_METRICS, signed_metrics


@task(cache_policy=NO_CACHE)
def keep_result(found: ReproductionResult, root: Path, now: datetime) -> Path:
    """Write data/audit/reproductions/<version>-<time>.json and bind it in the audit chain; returns its path."""
    name = f"{found.version.rpartition('/')[2]}-{now:%Y%m%dT%H%M%S%fZ}.json"
    path = Layout(root).reproductions / name
    write_json(path, found.to_dict())
    body = {
        "finding": found.finding,
        "verify_only": found.verify_only,
        "git_commit": found.git_commit,
        "first_divergence": found.first_divergence,
        "result": path.relative_to(root).as_posix(),
        "result_sha256": file_sha256(path),
    }
    open_records().chain.append(Record(EntryKind.REPRODUCTION, found.version, body, "audit", now))
    return path


@task(cache_policy=NO_CACHE)
def verify_remote(place: Checkout) -> tuple[StageOutcome, ...]:
    """Every output of the lock, read from the remote and hashed, file by file."""
    outcomes = []
    with open_remote(place.root, place.project) as remote:
        for name, steps in place.stages.items():
            items: list[Item] = []
            for out in (out for step in steps for out in step.outs):
                items += remote.check(out) if out.kept else [Item(out.path, Finding.UNKEPT)]
            outcomes.append(StageOutcome(name, tuple(items)))
    return tuple(outcomes)


@task(cache_policy=NO_CACHE)
def verify_registered(place: Checkout, model: Path) -> tuple[Item, ...]:
    """The version's tags against the audit chain, its files against their list and the lock, and its run's results."""
    files = (*_verify_files(place, model), *_verify_package(place, model))
    return (*_verify_tags(place.registered), *files, *_verify_results(place))


def _verify_tags(registered: Registered) -> tuple[Item, ...]:
    """By the signed entry of the registration: whoever can write to the registry can change a tag, or a number."""
    entry = open_records().chain.latest(EntryKind.REGISTRATION, registered.uri)
    said: dict[str, Any] = json.loads(entry.body) if entry else {}
    if not said:
        return (Item("tags", Finding.UNKEPT, "no entry of the audit chain tells of this registration"),)
    known = {name: said[name] for name in PROVENANCE if said.get(name) is not None}
    known["class_fingerprints"] = json.dumps(said["class_fingerprints"], sort_keys=True)
    tags = tuple(_compare_tag(name, value, registered.tags.get(name)) for name, value in known.items())
    return (*tags, *_verify_signed_metrics(registered, said))


def _compare_tag(name: str, said: str, found: str | None) -> Item:
    if found == said:
        return Item(f"tag {name}", Finding.IDENTICAL)
    note = f"{found or 'none'} in the registry, {said} in the audit chain"
    return Item(f"tag {name}", Finding.DIFFERENT if found else Finding.MISSING, note)


def _verify_files(place: Checkout, model: Path) -> tuple[Item, ...]:
    try:
        listed = place.registered.files(place.scratch)
    except ValueError as error:
        return (Item("files.json", Finding.DIFFERENT, str(error)),)
    if listed is None:
        return (Item("files.json", Finding.UNKEPT, "no list was made when this version was registered"),)
    return compare_files(listed, list_files(model), "the registered model")


def _verify_package(place: Checkout, model: Path) -> tuple[Item, ...]:
    """By the hashes of the lock, and then its fingerprints by the tags."""
    package = next(out for step in place.steps for out in step.outs if out.path == "models/inspector")
    with open_remote(place.root, place.project) as remote:
        try:
            recorded = remote.files(package)
        except DamagedError as error:
            return (Item(package.path, Finding.DIFFERENT, str(error)),)
    found = {f"{package.path}/{path}": md5 for path, md5 in _md5s(model / PACKAGE).items()}
    items = compare_files(recorded, found, "the registered model")
    return items if worst(items) in BAD else (*items, *_verify_fingerprints(place, model))


def _verify_fingerprints(place: Checkout, model: Path) -> tuple[Item, ...]:
    """The tags by which people and the gateway know the version."""
    config = read_json(model / PACKAGE / "config.json")
    names = ("fingerprint", "encoder_fingerprint")
    tags, packaged = ({f"tag {name}": of.get(name, "none") for name in names} for of in (place.registered.tags, config))
    return compare_files(packaged, tags, "the registry")


def _verify_results(place: Checkout) -> tuple[Item, ...]:
    """The run's summary.json by the hash of the lock; the run's metrics by the summary."""
    try:
        path = place.registered.summary(place.scratch)
    except ValueError as error:
        return (Item("summary.json", Finding.MISSING, str(error)),)
    locked = {out.path: out.md5 for step in place.steps for out in step.outs}["data/summary.json"]
    summary = compare_files({"summary.json": locked}, {"summary.json": file_md5(path)}, "the run")
    if summary[0].finding is not Finding.IDENTICAL:
        return summary
    try:
        expected = result_metrics(Summary.read(path))
    except ValueError as error:  # the summary of an earlier version of this program
        return (Item("summary.json", Finding.DIFFERENT, str(error)),)
    return (*summary, *_verify_metrics(place.registered, expected))


def _verify_metrics(registered: Registered, expected: Mapping[str, float]) -> tuple[Item, ...]:
    """Every number of the summary, and no other, is in the run."""
    logged = {name: value for name, value in registered.metrics().items() if name.startswith(SIGNED_METRICS)}
    return tuple(
        _compare_number(name, expected.get(name), logged.get(name), "its summary")
        for name in sorted({*expected, *logged})
    )


def _verify_signed_metrics(registered: Registered, said: Mapping[str, Any]) -> tuple[Item, ...]:
    """The run's numbers by the signed entry of the registration."""
    if "metrics" not in said:
        return (Item("signed metrics", Finding.UNKEPT, "the entry of the registration is older than their signature"),)
    logged = signed_metrics(client(), registered.results_run)
    return tuple(
        _compare_number(f"signed {name}", said["metrics"].get(name), logged.get(name), "the audit chain")
        for name in sorted({*said["metrics"], *logged})
    )


def _compare_number(name: str, expected: float | str | None, logged: float | str | None, where: str) -> Item:
    if expected == logged:
        return Item(name, Finding.IDENTICAL)
    note = f"{'none' if logged is None else logged} in the run, {'none' if expected is None else expected} in {where}"
    return Item(name, Finding.MISSING if logged is None else Finding.DIFFERENT, note)


def _md5s(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_md5(path) for path in folder.rglob("*") if path.is_file()}
