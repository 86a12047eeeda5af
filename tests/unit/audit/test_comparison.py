"""What counts as the same, and where a difference began."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.commands.reproduce import _print
from shadowline.audit.comparison import (
    METRIC_TOLERANCE,
    Finding,
    Item,
    Output,
    ReproductionResult,
    StageOutcome,
    StageRecord,
    compare_files,
    compare_metrics,
    compare_step,
)
from shadowline.audit.environment import describe_environment, environment_differences, same_settings

_DESCRIBE = """
import json
from shadowline.audit.environment import describe_environment
print(json.dumps(describe_environment()))
"""
TRAIN = StageRecord("train", {"data/training_set.json": "a" * 32}, (Output("models/decoder", "b" * 32 + ".dir", True),))
SUMMARY: dict[str, Any] = {
    "classes": ["bolt"],
    "means": {"auroc": 0.95},
    "latency_ms": {"p95": 50.0},
    "memory": {"total_mb": 100.0},
    "verdict": {
        "passed": True,
        "checks": [
            {"name": "drop", "subject": "bolt", "measured": 0.01, "bound": 0.02, "passed": True, "reason": "any"},
            {"name": "latency_ms", "subject": "", "measured": 50.0, "bound": 150, "passed": True, "reason": "any"},
        ],
    },
}


def outcome(name: str, finding: Finding, inherited: bool = False) -> StageOutcome:
    return StageOutcome(name, (Item(f"data/{name}", finding, inherited=inherited),), seconds=1.0)


def reproduction(*stages: StageOutcome, **changes: Any) -> ReproductionResult:
    found = ReproductionResult(
        version="models:/inspector/1",
        git_commit="c" * 40,
        verify_only=False,
        environment=(),
        environment_known=True,
        stages=stages,
        package=(),
        artifact=(),
        metrics=(),
        started_at="2026-01-05T06:00:00+00:00",
        seconds=1.0,
    )
    return replace(found, **changes)


class TestOutputs:
    def test_the_same_hash_is_identical(self) -> None:
        assert [item.finding for item in compare_step(TRAIN, TRAIN)] == [Finding.IDENTICAL]

    def test_another_hash_of_the_same_inputs_is_a_divergence_of_its_own(self) -> None:
        made = replace(TRAIN, outs=(Output("models/decoder", "d" * 32, True),))
        (found,) = compare_step(TRAIN, made)
        assert (found.finding, found.inherited) == (Finding.DIFFERENT, False)

    def test_another_hash_of_other_inputs_is_inherited_and_names_them(self) -> None:
        made = StageRecord("train", {"data/training_set.json": "e" * 32}, (Output("models/decoder", "d" * 32, True),))
        (found,) = compare_step(TRAIN, made)
        assert (found.finding, found.inherited) == (Finding.DIFFERENT, True)
        assert "data/training_set.json differs" in found.note

    def test_an_output_that_was_not_made_is_no_identical_one(self) -> None:
        (found,) = compare_step(TRAIN, replace(TRAIN, outs=()))
        assert found.finding is Finding.DIFFERENT

    def test_measured_times_are_not_compared_and_hand_no_difference_on(self) -> None:
        recorded = StageRecord("summary", {"data/cost.json": "1"}, (Output("data/summary.json", "2", False),))
        made = StageRecord("summary", {"data/cost.json": "3"}, (Output("data/summary.json", "4", False),))
        assert [item.finding for item in compare_step(recorded, made)] == [Finding.ANEW]
        reads_cost = replace(recorded, outs=(Output("x", "2", True),))
        (found,) = compare_step(reads_cost, replace(made, outs=(Output("x", "4", True),)))
        assert not found.inherited

    def test_what_was_not_made_again_says_why(self) -> None:
        recorded = replace(TRAIN, outs=(*TRAIN.outs, Output("data/import/bolt.json", "f" * 32, False)))
        kept, unkept = compare_step(recorded, TRAIN, "source not at hand: data/inbox/bolt")
        assert (kept.finding, unkept.finding) == (Finding.ARCHIVED, Finding.UNKEPT)
        assert kept.note == "source not at hand: data/inbox/bolt"


class TestMetrics:
    def test_every_number_is_compared_and_words_are_not(self) -> None:
        other: dict[str, Any] = json.loads(json.dumps(SUMMARY))
        other["verdict"]["checks"][0]["reason"] = "other words"
        found = compare_metrics(SUMMARY, other)
        assert {item.finding for item in found if "latency" not in item.subject and "memory" not in item.subject} == {
            Finding.IDENTICAL
        }
        assert "checks.drop.bolt.measured" in {item.subject for item in found}

    @pytest.mark.parametrize(
        ("moved", "finding"),
        [
            (METRIC_TOLERANCE / 2, Finding.WITHIN),
            (METRIC_TOLERANCE * 2, Finding.DIFFERENT),
            (float("nan"), Finding.DIFFERENT),
        ],
    )
    def test_a_number_may_move_by_the_tolerance_and_no_further(self, moved: float, finding: Finding) -> None:
        other = {**SUMMARY, "means": {"auroc": 0.95 + moved}}
        assert {metric.subject: metric.finding for metric in compare_metrics(SUMMARY, other)}["means.auroc"] is finding

    @pytest.mark.parametrize(
        ("before", "after", "finding"),
        [
            (400.0, 400.3, Finding.WITHIN),  # robust sigmas of a gate have no upper end
            (400.0, 401.0, Finding.DIFFERENT),
            (5000, 5001, Finding.DIFFERENT),  # images are counted
        ],
    )
    def test_above_one_the_tolerance_is_relative_and_a_count_has_none(
        self, before: float, after: float, finding: Finding
    ) -> None:
        summaries = [{**SUMMARY, "means": {"auroc": value}} for value in (before, after)]
        found = {metric.subject: metric.finding for metric in compare_metrics(*summaries)}
        assert found["means.auroc"] is finding

    def test_times_and_memory_are_measured_anew(self) -> None:
        other = {**SUMMARY, "latency_ms": {"p95": 5000.0}, "memory": {"total_mb": 1.0}}
        anew = {metric.subject for metric in compare_metrics(SUMMARY, other) if metric.finding is Finding.ANEW}
        assert anew >= {"latency_ms.p95", "memory.total_mb", "checks.latency_ms.measured"}

    @pytest.mark.parametrize(("gate", "counts"), [(0, True), (1, False)])
    def test_a_gate_that_turns_is_no_matter_of_tolerance_but_where_it_judges_times(
        self, gate: int, counts: bool
    ) -> None:
        other: dict[str, Any] = json.loads(json.dumps(SUMMARY))
        other["verdict"]["passed"] = other["verdict"]["checks"][gate]["passed"] = False
        findings = {metric.finding for metric in compare_metrics(SUMMARY, other)}
        assert (Finding.DIFFERENT in findings) is counts

    def test_a_number_that_is_gone_is_different(self) -> None:
        other = {**SUMMARY, "means": {}}
        assert {metric.subject: metric.finding for metric in compare_metrics(SUMMARY, other)}[
            "means.auroc"
        ] is Finding.DIFFERENT


class TestFiles:
    def test_a_file_that_is_changed_gone_or_new_is_named(self) -> None:
        found = compare_files({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "x", "d": "4"}, "the registry")
        assert {item.subject: item.finding for item in found} == {
            "a": Finding.IDENTICAL,
            "b": Finding.DIFFERENT,
            "c": Finding.MISSING,
            "d": Finding.DIFFERENT,
        }


class TestTogether:
    def test_all_identical_is_identical_and_archived_inputs_do_not_spoil_it(self) -> None:
        found = reproduction(outcome("import", Finding.ARCHIVED), outcome("train", Finding.IDENTICAL))
        assert (found.finding, found.first_divergence) == (Finding.IDENTICAL, None)

    def test_the_first_divergence_is_the_one_that_inherits_nothing(self) -> None:
        found = reproduction(
            outcome("features", Finding.IDENTICAL),
            outcome("train", Finding.DIFFERENT),
            outcome("calibrate", Finding.DIFFERENT, inherited=True),
        )
        assert (found.finding, found.first_divergence) == (Finding.DIFFERENT, "train")
        assert [stage.inherited for stage in found.stages] == [False, False, True]

    def test_only_a_known_other_environment_lets_the_metrics_decide(self) -> None:
        stages = (outcome("train", Finding.DIFFERENT),)
        near = (Item("means.auroc", Finding.WITHIN),)
        assert reproduction(*stages, metrics=near).finding is Finding.DIFFERENT
        elsewhere = {"environment": ("cpu A, here B",), "metrics": near}
        assert reproduction(*stages, **elsewhere).finding is Finding.WITHIN
        assert reproduction(*stages, **elsewhere, environment_known=False).finding is Finding.DIFFERENT
        assert reproduction(*stages, **elsewhere, verify_only=True).finding is Finding.DIFFERENT

    def test_no_other_environment_excuses_a_registered_file_a_metric_or_a_stage_that_failed(self) -> None:
        other = ("cpu A, here B",)
        bad = (Item("x", Finding.DIFFERENT),)
        assert reproduction(environment=other, artifact=bad).finding is Finding.DIFFERENT
        assert reproduction(environment=other, metrics=bad).finding is Finding.DIFFERENT
        failed = reproduction(StageOutcome("train", (), failure="out of memory"), environment=other)
        assert (failed.finding, failed.first_divergence) == (Finding.DIFFERENT, "train")
        assert reproduction(outcome("train", Finding.MISSING), environment=other).finding is Finding.DIFFERENT

    def test_the_result_is_plain_json_with_its_counts(self) -> None:
        found = json.loads(json.dumps(reproduction(outcome("train", Finding.IDENTICAL)).to_dict()))
        assert (found["finding"], found["num_items"]) == ("identical", {"identical": 1})
        assert found["stages"][0]["finding"] == "identical"


def test_why_a_stage_failed_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    _print(reproduction(StageOutcome("train", (), failure="no [/bolt]")), Path("result.json"))
    assert "no [/bolt]" in capsys.readouterr().out


class TestEnvironment:
    def test_what_is_described_here_does_not_differ_from_here(self) -> None:
        assert environment_differences(describe_environment(), describe_environment()) == ()

    def test_what_differs_is_named_with_both_values(self) -> None:
        assert environment_differences({"torch": "1.0"}, {"torch": "2.0"}) == ("torch 1.0, here 2.0",)

    def test_the_same_processor_with_other_instructions_is_another_environment(self) -> None:
        here = describe_environment()
        if here["instructions"] == "DEFAULT":
            pytest.skip("this processor has the plainest instructions already")
        plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": here["threads"]}
        answer = subprocess.run(
            [sys.executable, "-c", _DESCRIBE], env=plain, capture_output=True, text=True, check=True
        )
        assert environment_differences(here, json.loads(answer.stdout)) == (
            f"instructions {here['instructions']}, here DEFAULT",
        )

    def test_threads_and_the_cpu_are_asked_for_again(self) -> None:
        assert same_settings({"threads": "3", "device": "cpu"}) == {
            "OMP_NUM_THREADS": "3",
            "MKL_NUM_THREADS": "3",
            "SHADOWLINE_DEVICE": "cpu",
        }
        assert same_settings({"device": "cuda"}) == {}
