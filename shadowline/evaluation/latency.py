"""How long one image takes, measured so that other work on the machine does not count.

    reference = ReferenceWorkload(device)
    latency = measure_latency(time_round, params.latency)     # `time_round` gives one round of `time_image`
    latency.idle_p95_ms                                       # what the gate judges
    latency.p95_ms                                            # as it was on the clock

Latency is a fact of the machine and of the moment. Before every image a fixed reference workload is timed, in the same
process and on the same device, so that what slows one slows the other. With c_ij the time of image j in round i and
r_ij that of the reference just before it:

    idle p95 = P95 over j of (median over i of c_ij / r_ij)  ×  P10 of all r_ij

The median of paired ratios is untouched by a burst of other work in less than half of the rounds. The low quantile of
the reference is its time on an idle machine: other work only ever adds time, so low order statistics are the robust
estimate of a benchmark (Chen and Revels, "Robust benchmarking in noisy environments", arXiv 1608.04295, take the
minimum; the tenth percentile keeps a single clock error out).

Where other work runs all the time no image sees an idle machine. Two signs show it: the spread of the reference's
times (75th / 25th percentile), and the share of its wall time during which its thread ran at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shadowline.core.params import LatencyParams

Clock = Callable[[], float]  # seconds
Work = Callable[[], object]

_IDLE_PERCENTILE = 10


@dataclass(frozen=True)
class Timing:
    """One image, and the reference just before it."""

    image: str  # the same in every round
    reference_ms: float
    reference_running_ms: float  # CPU time of the thread in the meantime
    candidate_ms: float
    legacy_ms: float


@dataclass(frozen=True)
class Latency:
    """The result of one attempt; all times are of single images."""

    p50_ms: float  # on the clock
    p95_ms: float
    legacy_p50_ms: float
    legacy_p95_ms: float
    idle_p95_ms: float  # what 95 % of the images take at most where nothing else runs
    ratio_p95: float  # the same as a multiple of the reference's time
    reference_idle_ms: float
    reference_spread: float  # 75th / 25th percentile
    running_share: float  # of the reference's time that its thread ran
    num_timings: int
    num_attempts: int
    reliable: bool  # False: other work ran all the time, and idle_p95_ms says little

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def time_image(
    image: str,
    reference: Work,
    candidate: Work,
    legacy: Work,
    wall: Clock = time.perf_counter,
    running: Clock = time.thread_time,
) -> Timing:
    """Time the reference, then the candidate, then the legacy model, each once."""
    ran, started = running(), wall()
    reference()
    referred, ran_to = wall(), running()
    candidate()
    judged = wall()
    legacy()
    ended = wall()
    return Timing(
        image=image,
        reference_ms=1000 * (referred - started),
        reference_running_ms=1000 * (ran_to - ran),
        candidate_ms=1000 * (judged - referred),
        legacy_ms=1000 * (ended - judged),
    )


def measure_latency(take_round: Callable[[], Iterable[Timing]], params: LatencyParams) -> Latency:
    """Attempts of `rounds` rounds until one was not disturbed; after `attempts` the least disturbed one, not reliable.

    `take_round` times every image once.
    """
    tried: list[Latency] = []
    for number in range(1, params.attempts + 1):
        timings = [timing for _ in range(params.rounds) for timing in take_round()]
        tried.append(estimate(timings, params, number))
        if tried[-1].reliable:
            return tried[-1]
    return max(tried, key=lambda latency: latency.running_share)


def estimate(timings: Sequence[Timing], params: LatencyParams, num_attempts: int = 1) -> Latency:
    """The formula at the top of this file; raises ValueError where nothing was timed."""
    if not timings:
        raise ValueError("latency: no image was timed; a class needs test images, see data/manifest")
    candidate = [timing.candidate_ms for timing in timings]
    legacy = [timing.legacy_ms for timing in timings]
    reference = [timing.reference_ms for timing in timings]
    spread = _percentile(reference, 75) / _percentile(reference, 25)
    running_share = sum(timing.reference_running_ms for timing in timings) / sum(reference)
    ratio_p95, idle_ms = _ratio_p95(timings), _percentile(reference, _IDLE_PERCENTILE)
    return Latency(
        p50_ms=_percentile(candidate, 50),
        p95_ms=_percentile(candidate, 95),
        legacy_p50_ms=_percentile(legacy, 50),
        legacy_p95_ms=_percentile(legacy, 95),
        idle_p95_ms=ratio_p95 * idle_ms,
        ratio_p95=ratio_p95,
        reference_idle_ms=idle_ms,
        reference_spread=spread,
        running_share=running_share,
        num_timings=len(timings),
        num_attempts=num_attempts,
        reliable=spread <= params.max_spread and running_share >= params.min_running_share,
    )


def _ratio_p95(timings: Sequence[Timing]) -> float:
    """95th percentile over the images of the median over the rounds."""
    ratios: dict[str, list[float]] = {}
    for timing in timings:
        ratios.setdefault(timing.image, []).append(timing.candidate_ms / timing.reference_ms)
    return _percentile([float(np.median(of_image)) for of_image in ratios.values()], 95)


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))
