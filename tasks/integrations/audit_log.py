"""The entries of flows and commands in the audit log, and the registry's tags that witness it.

    append_entry(Record(EntryKind.BACKUP, "2026-07-01", {"files": 812}, operator(), now))
    note_registration(version, layout)       # and what changed since the version before

Nothing here waits for a key: what cannot be signed is noted, and sealed later. An entry equal to the last of its kind
is not noted again, so that each call can be repeated without harm.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import mlflow

from shadowline.core.atomic_files import read_json
from shadowline.core.conformal import promised_rate
from shadowline.core.differences import differences
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.records.audit_log.chain import Chain, ChainAnchor
from shadowline.records.audit_log.chain_heads import AwayError
from shadowline.records.audit_log.entry import Entry, EntryKind, Record
from shadowline.records.audit_log.pair_seals import compare_pairs
from shadowline.records.audit_log.state import compare_tables
from shadowline.records.audit_log.verification import RegistryReport, Verification
from shadowline.records.stores import Records, open_records
from shadowline.rollout.engine import ENGINE
from tasks.integrations.dvc_pipeline import StageRun
from tasks.integrations.mlflow_registry import STORE_ERRORS, all_versions, client
from tasks.integrations.model_locations import note_champion
from tasks.integrations.model_version import ModelVersion
from tasks.integrations.provenance import first_line
from tasks.integrations.registry_comparison import (
    PROVENANCE,
    WITNESS_TAG,
    compare_registry,
    registry_exists,
    signed_metrics,
)
from tasks.integrations.retry import retried_task

TURNED = ("verdict_run", "verdict_commit")  # of a version that passed when it was judged again


def operator() -> str:
    """The user of the operating system."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def append_entry(*records: Record) -> tuple[Entry, ...]:
    """Note the records, and seal them if a key is available; returns the sealed entries."""
    return open_records().chain.append_if_possible(*records)


@retried_task
def note_configuration(params: Params) -> None:
    """Enter every key of params.yaml that has changed since the last entry, with its old and new value."""
    chain, values = open_records().chain, params.model_dump(mode="json")
    changed = differences(_last_said(chain, EntryKind.CONFIGURATION).get("params", {}), values)
    if changed:
        body = {"params_hash": params.hash(), "changed": changed, "params": values}
        chain.append_if_possible(_record(EntryKind.CONFIGURATION, "params.yaml", body))


@retried_task
def note_training(message: str, run_id: str, stages: Sequence[StageRun], succeeded: bool, layout: Layout) -> None:
    """Enter that a run has ended; `stages` is empty where a stage failed."""
    body = {
        "run": run_id,
        "succeeded": succeeded,
        "stages": [stage.name for stage in stages if not stage.skipped],
        "decoder_sha256": file_sha256(layout.decoder_weights) if succeeded else None,
    }
    append_entry(_record(EntryKind.TRAINING, message, body))


@retried_task
def note_registration(version: ModelVersion, layout: Layout) -> None:
    """Enter a version with its provenance, and every class that it decides otherwise than the version before.

    The version is tagged with its entry, so that the registry is a witness of the audit log.
    """
    chain = open_records().chain
    before, body = _last_said(chain, EntryKind.REGISTRATION), _registration(version, layout)
    if before != body or _last_said(chain, EntryKind.REGISTRATION, version.uri) != body:
        changes = _threshold_records(before, body, version)
        chain.append_if_possible(_record(EntryKind.REGISTRATION, version.uri, body), *changes)
    _tell_versions(chain, version)


def _tell_versions(chain: Chain, new: ModelVersion) -> None:
    """Tag the new version, and each that was registered without a key, with the last entry of its registration.

    The tag of another version stays: it may be the witness of an entry that is gone.
    """
    tracking = client()
    last = {entry.subject: entry for entry in chain.entries(kinds=[EntryKind.REGISTRATION])}
    for registered in all_versions(tracking, new.name):
        entry = last.get(f"models:/{new.name}/{registered.version}")
        if entry and (WITNESS_TAG not in registered.tags or str(registered.version) == new.version):
            witness = f"{entry.number}:{entry.hash}"
            tracking.set_model_version_tag(new.name, str(registered.version), WITNESS_TAG, witness)


def note_legacy_model(class_name: str, version: ModelVersion, about: Mapping[str, str]) -> None:
    """Enter a legacy model as its version's tags describe it; nothing where it is the class's last entry already."""
    chain, body = open_records().chain, {"version": version.uri, **about}
    if _last_said(chain, EntryKind.LEGACY, class_name) != body:
        chain.append_if_possible(_record(EntryKind.LEGACY, class_name, body))


def note_promotion(champion: ModelVersion, by: str, replaces: str | None = None) -> None:
    """Enter a new champion; `replaces`: the version before, where the caller knows better than the audit log."""
    note_champion(champion, datetime.now(UTC))
    chain = open_records().chain
    before = _last_said(chain, EntryKind.PROMOTION, champion.name).get("version")
    if before != champion.version:
        body = {
            "version": champion.version,
            "replaces": replaces or before,
            "fingerprint": champion.tags["fingerprint"],
        }
        chain.append_if_possible(_record(EntryKind.PROMOTION, champion.name, body, by))


@retried_task
def note_enrolment(class_name: str, phase: str, num_normal: int, model: str | None) -> None:
    """Enter the phase of a new product; `model`: the version or the starter's fingerprint that may answer, if any."""
    body = {"phase": phase, "normal_images": num_normal, "model": model}
    append_entry(_record(EntryKind.ENROLMENT, class_name, body))


def note_deletion(class_name: str, fingerprint: str, versions: Sequence[str], archive: str) -> None:
    """Enter that registered versions are about to be deleted; nothing where none is left."""
    chain, body = open_records().chain, {"fingerprint": fingerprint, "versions": [*versions], "archive": archive}
    if versions and _last_said(chain, EntryKind.DELETION, class_name) != body:
        chain.append_if_possible(_record(EntryKind.DELETION, class_name, body, ENGINE))


def registry_witnesses() -> list[ChainAnchor]:
    """`witnesses_in` the registry that SHADOWLINE_TRACKING_URI names; empty where it does not exist yet."""
    return witnesses_in(client()) if registry_exists() else []


def witnesses_in(tracking: mlflow.MlflowClient) -> list[ChainAnchor]:
    """The entries of the audit log that registered versions name in their tags.

    Raises MlflowException where the registry does not answer, and ValueError for an invalid tag.
    """
    tagged = [version for version in tracking.search_model_versions() if WITNESS_TAG in version.tags]
    return [_witness(f"{version.name}/{version.version}", version.tags[WITNESS_TAG]) for version in tagged]


def verify_all(records: Records, trusted: Mapping[str, str] | None, progress: Progress) -> Verification:
    """Verify the audit log, its witnesses outside the database, and every table and version that it signs.

    `trusted` as in `Chain.verify`; raises ValueError where there is nothing to trust.
    """
    chain = records.chain
    witnesses, absent, problem = find_witnesses(chain)
    verification = chain.verify(progress, trusted, witnesses)
    if not verification.sound:
        return Verification(verification, absent, False, (), RegistryReport(problem=problem))
    if verification.num_entries and chain.keys.head is None and (chain.keys.public() or trusted is None):
        absent = (f"{chain.keys.folder}/head.json is gone, and there are {verification.num_entries} entries", *absent)
    pairs = compare_pairs(chain.engine, progress)
    registry = RegistryReport(problem=problem) if problem else compare_registry(chain)
    is_fresh = not (chain.keys.public() or chain.heads or chain.latest(EntryKind.REGISTRATION))
    return Verification(
        chain=verification,
        absent=(*absent, *registry.absent),
        is_fresh=is_fresh,
        tables=(*compare_tables(chain.engine), pairs.table),
        registry=registry,
        num_batches=pairs.num_batches,
        num_late=pairs.num_late,
    )


def find_witnesses(chain: Chain) -> tuple[list[ChainAnchor], tuple[str, ...], str]:
    """Anchors in the registry and in the second place; what is absent there; why the registry does not answer."""
    witnesses, absent, problem = [], [], ""
    try:
        witnesses += registry_witnesses()
    except STORE_ERRORS as error:
        problem = first_line(error)
    if chain.heads is not None:
        try:
            heads = chain.heads.heads()
            witnesses += [ChainAnchor(head.number, head.hash, chain.heads.location) for head in heads]
            if not heads and next(chain.entries(), None) is not None:
                absent.append(f"{chain.heads.location} holds no head of this chain; the next tick copies one")
        except AwayError as error:
            absent.append(str(error))
    return witnesses, tuple(absent), problem


def _witness(version: str, tag: str) -> ChainAnchor:
    number, _, digest = tag.partition(":")
    if not number.isdecimal():
        raise ValueError(f"models:/{version}: tag {WITNESS_TAG} is {tag[:80]!r}, need NUMBER:HASH; look who set it")
    return ChainAnchor(int(number), digest, f"models:/{version}")


def _record(kind: EntryKind, subject: str, body: Mapping[str, Any], by: str = "") -> Record:
    return Record(kind, subject, body, by or operator(), datetime.now(UTC))


def _last_said(chain: Chain, kind: EntryKind, subject: str = "") -> dict[str, Any]:
    """The body of the last entry of a kind; empty where there is none."""
    entry = chain.latest(kind, subject)
    body: dict[str, Any] = json.loads(entry.body) if entry else {}
    return body


def _registration(version: ModelVersion, layout: Layout) -> dict[str, Any]:
    calibrations = read_json(layout.package / "calibration.json")
    return {
        **{name: version.tags.get(name) for name in PROVENANCE},
        **{name: version.tags[name] for name in TURNED if name in version.tags},
        "class_fingerprints": version.class_fingerprints,
        "decides_by": {name: _deciding(calibration) for name, calibration in calibrations.items()},
        "metrics": signed_metrics(client(), version.tags.get("results_run")),
    }


def _deciding(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """What decides on a class: its threshold, its target false-positive rate, and how its score is made.

    `promised_fpr` is there where less than the target can be promised.
    """
    recipe, target = calibration["recipe"], calibration["target_fpr"]
    promised = promised_rate(target, calibration["num_calibrating"])
    return {
        "threshold": calibration["threshold"],
        "target_fpr": target,
        **({"promised_fpr": promised} if promised > target else {}),
        "weights": recipe["weights"],
        "pool_shares": [pool["share"] for pool in recipe["pools"]],
    }


def _threshold_records(before: Mapping[str, Any], after: Mapping[str, Any], version: ModelVersion) -> list[Record]:
    old, new = before.get("decides_by", {}), after["decides_by"]
    changed = {name: differences(old.get(name, {}), new.get(name, {})) for name in sorted({*old, *new})}
    return [
        _record(EntryKind.THRESHOLD, name, {"version": version.uri, "changed": change})
        for name, change in changed.items()
        if change
    ]
