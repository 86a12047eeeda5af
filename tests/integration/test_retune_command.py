"""`shadowline rollout retune` in a retrained project, its registry and its database."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime

from integration.tiny_project import MODEL, Project
from shadowline.inspector import class_fingerprints
from shadowline.records.rollout import CANDIDATE, ModelPlace
from shadowline.records.stores import open_records

Command = Callable[..., tuple[int, str, str]]


def register_tuned(project: Project, factor: float, *, key: str = "threshold", verdict: str = "passed") -> str:
    """A version that is the first but for one number of the class dots; returns its number."""
    from tasks.registry import client

    folder = project.root / f"{key}-{factor}" / "artifacts/inspector"
    shutil.copytree(project.layout.package, folder)
    calibrations = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    calibrations["dots"][key] *= factor
    (folder / "calibration.json").write_text(json.dumps(calibrations), encoding="utf-8")
    fingerprints = class_fingerprints(folder)
    tags = {"verdict": verdict, "class_fingerprints": json.dumps(fingerprints)}
    version = client().create_model_version(MODEL, str(folder.parents[1]), tags=tags).version
    place = ModelPlace(fingerprints["dots"], "dots", CANDIDATE, f"models:/{MODEL}/{version}", str(version))
    open_records().rollout.know_model([place], datetime.now(UTC))
    return str(version)


def test_a_class_gets_the_threshold_of_another_version(planned: Project, command: Command) -> None:
    from tasks.registry import CHALLENGER, client

    assert command("rollout", "advance")[0] == 0
    assert command("shadow", "run", "dots", "factory/dots/test")[0] == 0
    other, failed, tuned = (
        register_tuned(planned, 1.5, key="smoothing_sigma"),
        register_tuned(planned, 1.1, verdict="not passed"),
        register_tuned(planned, 1.0001),
    )

    def retune(version: str) -> tuple[int, str, str]:
        return command("rollout", "retune", "dots", "--version", version, "--by", "Ada", "--why", "false alarms")

    assert "`shadowline models` lists what is registered" in retune("99")[2]
    assert "only a passed version can take over" in retune(failed)[2]
    assert "version 1 waits as challenger and decides on it otherwise" in retune(tuned)[2]
    client().set_registered_model_alias(MODEL, CHALLENGER, other)
    assert "in calibration.smoothing_sigma, not only in its threshold" in retune(other)[2]
    client().set_registered_model_alias(MODEL, CHALLENGER, tuned)
    code, out, err = retune(tuned)
    assert (code, err) == (0, "")
    assert out.startswith("dots: 20 pairs decided again, 0 of 20 decisions turned (0.00%); verdict inconclusive")
    assert retune(tuned) == (0, f"dots: is decided by version {tuned} already\n", "")

    records = open_records()
    one = records.rollout.state().of("dots")
    assert records.rollout.model(one.candidate).version == tuned
    assert command("rollout", "advance")[0] == 0
    assert json.loads(command("audit", "log", "--kind", "retune", "--json")[1])
