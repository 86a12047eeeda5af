"""`cost.json`: memory and latency of the packaged model, apart from the gates: a new bound needs no new measurement."""

from __future__ import annotations

from dataclasses import dataclass

from shadowline.core.artifacts import Artifact
from shadowline.evaluation.latency import Latency


@dataclass(frozen=True)
class Memory:
    """Weights by part, 10⁶ bytes."""

    encoder_mb: float
    decoder_mb: float
    banks_mb: float
    identities_mb: float
    total_mb: float
    legacy_total_mb: float  # all single-class models together


class Cost(Artifact):
    memory: Memory
    latency: Latency
