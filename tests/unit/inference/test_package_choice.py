"""Before any class is live: the last packaged model that passed its gates answers, and it is said which that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.learning import ROOT
from shadowline.core.layout import Layout
from shadowline.evaluation.gates import GateCheck
from shadowline.evaluation.summary import Summary
from shadowline.inference.package_choice import choose_package

GOLDEN = ROOT / "tests/unit/report/golden/summary.json"


def _judged(root: Path, *, passed: bool) -> Layout:
    layout, summary = Layout(root), Summary.read(GOLDEN)
    checks = tuple(_decided(check, passed=passed) for check in summary.verdict.checks)
    verdict = replace(summary.verdict, checks=checks, passed=passed)
    summary.model_copy(update={"verdict": verdict}).write(layout.summary)
    return layout


def _decided(check: GateCheck, *, passed: bool) -> GateCheck:
    return replace(check, passed=passed or check.name != "memory_mb")


def test_a_package_that_passed_answers_and_the_registry_is_not_asked(tmp_path: Path) -> None:
    choice = choose_package(_judged(tmp_path, passed=True), lambda: pytest.fail("asked"))
    assert (choice.location, choice.passed) == (f"{tmp_path}/models/inspector", True)


def test_a_package_that_did_not_pass_gives_way_to_the_newest_version_that_did(tmp_path: Path) -> None:
    choice = choose_package(_judged(tmp_path, passed=False), lambda: "models:/inspector/3")
    assert (choice.location, choice.passed) == ("models:/inspector/3", True)
    assert choice.reason.endswith("models/inspector did not pass: memory_mb")


def test_where_nothing_ever_passed_the_package_answers_and_is_said_to_have_failed(tmp_path: Path) -> None:
    for layout, word in ((_judged(tmp_path / "a", passed=False), "did not pass: "), (Layout(tmp_path), "no verdict")):
        choice = choose_package(layout, lambda: None)
        assert (choice.location, choice.passed) == (f"{layout.root}/models/inspector", False)
        assert word in choice.reason and "no registered version has passed" in choice.reason
