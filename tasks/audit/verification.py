"""Verify a registered version against its records, by reading and hashing alone; nothing is recomputed.

verify_remote(place)                                  # every output of its lock
verify_registered(place, model)                       # every file of its logged model, its summary, its metrics
keep_result(result, root, now)                        # the result: a file, and an entry of the audit log
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
def keep_result(result: ReproductionResult, root: Path, now: datetime) -> Path:
    """Write data/audit/reproductions/<version>-<time>.json and append its hash to the audit log; returns its path."""
    name = f"{result.version.rpartition('/')[2]}-{now:%Y%m%dT%H%M%S%fZ}.json"
    path = Layout(root).reproductions / name
    write_json(path, result.to_dict())
    body = {
        "finding": result.finding,
        "verify_only": result.verify_only,
        "git_commit": result.git_commit,
        "first_divergence": result.first_divergence,
        "result": path.relative_to(root).as_posix(),
        "result_sha256": file_sha256(path),
    }
    open_records().chain.append(Record(EntryKind.REPRODUCTION, result.version, body, "audit", now))
    return path


@task(cache_policy=NO_CACHE)
def verify_remote(place: Checkout) -> tuple[StageOutcome, ...]:
    """Read every output of the lock from the remote and hash it, file by file."""
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
    """Compare the tags with the audit log, the files with their list and the lock, and the results with the run."""
    files = (*_verify_files(place, model), *_verify_package(place, model))
    return (*_verify_tags(place.registered), *files, *_verify_results(place))


def _verify_tags(registered: Registered) -> tuple[Item, ...]:
    """Compare tags and metrics with the signed registration entry: anyone with write access can change the registry."""
    entry = open_records().chain.latest(EntryKind.REGISTRATION, registered.uri)
    signed: dict[str, Any] = json.loads(entry.body) if entry else {}
    if not signed:
        return (Item("tags", Finding.UNKEPT, "no entry of the audit chain tells of this registration"),)
    provenance = {name: signed[name] for name in PROVENANCE if signed.get(name) is not None}
    provenance["class_fingerprints"] = json.dumps(signed["class_fingerprints"], sort_keys=True)
    tags = tuple(_compare_tag(name, value, registered.tags.get(name)) for name, value in provenance.items())
    return (*tags, *_verify_signed_metrics(registered, signed))


def _compare_tag(name: str, signed: str, actual: str | None) -> Item:
    if actual == signed:
        return Item(f"tag {name}", Finding.IDENTICAL)
    note = f"{actual or 'none'} in the registry, {signed} in the audit chain"
    return Item(f"tag {name}", Finding.DIFFERENT if actual else Finding.MISSING, note)


def _verify_files(place: Checkout, model: Path) -> tuple[Item, ...]:
    try:
        listed = place.registered.files(place.scratch)
    except ValueError as error:
        return (Item("files.json", Finding.DIFFERENT, str(error)),)
    if listed is None:
        return (Item("files.json", Finding.UNKEPT, "no list was made when this version was registered"),)
    return compare_files(listed, list_files(model), "the registered model")


def _verify_package(place: Checkout, model: Path) -> tuple[Item, ...]:
    """Compare the package's files with the hashes of the lock, and then its fingerprints with the tags."""
    package = next(out for step in place.steps for out in step.outs if out.path == "models/inspector")
    with open_remote(place.root, place.project) as remote:
        try:
            recorded = remote.files(package)
        except DamagedError as error:
            return (Item(package.path, Finding.DIFFERENT, str(error)),)
    actual = {f"{package.path}/{path}": md5 for path, md5 in _md5s(model / PACKAGE).items()}
    items = compare_files(recorded, actual, "the registered model")
    return items if worst(items) in BAD else (*items, *_verify_fingerprints(place, model))


def _verify_fingerprints(place: Checkout, model: Path) -> tuple[Item, ...]:
    """Compare the fingerprint tags, by which people and the gateway identify the version, with the package's config."""
    config = read_json(model / PACKAGE / "config.json")
    names = ("fingerprint", "encoder_fingerprint")
    tags, packaged = (
        {f"tag {name}": source.get(name, "none") for name in names} for source in (place.registered.tags, config)
    )
    return compare_files(packaged, tags, "the registry")


def _verify_results(place: Checkout) -> tuple[Item, ...]:
    """Compare the run's summary.json with the hash of the lock, and the run's metrics with the summary."""
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
    """Check that the run has every number of the summary, and no other."""
    logged = {name: value for name, value in registered.metrics().items() if name.startswith(SIGNED_METRICS)}
    return tuple(
        _compare_number(name, expected.get(name), logged.get(name), "its summary")
        for name in sorted({*expected, *logged})
    )


def _verify_signed_metrics(registered: Registered, signed: Mapping[str, Any]) -> tuple[Item, ...]:
    """Compare the run's numbers with the signed registration entry."""
    if "metrics" not in signed:
        return (Item("signed metrics", Finding.UNKEPT, "the entry of the registration is older than their signature"),)
    logged = signed_metrics(client(), registered.results_run)
    return tuple(
        _compare_number(f"signed {name}", signed["metrics"].get(name), logged.get(name), "the audit chain")
        for name in sorted({*signed["metrics"], *logged})
    )


def _compare_number(name: str, expected: float | str | None, logged: float | str | None, where: str) -> Item:
    if expected == logged:
        return Item(name, Finding.IDENTICAL)
    note = f"{'none' if logged is None else logged} in the run, {'none' if expected is None else expected} in {where}"
    return Item(name, Finding.MISSING if logged is None else Finding.DIFFERENT, note)


def _md5s(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_md5(path) for path in folder.rglob("*") if path.is_file()}
