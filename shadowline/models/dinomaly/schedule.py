"""What changes with the optimiser step: the learning rate and the share of easy points. Steps, never epochs."""

from __future__ import annotations

import math

from shadowline.core.params import TrainParams


def learning_rate(step: int, params: TrainParams) -> float:
    """Linear warm-up, then cosine. lr(0) > 0, lr(warmup_steps) == lr, lr(steps − 1) == final_lr."""
    if step < params.warmup_steps:
        return params.lr * (step + 1) / (params.warmup_steps + 1)
    span = max(1, params.steps - 1 - params.warmup_steps)
    progress = min(1.0, (step - params.warmup_steps) / span)
    return params.final_lr + 0.5 * (params.lr - params.final_lr) * (1.0 + math.cos(math.pi * progress))


def hard_mining_share(step: int, params: TrainParams) -> float:
    """Share of points whose gradient is shrunk: 0 at the first step, hard_final_share after the ramp."""
    return params.hard_final_share * min(1.0, step / params.hard_ramp_steps)
