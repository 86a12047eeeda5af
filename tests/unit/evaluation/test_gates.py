"""Every gate fires alone, every gate fails closed, and a verdict says why."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from shadowline.core.params import GateParams
from shadowline.evaluation.gates import (
    ClassEvidence,
    GateCheck,
    GateEvidence,
    Verdict,
    check_above,
    check_at_least,
    check_at_most,
    check_below,
    evaluate_gates,
)

GATES = GateParams(
    min_mean_auroc=0.97,
    max_drop=0.02,
    max_mean_drop=0.01,
    max_memory_mb=1024,
    max_latency_ms=150,
    min_separation=1.0,
    max_flip_share=0.2,
    max_saturation=0.05,
    max_miss_rate=0.1,
    promise_confidence=0.99,
    advisory=(),
)
DECIDED = {"miss_rate": 0.02, "false_alarms": 4, "num_normal": 80, "target_fpr": 0.05}
BOLT = ClassEvidence("bolt", auroc=0.99, legacy_auroc=0.99, separation=4.0, flip_share=0.05, saturation=0.0, **DECIDED)
NUT = ClassEvidence("nut", auroc=0.985, legacy_auroc=0.98, separation=3.0, flip_share=0.1, saturation=0.01, **DECIDED)
GOOD = GateEvidence(expected=("bolt", "nut"), classes=(BOLT, NUT), memory_mb=300.0, latency_ms=80.0)

OVERALL = {"memory_mb": (1023.9, 1024.0), "latency_ms": (149.9, 150.0)}  # passes, fails
PER_CLASS = {"separation": (1.0, 0.99), "flip_share": (0.2, 0.21), "saturation": (0.05, 0.06), "miss_rate": (0.1, 0.11)}


def with_bolt(**changes: float | None) -> GateEvidence:
    return dataclasses.replace(GOOD, classes=(dataclasses.replace(BOLT, **changes), NUT))


def failed(evidence: GateEvidence) -> set[tuple[str, str]]:
    verdict = evaluate_gates(evidence, GATES)
    names = {(check.name, check.subject) for check in verdict.checks if not check.passed}
    assert verdict.passed == (not names)
    assert len(verdict.reasons) == sum(not check.passed for check in verdict.checks)
    return names


def test_good_evidence_passes_every_gate():
    verdict = evaluate_gates(GOOD, GATES)
    assert verdict.passed and verdict.reasons == ()
    assert {check.name for check in verdict.checks} == {
        "classes",
        "mean_auroc",
        "mean_drop",
        "memory_mb",
        "latency_ms",
        "drop",
        "separation",
        "flip_share",
        "saturation",
        "miss_rate",
        "false_alarms",
    }
    assert len(verdict.checks) == 5 + 2 * 6


@pytest.mark.parametrize("name", OVERALL)
def test_overall_gate_fires_alone_and_at_its_bound(name):
    passes, fails = OVERALL[name]
    assert failed(dataclasses.replace(GOOD, **{name: passes})) == set()
    assert failed(dataclasses.replace(GOOD, **{name: fails})) == {(name, "")}


@pytest.mark.parametrize("name", PER_CLASS)
def test_class_gate_fires_alone_and_only_beyond_its_bound(name):
    passes, fails = PER_CLASS[name]
    assert failed(with_bolt(**{name: passes})) == set()
    assert failed(with_bolt(**{name: fails})) == {(name, "bolt")}


def test_mean_auroc_fires_alone_and_97_per_cent_is_not_enough():
    def evidence(auroc: float) -> GateEvidence:
        classes = tuple(dataclasses.replace(item, auroc=auroc, legacy_auroc=auroc) for item in (BOLT, NUT))
        return dataclasses.replace(GOOD, classes=classes)

    assert failed(evidence(0.9701)) == set()
    assert failed(evidence(0.97)) == {("mean_auroc", "")}


def test_drop_of_one_class_fires_alone_and_2_per_cent_is_too_much():
    gain = dataclasses.replace(NUT, auroc=0.99, legacy_auroc=0.96)  # holds the mean drop below its own bound

    def evidence(auroc: float) -> GateEvidence:
        return dataclasses.replace(GOOD, classes=(dataclasses.replace(BOLT, auroc=auroc, legacy_auroc=1.0), gain))

    assert failed(evidence(0.985)) == set()
    assert failed(evidence(0.975)) == {("drop", "bolt")}
    at_bound = GATES.model_copy(update={"max_drop": 0.25, "min_mean_auroc": 0.5, "max_mean_drop": 0.5})
    verdict = evaluate_gates(evidence(0.75), at_bound)  # 0.25, exact in binary
    assert [check.name for check in verdict.checks if not check.passed] == ["drop"]


def test_mean_drop_fires_alone_though_no_class_drops_too_far():
    both = tuple(dataclasses.replace(item, auroc=0.98, legacy_auroc=0.995) for item in (BOLT, NUT))
    assert failed(dataclasses.replace(GOOD, classes=both)) == {("mean_drop", "")}


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", OVERALL)
def test_overall_gate_fails_closed(name, missing):
    assert failed(dataclasses.replace(GOOD, **{name: missing})) == {(name, "")}


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "gates"),
    [
        ("auroc", {("mean_auroc", ""), ("mean_drop", ""), ("drop", "bolt")}),
        ("legacy_auroc", {("mean_drop", ""), ("drop", "bolt")}),
        ("separation", {("separation", "bolt")}),
        ("flip_share", {("flip_share", "bolt")}),
        ("saturation", {("saturation", "bolt")}),
    ],
)
def test_class_gate_fails_closed(name, gates, missing):
    assert failed(with_bolt(**{name: missing})) == gates


def test_missing_and_not_finite_have_reasons_of_their_own():
    assert evaluate_gates(with_bolt(separation=None), GATES).reasons == ("separation of bolt: not measured",)
    assert evaluate_gates(with_bolt(separation=math.nan), GATES).reasons == ("separation of bolt: not finite (nan)",)
    assert evaluate_gates(with_bolt(separation=0.5), GATES).reasons == ("separation of bolt: 0.5, must be at least 1",)
    assert evaluate_gates(dataclasses.replace(GOOD, latency_ms=150), GATES).reasons == (
        "latency_ms: 150, must be below 150",
    )


def test_an_expected_class_without_evidence_fails_with_every_mean():
    evidence = dataclasses.replace(GOOD, classes=(BOLT,))
    assert failed(evidence) == {("evidence", "nut"), ("mean_auroc", ""), ("mean_drop", "")}


def test_evidence_for_a_class_that_is_not_expected_fails_and_lifts_no_mean():
    low = dataclasses.replace(BOLT, auroc=0.96, legacy_auroc=0.96)
    perfect = dataclasses.replace(NUT, class_name="stranger", auroc=1.0)
    evidence = dataclasses.replace(GOOD, expected=("bolt",), classes=(low, perfect))
    assert failed(evidence) == {("evidence", "stranger"), ("mean_auroc", "")}


def test_no_class_at_all_fails():
    evidence = dataclasses.replace(GOOD, expected=(), classes=())
    assert failed(evidence) == {("classes", ""), ("mean_auroc", ""), ("mean_drop", "")}


def test_a_bound_that_is_not_a_number_lets_nothing_pass():
    for check in (check_above, check_below, check_at_least, check_at_most):
        assert not check("any", 1.0, math.nan).passed


def test_worst_class_comes_first():
    names = ("fine", "weak", "broken", "absent")
    fine, weak = dataclasses.replace(BOLT, class_name="fine"), dataclasses.replace(NUT, class_name="weak", auroc=0.98)
    broken = ClassEvidence(
        "broken", auroc=0.999, legacy_auroc=0.999, separation=0.0, flip_share=0.5, saturation=0.0, **DECIDED
    )
    evidence = dataclasses.replace(GOOD, expected=names, classes=(fine, weak, broken))
    subjects = [check.subject for check in evaluate_gates(evidence, GATES).checks if check.subject]
    assert list(dict.fromkeys(subjects)) == ["absent", "broken", "weak", "fine"]


@pytest.mark.parametrize(
    ("check", "below", "at", "above"),
    [
        (check_at_least, False, True, True),
        (check_above, False, False, True),
        (check_at_most, True, True, False),
        (check_below, True, False, False),
    ],
)
def test_the_four_comparisons_around_their_bound(check, below, at, above):
    assert [check("any", value, 0.5).passed for value in (0.4, 0.5, 0.6)] == [below, at, above]


def test_check_carries_its_numbers():
    assert check_at_least("agreement", 0.9, 0.95, "bolt") == GateCheck(
        "agreement", False, 0.9, 0.95, "min", "bolt", "agreement of bolt: 0.9, must be at least 0.95"
    )
    assert check_at_most("drift", 0.1, 0.2).direction == "max"


def test_verdict_survives_strict_json():
    verdict = evaluate_gates(with_bolt(separation=math.inf, flip_share=None), GATES)
    text = json.dumps(verdict.to_dict(), allow_nan=False)
    assert Verdict.from_dict(json.loads(text)) == verdict


def test_a_verdict_cannot_contradict_its_checks():
    bad = check_at_least("agreement", 0.9, 0.95)
    with pytest.raises(ValueError, match="contradicts"):
        Verdict(True, (bad,))
    with pytest.raises(ValueError, match="contradicts"):
        Verdict(True, ())
    forged = {**Verdict.of([bad]).to_dict(), "passed": True}
    with pytest.raises(ValueError, match="contradicts"):
        Verdict.from_dict(forged)
    assert not Verdict.of([]).passed


def test_per_cent_given_as_a_share_is_refused():
    with pytest.raises(ValueError, match=r"class 'bolt': auroc 98\.5, need a share"):
        dataclasses.replace(BOLT, auroc=98.5)


def test_a_class_given_twice_is_refused():
    with pytest.raises(ValueError, match="occurs twice"):
        dataclasses.replace(GOOD, classes=(BOLT, BOLT))
    with pytest.raises(ValueError, match="occurs twice"):
        dataclasses.replace(GOOD, expected=("bolt", "bolt"))


def test_an_advisory_gate_is_reported_and_does_not_decide():
    advised = GATES.model_copy(update={"advisory": ("flip_share",)})
    flipping = with_bolt(flip_share=0.9)
    verdict = evaluate_gates(flipping, advised)
    assert verdict.passed and any("flip_share of bolt" in reason for reason in verdict.reasons)
    assert not evaluate_gates(flipping, GATES).passed
    assert not evaluate_gates(with_bolt(flip_share=0.9, separation=0.1), advised).passed


def test_advice_alone_is_no_verdict():
    check = dataclasses.replace(check_below("latency_ms", 1.0, 2.0), advisory=True)
    assert not Verdict.of([check]).passed


def test_an_advisory_gate_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="flip_shares"):
        evaluate_gates(GOOD, GATES.model_copy(update={"advisory": ("flip_shares",)}))


def test_a_broken_promise_fails_where_it_is_proven_and_not_by_chance():
    """Promised are 5 %: 8 of 80 may be chance, 10 of 80 are not, and 100 of 1000 are not either."""
    assert failed(with_bolt(false_alarms=8)) == set()
    for false_alarms, num_normal in ((10, 80), (100, 1000)):
        assert failed(with_bolt(false_alarms=false_alarms, num_normal=num_normal)) == {("false_alarms", "bolt")}
    (reason,) = evaluate_gates(with_bolt(false_alarms=10), GATES).reasons
    assert "10 of 80 good images stopped" in reason and "must be at most 0.05" in reason


def test_a_promise_that_nothing_was_measured_of_fails():
    for missing in ({"false_alarms": None}, {"num_normal": 0}, {"target_fpr": None}):
        assert failed(with_bolt(**missing)) == {("false_alarms", "bolt")}
