"""`shadowline bench rollout`: what it tells while it works, and what it counts."""

from __future__ import annotations

import pytest

from fixtures.heard import Heard
from shadowline.benchmarks import rollout
from shadowline.benchmarks.rollout import error_rates, power
from shadowline.core.params import Params
from shadowline.core.progress import Progress


def test_each_cell_of_the_power_table_is_told_when_it_is_finished(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_value = {"DEFECT_RATES": (0.05,), "LOST_SHARES": (1.0,), "REVIEW_SHARES": (0.0,), "PARTS_PER_DAY": (1_000,)}
    for name, values in one_value.items():
        monkeypatch.setattr(rollout, name, values)
    heard = Heard()
    beside, alone = power(params, heard, num_seeds=1)
    assert (beside.beside_legacy, beside.num_stopped, alone.beside_legacy) == (True, 1, False)
    assert [told.partition(": ")[0] for told in heard.lines] == [
        "beside the legacy model, 1000 parts a day, 5.0% defects, 100% of them lost, 0% reviewed",
        "without a legacy model, 1000 parts a day, 5.0% defects, 100% of them lost, 0% reviewed",
    ]
    assert heard.lines[0].endswith(f": 1 of 1 stopped, 0 passed, median {beside.median_days:.1f} days")


def test_equal_candidates_that_are_stopped_are_counted_in_one_rate(params: Params) -> None:
    """A bound of false alarms that every candidate crosses makes each of them one that is stopped."""
    strict = params.rollout.guards.false_alarms.model_copy(update={"bound": 0.0001})
    guards = params.rollout.guards.model_copy(update={"false_alarms": strict})
    stopping = params.model_copy(update={"rollout": params.rollout.model_copy(update={"guards": guards})})
    for policy, num_stopped in ((params, 0), (stopping, 3)):
        stopped, passes = error_rates(policy, Progress(), num_rollouts=3, num_days=40)
        assert (stopped.num_wrong, stopped.num_rollouts, stopped.promised) == (
            num_stopped,
            3,
            params.rollout.stop_error,
        )
        assert (passes.num_wrong, passes.num_rollouts) == (0, 1)
