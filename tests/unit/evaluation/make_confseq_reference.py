"""Write `confseq_reference.json`: wealth and intervals of confseq, which `test_sequential.py` compares with ours.

    python tests/unit/evaluation/make_confseq_reference.py

Needs confseq 0.0.11 (the implementation of Waudby-Smith and Ramdas, the authors of the method), which is not among
this project's dependencies since it must be compiled against Boost; its module `betting` is pure Python. Its sources
on PYTHONPATH, NumPy, SciPy, matplotlib and multiprocess are enough, in an environment of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).with_name("confseq_reference.json")
LARGEST_BET, NUM_BETS = 0.95, 10
NUM_STEPS, ALPHA, BREAKS = 120, 0.05, 1_000
CASES = {  # name → probabilities of the values 0, 1/2, 1, and the bounds
    "rare alarms": ((0.98, 0.0, 0.02), (0.01, 0.05)),
    "a bound far below the mean": ((0.70, 0.0, 0.30), (0.05, 0.10)),
    "a fair coin": ((0.50, 0.0, 0.50), (0.50, 0.90)),
    "nearly always": ((0.04, 0.0, 0.96), (0.90, 0.99)),
    "fewer, same, more": ((0.05, 0.90, 0.05), (0.45, 0.55)),
    "mostly fewer": ((0.30, 0.60, 0.10), (0.30, 0.50)),
}

Stakes = Callable[[np.ndarray, float], np.ndarray]


def stakes(number: int, *, mirrored: bool) -> Stakes:
    """A constant bet: 0.95 · 2^(−number) of the largest that one worst observation survives."""

    def constant(x: np.ndarray, m: float) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.full(len(x), np.divide(LARGEST_BET * 0.5**number, 1.0 - m if mirrored else m))

    return constant


def reference(x: np.ndarray, bounds: tuple[float, ...]) -> dict[str, Any]:
    np.float_ = np.float64  # confseq 0.0.11 was written for NumPy 1
    from confseq.betting import betting_cs, diversified_betting_mart

    upward = [stakes(number, mirrored=False) for number in range(NUM_BETS)]
    downward = [stakes(number, mirrored=True) for number in range(NUM_BETS)]
    wealth = {
        str(bound): diversified_betting_mart(x, bound, upward, theta=1, trunc_scale=LARGEST_BET) for bound in bounds
    }
    same = betting_cs(x, upward, downward, alpha=ALPHA, breaks=BREAKS, trunc_scale=LARGEST_BET)
    usual = betting_cs(x, alpha=ALPHA, breaks=BREAKS)
    return {
        "halves": (2 * x).astype(int).tolist(),
        "wealth": {bound: [float(f"{value:.12g}") for value in steps] for bound, steps in wealth.items()},
        "same_bets": [float(side[-1]) for side in same],  # at the last step
        "predictable_plug_in": [float(side[-1]) for side in usual],
    }


def main() -> None:
    rng = np.random.default_rng(20260105)
    drawn = {name: rng.choice([0.0, 0.5, 1.0], size=NUM_STEPS, p=share) for name, (share, _) in CASES.items()}
    cases = {name: reference(drawn[name], bounds) for name, (_, bounds) in CASES.items()}
    header = {"confseq": "0.0.11", "alpha": ALPHA, "breaks": BREAKS}
    TARGET.write_text(json.dumps({**header, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
