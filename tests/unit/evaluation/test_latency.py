"""Latency beside a reference: the arithmetic on made-up clocks, and the verdict on a machine that is really busy."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from shadowline.core.params import LatencyParams, Params
from shadowline.evaluation.gates import GateCheck, GateEvidence, evaluate_gates
from shadowline.evaluation.latency import Latency, Timing, estimate, measure_latency, time_image
from shadowline.evaluation.reference_workload import ReferenceWorkload

LIMITS = LatencyParams(rounds=3, attempts=3, max_spread=1.25, min_running_share=0.9)
IMAGES = [f"{number:02d}.png" for number in range(10)]


def timings(reference: Sequence[float], ratios: Sequence[float], running: float = 1.0) -> list[Timing]:
    """One round per reference time, of as many images as ratios; the candidate takes `ratio` references."""
    return [
        Timing(IMAGES[j], time_ms, running * time_ms, ratio * time_ms, 2.0 * time_ms)
        for time_ms in reference
        for j, ratio in enumerate(ratios)
    ]


class Clock:
    """Each reading is the next of the given seconds."""

    def __init__(self, *seconds: float) -> None:
        self._left = list(seconds)

    def __call__(self) -> float:
        return self._left.pop(0)


class TestTheArithmetic:
    def test_the_clocks_are_read_around_each_workload_in_order(self) -> None:
        order: list[str] = []
        timing = time_image(
            "a.png",
            lambda: order.append("reference"),
            lambda: order.append("candidate"),
            lambda: order.append("legacy"),
            wall=Clock(10.0, 10.02, 10.1, 10.4),
            running=Clock(1.0, 1.015),
        )
        assert order == ["reference", "candidate", "legacy"]
        times = (timing.reference_ms, timing.reference_running_ms, timing.candidate_ms, timing.legacy_ms)
        assert times == pytest.approx((20.0, 15.0, 80.0, 300.0))

    def test_on_an_idle_machine_the_estimate_is_the_time_on_the_clock(self) -> None:
        found = estimate(timings([10.0] * 3, [4.0] * 10), LIMITS)
        assert (found.idle_p95_ms, found.p95_ms, found.p50_ms) == pytest.approx((40.0, 40.0, 40.0))
        assert (found.legacy_p95_ms, found.reference_idle_ms, found.reference_spread) == pytest.approx((20, 10, 1))
        assert (found.num_timings, found.reliable) == (30, True)

    def test_it_is_the_95th_percentile_over_images_of_the_median_over_rounds(self) -> None:
        ratios = [float(number) for number in range(1, 11)]
        found = estimate(timings([10.0, 10.0, 10.0], ratios), LIMITS)
        assert found.ratio_p95 == pytest.approx(np.percentile(ratios, 95))
        assert found.idle_p95_ms == pytest.approx(10 * np.percentile(ratios, 95))

    def test_what_slows_reference_and_candidate_alike_does_not_count(self) -> None:
        rng = np.random.default_rng(3)
        slow = 10.0 * rng.uniform(1.0, 5.0, size=9)  # each of nine rounds slowed by another factor
        found = estimate(timings([10.0, 10.0, *slow], [4.0] * 10), LIMITS)
        assert found.ratio_p95 == pytest.approx(4.0)
        assert found.idle_p95_ms < 1.1 * 40.0 < found.p95_ms

    def test_a_burst_in_one_of_three_rounds_does_not_count(self) -> None:
        disturbed = [
            Timing(timing.image, 10.0, 10.0, 400.0 if number < 10 else 40.0, 20.0)
            for number, timing in enumerate(timings([10.0] * 3, [4.0] * 10))
        ]
        found = estimate(disturbed, LIMITS)
        assert (found.idle_p95_ms, found.p95_ms) == pytest.approx((40.0, 400.0))
        assert found.reliable

    @pytest.mark.parametrize(
        ("reference", "running", "reliable"),
        [
            ([10.0, 10.0, 12.4], 1.0, True),
            ([10.0, 13.0, 13.0], 1.0, False),  # spread 1.3
            ([20.0, 20.0, 20.0], 0.5, False),  # steadily half of the processor: the spread shows nothing
            ([20.0, 20.0, 20.0], 0.9, True),
        ],
    )
    def test_spread_and_running_share_say_when_the_machine_was_busy(
        self, reference: list[float], running: float, reliable: bool
    ) -> None:
        assert estimate(timings(reference, [4.0] * 10, running), LIMITS).reliable is reliable

    def test_nothing_timed_is_an_error_that_names_the_way_out(self) -> None:
        with pytest.raises(ValueError, match="no image was timed; a class needs test images"):
            estimate([], LIMITS)


class TestTheAttempts:
    def test_a_quiet_machine_is_measured_once(self) -> None:
        rounds = iter([timings([10.0], [4.0] * 10) for _ in range(9)])
        found = measure_latency(lambda: next(rounds), LIMITS)
        assert (found.num_attempts, found.num_timings, len(list(rounds))) == (1, 30, 6)

    def test_a_busy_one_again_until_it_is_quiet(self) -> None:
        rounds = iter(timings([10.0], [4.0] * 10, running) for running in (0.5,) * 3 + (1.0,) * 3)
        found = measure_latency(lambda: next(rounds), LIMITS)
        assert (found.num_attempts, found.reliable) == (2, True)

    def test_and_in_the_end_the_least_disturbed_attempt_is_kept_and_called_unreliable(self) -> None:
        shares = (0.5, 0.5, 0.5, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6)
        rounds = iter(timings([10.0], [4.0] * 10, running) for running in shares)
        found = measure_latency(lambda: next(rounds), LIMITS)
        assert (found.running_share, found.reliable) == (pytest.approx(0.7), False)


def latency_check(latency: Latency, params: Params, bound: float) -> GateCheck:
    gates = params.gates.model_copy(update={"max_latency_ms": bound})
    evidence = GateEvidence(
        expected=(),
        classes=(),
        memory_mb=1.0,
        latency_ms=latency.idle_p95_ms,
        raw_latency_ms=latency.p95_ms,
        latency_reliable=latency.reliable,
    )
    (check,) = [check for check in evaluate_gates(evidence, gates).checks if check.name == "latency_ms"]
    return check


class TestTheGate:
    def test_a_reliable_measurement_is_judged_by_the_idle_estimate_and_names_the_raw_one(self, params: Params) -> None:
        latency = estimate(timings([10.0] * 9 + [90.0], [4.0] * 10), LIMITS)
        check = latency_check(latency, params, 150)
        assert latency.p95_ms > 150 and check.passed
        assert (check.measured, check.reason) == (
            pytest.approx(40.0),
            "latency_ms: 40, must be below 150 (360 on the clock)",
        )

    def test_a_model_that_is_too_slow_on_a_quiet_machine_fails(self, params: Params) -> None:
        check = latency_check(estimate(timings([10.0] * 3, [16.0] * 10), LIMITS), params, 150)
        assert not check.passed
        assert check.reason == "latency_ms: 160, must be below 150 (160 on the clock)"

    def test_what_is_fast_enough_beside_other_work_is_fast_enough(self, params: Params) -> None:
        check = latency_check(estimate(timings([10.0] * 3, [14.0] * 10, 0.5), LIMITS), params, 150)
        assert (check.passed, check.measured) == (True, pytest.approx(140.0))
        assert "measured while other work ran" in check.reason

    def test_otherwise_it_counts_as_not_measured_and_says_what_to_do(self, params: Params) -> None:
        check = latency_check(estimate(timings([10.0] * 3, [16.0] * 10, 0.5), LIMITS), params, 150)
        assert (check.passed, check.measured) == (False, None)
        assert check.reason == (
            "latency_ms: not measured reliably, other work ran on this machine (160 on the clock, must be below 150); "
            "run `shadowline retrain --remeasure` when it is quiet"
        )


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    processes = [multiprocessing.get_context("fork").Process(target=_spin, daemon=True) for _ in range(num_processes)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_on_a_machine_that_is_really_busy_the_verdict_is_the_idle_one_or_unreliable(params: Params) -> None:
    """Two busy processes beside this one, whatever else runs here already."""
    reference, matrix = ReferenceWorkload(torch.device("cpu")), torch.randn(512, 512)

    def candidate() -> float:
        return float((matrix @ matrix @ matrix).sum())

    def take_round() -> Iterator[Timing]:
        for image in IMAGES[:4]:
            yield time_image(image, reference, candidate, candidate)

    limits = LIMITS.model_copy(update={"attempts": 1})
    idle = measure_latency(take_round, limits)
    with busy(2):
        loaded = measure_latency(take_round, limits)
    for latency in (idle, loaded):
        enough = latency_check(latency, params, 3 * idle.idle_p95_ms)
        assert enough.passed or "not measured reliably" in enough.reason
        assert not latency_check(latency, params, 1e-3).passed


def test_the_reference_is_the_same_for_every_version() -> None:
    first, second = ReferenceWorkload(torch.device("cpu")), ReferenceWorkload(torch.device("cpu"))
    assert first() == second()
