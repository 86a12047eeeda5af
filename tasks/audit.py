"""What flows and commands put on record, and what the registry knows of the chain.

    put_on_record(Record(Kind.BACKUP, "2026-07-01", {"files": 812}, operator(), now))
    note_registration(version, layout)       # and what changed since the version before

Nothing here waits for a key: what cannot be signed is noted, and sealed later. What says the same as the last time
is not noted again, so that each can be repeated without harm.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task

from shadowline.audit.chain import Chain, Witness
from shadowline.audit.differences import differences
from shadowline.audit.entry import Entry, Kind, Record
from shadowline.hashing import file_sha256
from shadowline.params import Params
from shadowline.paths import Layout
from shadowline.records.stores import open_records
from shadowline.rollout.engine import ENGINE
from shadowline.settings import Settings
from tasks.pipeline import StageRun
from tasks.records import note_champion
from tasks.registry import ModelVersion, client

WITNESS_TAG = "audit_entry"  # of a version: NUMBER:HASH of the entry of its registration
PROVENANCE = (  # tags of a version that the entry of its registration repeats, signed
    "fingerprint", "git_commit", "dvc_lock_sha256", "params_hash", "encoder_fingerprint", "encoder_source_sha256",
    "files_sha256", "environment", "verdict",
)  # fmt: skip
_RETRIES = {"retries": 3, "retry_delay_seconds": [1, 5, 15]}  # the database may be away for a moment


def operator() -> str:
    """The user of the operating system."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def put_on_record(*records: Record) -> tuple[Entry, ...]:
    """Note, and seal where a key is at hand; returns what was sealed."""
    return open_records().chain.append_if_possible(*records)


@task(**_RETRIES)
def note_configuration(params: Params) -> None:
    """Where params.yaml differs from what it was last: every key, from and to."""
    chain, values = open_records().chain, params.model_dump(mode="json")
    changed = differences(_last_said(chain, Kind.CONFIGURATION).get("params", {}), values)
    if changed:
        body = {"params_hash": params.hash(), "changed": changed, "params": values}
        chain.append_if_possible(_record(Kind.CONFIGURATION, "params.yaml", body))


@task(**_RETRIES)
def note_training(message: str, run_id: str, stages: Sequence[StageRun], succeeded: bool, layout: Layout) -> None:
    """That a run has ended; `stages` are empty where it ended in one of them."""
    body = {
        "run": run_id,
        "succeeded": succeeded,
        "stages": [one.name for one in stages if not one.skipped],
        "decoder_sha256": file_sha256(layout.decoder_weights) if succeeded else None,
    }
    put_on_record(_record(Kind.TRAINING, message, body))


@task(**_RETRIES)
def note_registration(version: ModelVersion, layout: Layout) -> None:
    """A version with all that made it, and every class that it decides otherwise than the version before.

    The version is told its entry, so that the registry is a witness of the chain.
    """
    chain = open_records().chain
    before, body = _last_said(chain, Kind.REGISTRATION), _registration(version, layout)
    if _last_said(chain, Kind.REGISTRATION, version.uri) != body:
        changes = _threshold_records(before, body, version)
        chain.append_if_possible(_record(Kind.REGISTRATION, version.uri, body), *changes)
    told = list(chain.entries(kinds=[Kind.REGISTRATION], subject=version.uri))
    for entry in told[-1:]:  # none where no key is at hand
        client().set_model_version_tag(version.name, version.version, WITNESS_TAG, f"{entry.number}:{entry.hash}")


def note_legacy_model(class_name: str, version: ModelVersion, about: Mapping[str, str]) -> None:
    """A legacy model on record, as its version's tags describe it; nothing where it is the class's last one already."""
    chain, body = open_records().chain, {"version": version.uri, **about}
    if _last_said(chain, Kind.LEGACY, class_name) != body:
        chain.append_if_possible(_record(Kind.LEGACY, class_name, body))


def note_promotion(champion: ModelVersion, by: str, replaces: str | None = None) -> None:
    """That a version leads now; `replaces`: the version before, where the caller knows better than the chain."""
    note_champion(champion, datetime.now(UTC))
    chain = open_records().chain
    before = _last_said(chain, Kind.PROMOTION, champion.name).get("version")
    if before != champion.version:
        body = {
            "version": champion.version,
            "replaces": replaces or before,
            "fingerprint": champion.tags["fingerprint"],
        }
        chain.append_if_possible(_record(Kind.PROMOTION, champion.name, body, by))


@task(**_RETRIES)
def note_enrolment(class_name: str, phase: str, num_normal: int, model: str | None) -> None:
    """How far a new product came; `model`: the version or the starter's fingerprint that may answer, if any."""
    body = {"phase": phase, "normal_images": num_normal, "model": model}
    put_on_record(_record(Kind.ENROLMENT, class_name, body))


def note_deletion(class_name: str, fingerprint: str, versions: Sequence[str], archive: str) -> None:
    """That registered versions are about to be deleted; nothing where none is left."""
    chain, body = open_records().chain, {"fingerprint": fingerprint, "versions": [*versions], "archive": archive}
    if versions and _last_said(chain, Kind.DELETION, class_name) != body:
        chain.append_if_possible(_record(Kind.DELETION, class_name, body, ENGINE))


def registry_witnesses() -> list[Witness]:
    """What registered versions know of the entries of their registration.

    Raises MlflowException where the registry does not answer, and ValueError for a tag that is none.
    """
    uri = Settings().tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return []
    tagged = [one for one in client().search_model_versions() if WITNESS_TAG in one.tags]
    return [_witness(f"{one.name}/{one.version}", one.tags[WITNESS_TAG]) for one in tagged]


def _witness(version: str, tag: str) -> Witness:
    number, _, digest = tag.partition(":")
    if not number.isdecimal():
        raise ValueError(f"models:/{version}: tag {WITNESS_TAG} is {tag[:80]!r}, need NUMBER:HASH; look who set it")
    return Witness(int(number), digest, f"models:/{version}")


def _record(kind: Kind, subject: str, body: Mapping[str, Any], by: str = "") -> Record:
    return Record(kind, subject, body, by or operator(), datetime.now(UTC))


def _last_said(chain: Chain, kind: Kind, subject: str = "") -> dict[str, Any]:
    """The body of the last of its kind; empty where there is none."""
    found = chain.latest(kind, subject)
    said: dict[str, Any] = json.loads(found.body) if found else {}
    return said


def _registration(version: ModelVersion, layout: Layout) -> dict[str, Any]:
    calibrations = json.loads((layout.package / "calibration.json").read_text(encoding="utf-8"))
    return {
        **{name: version.tags.get(name) for name in PROVENANCE},
        "class_fingerprints": version.class_fingerprints,
        "decides_by": {name: _deciding(one) for name, one in calibrations.items()},
    }


def _deciding(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """What people mean by a class's threshold: the number, what it promises, and of what the score is made."""
    recipe = calibration["recipe"]
    return {
        "threshold": calibration["threshold"],
        "target_fpr": calibration["target_fpr"],
        "weights": recipe["weights"],
        "pool_shares": [pool["share"] for pool in recipe["pools"]],
    }


def _threshold_records(before: Mapping[str, Any], after: Mapping[str, Any], version: ModelVersion) -> list[Record]:
    old, new = before.get("decides_by", {}), after["decides_by"]
    changed = {name: differences(old.get(name, {}), new.get(name, {})) for name in sorted({*old, *new})}
    return [
        _record(Kind.THRESHOLD, name, {"version": version.uri, "changed": found})
        for name, found in changed.items()
        if found
    ]
