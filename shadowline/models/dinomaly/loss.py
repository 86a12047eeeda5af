"""Loose reconstruction: a global cosine loss whose gradient is shrunk at points that are already easy.

B images · G groups · P patch tokens · D width. Source: arXiv 2405.14325 §3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def loose_cosine_loss(target_BGPD: Tensor, rebuilt_BGPD: Tensor, easy_share: float, easy_factor: float) -> Tensor:
    """Mean over groups of 1 − cosine between each image's whole group feature, flattened over patches.

    Per group, the `easy_share` of all points of the batch with the smallest point-wise cosine distance pass back
    only `easy_factor` of their gradient; the loss value itself is unchanged.
    """
    terms = []
    for group in range(target_BGPD.shape[1]):
        target, rebuilt = target_BGPD[:, group].detach(), rebuilt_BGPD[:, group]
        scale = _gradient_scale(target, rebuilt.detach(), easy_share, easy_factor)
        if rebuilt.requires_grad:
            rebuilt = _scale_gradient(rebuilt, scale)
        terms.append((1.0 - functional.cosine_similarity(target.flatten(1), rebuilt.flatten(1), dim=1)).mean())
    return torch.stack(terms).mean()


def _gradient_scale(target_BPD: Tensor, rebuilt_BPD: Tensor, easy_share: float, easy_factor: float) -> Tensor:
    """1 at hard points, `easy_factor` at easy ones: (B, P, 1)."""
    distance_BP = 1.0 - functional.cosine_similarity(target_BPD, rebuilt_BPD, dim=-1)
    num_hard = max(1, int(distance_BP.numel() * (1.0 - easy_share)))
    bound = distance_BP.flatten().topk(num_hard).values[-1]
    return torch.where(distance_BP < bound, easy_factor, 1.0).unsqueeze(-1)


def _scale_gradient(x: Tensor, scale: Tensor) -> Tensor:
    """`x` itself in the forward pass; its gradient times `scale` in the backward pass."""
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient * scale)
    return x
