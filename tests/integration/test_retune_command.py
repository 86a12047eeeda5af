"""`shadowline rollout retune` on a real registry and a real database; of the packages there is what it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shadowline.models.fingerprints import class_fingerprints
from shadowline.records.model_locations import CANDIDATE, ModelLocation
from shadowline.records.pair import ModelDecision, Pair
from shadowline.records.stores import Records
from shadowline.rollout.engine import begin
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import Event

Command = Callable[..., tuple[int, str, str]]
MODEL = "inspector"
CALIBRATION = {"threshold": 3.0, "target_fpr": 0.05, "smoothing_sigma": 1.0}
NOW = datetime.now(UTC)


def register(records: Records, verdict: str = "passed", **changes: Any) -> tuple[str, str]:
    """A version of the model and where it lies on record; its number, and its fingerprint for the class bolt."""
    from tasks.integrations.mlflow_registry import client

    source = Path(f"model-{verdict}-{sorted(changes.items())}").absolute()
    folder = source / "artifacts/inspector"
    (folder / "banks").mkdir(parents=True)
    for name in ("encoder.safetensors", "encoder.json", "decoder.safetensors", "banks/bolt.safetensors"):
        (folder / name).write_text(name, encoding="utf-8")
    (folder / "calibration.json").write_text(json.dumps({"bolt": CALIBRATION | changes}), encoding="utf-8")
    fingerprints = class_fingerprints(folder)
    tags = {"verdict": verdict, "class_fingerprints": json.dumps(fingerprints)}
    version = str(client().create_model_version(MODEL, str(source), tags=tags).version)
    place = ModelLocation(fingerprints["bolt"], "bolt", CANDIDATE, f"models:/{MODEL}/{version}", version)
    records.locations.upsert_model([place], NOW)
    return version, fingerprints["bolt"]


def shadow(records: Records, candidate: str) -> None:
    """The class bolt in shadow mode with 20 pairs."""
    state, events = begin([["bolt"]], {"bolt": "legacy"}, {"bolt": candidate}, NOW, "Ada")
    started = NOW - timedelta(hours=2)
    one = replace(state.of("bolt"), phase=Phase.SHADOW, evidence_since=started)
    records.rollout.begin((*events, Event(2, NOW, "engine", Phase.LEGACY, one)))
    said = [ModelDecision(0.1 * n, 3.0) for n in range(20)]
    records.pairs.record(
        [
            Pair("bolt", f"{n:064}", started, candidate, "legacy", "legacy", decision, decision)
            for n, decision in enumerate(said)
        ]
    )


def test_a_class_gets_the_threshold_of_another_version(records: Records, command: Command) -> None:
    from tasks.integrations.mlflow_registry import CHALLENGER, client

    client().create_registered_model(MODEL)
    (first, fingerprint), (failed, _), (other, _), (tuned, after) = (
        register(records),
        register(records, "not passed", threshold=2.0),
        register(records, smoothing_sigma=1.5),
        register(records, threshold=2.9, target_fpr=0.06),
    )
    client().set_registered_model_alias(MODEL, CHALLENGER, first)
    shadow(records, fingerprint)

    def retune(version: str, why: str = "false alarms") -> tuple[int, str, str]:
        return command("rollout", "retune", "bolt", "--version", version, "--by", "Ada", "--why", why)

    assert "`shadowline models` lists what is registered" in retune("99")[2]
    assert "only a passed version can take over" in retune(failed)[2]
    assert "version 1 waits as challenger and decides on it otherwise" in retune(tuned)[2]
    client().set_registered_model_alias(MODEL, CHALLENGER, other)
    assert "in calibration.smoothing_sigma, not only in its threshold" in retune(other)[2]
    client().set_registered_model_alias(MODEL, CHALLENGER, tuned)
    assert "both must say something" in retune(tuned, " ")[2]
    (bank,) = Path().glob("*threshold', 2.9*/artifacts/inspector/banks/bolt.safetensors")
    packaged = bank.read_text(encoding="utf-8")
    bank.write_text("another", encoding="utf-8")
    assert "the records name" in retune(tuned)[2]
    bank.write_text(packaged, encoding="utf-8")
    assert records.rollout.state().of("bolt").candidate == fingerprint
    code, out, err = retune(tuned)
    assert (code, err) == (0, "")
    assert out.startswith("bolt: 20 pairs decided again, 0 of 20 decisions turned (0.00%); verdict inconclusive")
    assert retune(tuned)[:2] == (0, f"bolt: is decided by version {tuned} already\n")
    assert records.rollout.state().of("bolt").candidate == after
    entry = json.loads(command("audit", "log", "--kind", "retune", "--json")[1])
    assert entry["by"] == "Ada"
