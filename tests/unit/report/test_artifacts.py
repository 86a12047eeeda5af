"""Each artifact has one schema. The golden files were written before there was one: their bytes change with the
schema alone."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fixtures.learning import ROOT
from shadowline.core.artifacts import Artifact
from shadowline.core.params import load_params
from shadowline.data.validation_results import ClassChecks, OverallChecks
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.cost import Cost
from shadowline.evaluation.gates import GateCheck, Verdict
from shadowline.evaluation.summary import Summary
from shadowline.models.calibration_file import CalibrationFile
from shadowline.models.dinomaly.history import TrainingHistory
from shadowline.report.timings import Timings
from shadowline.stages.import_class import ImportReport
from shadowline.stages.summary import summarize

GOLDEN = Path(__file__).with_name("golden")
SCHEMAS: dict[str, type[Artifact]] = {
    "calibration": CalibrationFile,
    "class_checks": ClassChecks,
    "cost": Cost,
    "history": TrainingHistory,
    "import_report": ImportReport,
    "metrics": ClassMetrics,
    "overall_checks": OverallChecks,
    "summary": Summary,
    "timings": Timings,
}
# A field inside each file, one level down where there is one.
INSIDE: dict[str, tuple[str | int, ...]] = {
    "calibration": ("calibration", "recipe", "pools", 0, "scale"),
    "class_checks": ("checks", 0),
    "cost": ("latency",),
    "history": ("evaluations", 0),
    "import_report": ("refused", 0),
    "metrics": ("practicality",),
    "overall_checks": ("balance",),
    "summary": ("verdict", "checks", 0),
    "timings": ("stages", 0),
}


def read(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def inside(name: str, value: Any) -> dict[str, Any]:
    for key in INSIDE[name]:
        value = value[key]
    return value


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_was_read_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    golden = GOLDEN / f"{name}.json"
    SCHEMAS[name].read(golden).write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == golden.read_bytes()


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_unknown_field_is_refused_at_any_depth(name: str, tmp_path: Path) -> None:
    for place in (lambda value: value, lambda value: inside(name, value)):
        value = read(name)
        place(value)["added_later"] = 1
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match=rf"{name}\.json: .*added_later: "):
            SCHEMAS[name].read(path)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_missing_field_is_refused_at_any_depth(name: str) -> None:
    optional = {"advisory"}  # a check of before there were advisory ones decides
    for field in read(name):
        with pytest.raises(ValueError, match=rf"a\.json: {field}: "):
            SCHEMAS[name].parse(json.dumps({key: value for key, value in read(name).items() if key != field}), "a.json")
    for field in set(inside(name, read(name))) - optional:
        value = read(name)
        del inside(name, value)[field]
        with pytest.raises(ValueError, match=rf"a\.json: .*{field}: "):
            SCHEMAS[name].parse(json.dumps(value), "a.json")


def test_a_number_that_is_not_finite_is_neither_written_nor_read(tmp_path: Path) -> None:
    metrics = ClassMetrics.read(GOLDEN / "metrics.json")
    broken = dataclasses.replace(metrics.practicality, separation=math.inf)
    with pytest.raises(ValueError, match="not JSON compliant"):
        metrics.model_copy(update={"practicality": broken}).write(tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
    value = read("metrics")
    value["practicality"]["separation"] = math.nan
    with pytest.raises(ValueError, match=r"a\.json: practicality\.separation: .*finite"):
        ClassMetrics.parse(json.dumps(value), "a.json")


def test_a_value_of_another_type_is_not_written(tmp_path: Path) -> None:
    metrics = ClassMetrics.read(GOLDEN / "metrics.json")
    decisions: Any = dataclasses.replace(metrics.decisions, misses="none")
    with pytest.raises(ValueError, match="misses"):
        metrics.model_copy(update={"decisions": decisions}).write(tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()


def test_the_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cost\.json: no such file"):
        Cost.read(tmp_path / "cost.json")
    (tmp_path / "cost.json").write_text("{")
    with pytest.raises(ValueError, match=r"cost\.json: not JSON"):
        Cost.read(tmp_path / "cost.json")


def test_a_verdict_that_contradicts_its_checks_is_refused() -> None:
    value = read("summary")
    value["verdict"]["passed"] = not value["verdict"]["passed"]
    with pytest.raises(ValueError, match=r"a\.json: verdict: .*contradicts"):
        Summary.parse(json.dumps(value), "a.json")


def test_a_bound_that_is_an_integer_stays_one(tmp_path: Path) -> None:
    summary = Summary.read(GOLDEN / "summary.json")
    checks = Verdict.of([GateCheck("classes", True, 2.0, 1, "min", "", "")])
    summary.model_copy(update={"verdict": checks}).write(tmp_path / "summary.json")
    assert '"bound": 1,' in (tmp_path / "summary.json").read_text()


def test_without_a_cost_the_summary_has_the_fields_that_it_always_had() -> None:
    metrics = ClassMetrics.read(GOLDEN / "metrics.json")
    gates = load_params(ROOT / "params.yaml").gates
    summary = summarize({"dots": metrics}, None, {"dots": {"test": 20}}, gates).model_dump(mode="json")
    assert (summary["memory"], summary["latency_ms"], summary["latency_measurement"]) == (None, {}, {})
    assert {check["name"] for check in summary["verdict"]["checks"] if not check["passed"]} >= {"memory_mb"}
    assert summarize({}, None, {"dots": {"test": 20}}, gates).means == {}
