"""What changes with the step: pinned at three points, then for every legal choice of parameters."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fixtures.learning import train_params
from shadowline.core.params import TrainParams
from shadowline.models.dinomaly.schedule import hard_mining_share, learning_rate

PARAMS = train_params(steps=1000, warmup_steps=100, lr=2e-3, final_lr=2e-4, hard_final_share=0.9, hard_ramp_steps=400)


@st.composite
def any_params(draw: st.DrawFn) -> TrainParams:
    """Any legal length, warm-up and rates that fall, with room for a cosine between its two ends."""
    steps = draw(st.integers(3, 5000))
    lr = draw(st.floats(1e-6, 1.0))
    return train_params(
        steps=steps,
        warmup_steps=draw(st.integers(0, steps - 2)),
        lr=lr,
        final_lr=lr * draw(st.floats(1e-3, 1.0)),
        hard_ramp_steps=draw(st.integers(1, 5000)),
        hard_final_share=draw(st.floats(0.0, 1.0)),
    )


def test_learning_rate_at_three_points():
    assert learning_rate(0, PARAMS) > 0
    assert learning_rate(PARAMS.warmup_steps, PARAMS) == PARAMS.lr
    assert learning_rate(PARAMS.steps - 1, PARAMS) == pytest.approx(PARAMS.final_lr, rel=1e-12)


def test_learning_rate_halfway_down_the_cosine():
    """cos(π/2) = 0: the mean of both rates; and the last step of the warm-up is one rung below the top."""
    halved = train_params(steps=901, warmup_steps=100, lr=2e-3, final_lr=2e-4)
    assert learning_rate(500, halved) == pytest.approx(1.1e-3, rel=1e-12)
    assert learning_rate(99, halved) == pytest.approx(2e-3 * 100 / 101, rel=1e-12)


def test_easy_share_at_three_points():
    assert hard_mining_share(0, PARAMS) == 0.0
    assert hard_mining_share(200, PARAMS) == pytest.approx(0.45)
    assert hard_mining_share(400, PARAMS) == hard_mining_share(999, PARAMS) == 0.9


@given(params=any_params())
def test_the_rate_starts_above_zero_reaches_lr_and_ends_at_the_floor(params):
    assert 0 < learning_rate(0, params) <= params.lr * (1 + 1e-12)
    assert learning_rate(params.warmup_steps, params) == pytest.approx(params.lr, rel=1e-12)
    assert learning_rate(params.steps - 1, params) == pytest.approx(params.final_lr, rel=1e-9)
    assert learning_rate(params.steps + 7, params) == pytest.approx(params.final_lr, rel=1e-9)


@given(params=any_params(), step=st.integers(0, 5000))
def test_the_rate_rises_in_the_warm_up_and_falls_after_it(params, step):
    assume(step + 1 < params.steps)
    here, next_ = learning_rate(step, params), learning_rate(step + 1, params)
    if step < params.warmup_steps:
        assert here < next_
    else:
        assert here >= next_ or math.isclose(here, next_)


@given(params=any_params(), step=st.integers(0, 5000))
def test_the_easy_share_rises_to_its_end_and_stays(params, step):
    share = hard_mining_share(step, params)
    assert 0 <= share <= hard_mining_share(step + 1, params) <= params.hard_final_share
    if step >= params.hard_ramp_steps:
        assert share == params.hard_final_share
