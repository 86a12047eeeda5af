"""StableAdamW: AdamW with AMSGrad whose step shrinks when the second moment lags behind the gradient.

Source: Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
arXiv 2304.13013, algorithm 2 (update clipping by the root mean square of grad / √v); AMSGrad: Reddi et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class StableAdamW:
    """Steps named parameters in place; its whole state is a flat dict of tensors, so checkpoints need no pickle."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-10,
    ) -> None:
        self.parameters = dict(parameters)
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        self.steps = 0
        self.state = {
            f"{moment}.{name}": torch.zeros_like(parameter)
            for moment in ("mean", "square", "max_square")
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update with learning rate `lr`; parameters without a gradient stay."""
        self.steps += 1
        beta1, beta2 = self.betas
        correction1, correction2 = 1.0 - beta1**self.steps, 1.0 - beta2**self.steps
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            mean, square, max_square = (self.state[f"{m}.{name}"] for m in ("mean", "square", "max_square"))
            parameter.mul_(1.0 - lr * self.weight_decay)
            mean.lerp_(gradient, 1.0 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
            torch.maximum(max_square, square, out=max_square)
            denominator = (max_square.sqrt() / math.sqrt(correction2)).add_(self.eps)
            clip = max(1.0, _rms(gradient / denominator))
            parameter.addcdiv_(mean, denominator, value=-lr / correction1 / clip)

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None


def _rms(values: Tensor) -> float:
    return float(values.norm(2)) / math.sqrt(values.numel())
