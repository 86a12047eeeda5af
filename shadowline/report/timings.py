"""`timings.json`: how long each stage took when it last ran; written after a retraining, shown in the report."""

from __future__ import annotations

from dataclasses import dataclass

from shadowline.core.artifacts import Artifact


@dataclass(frozen=True)
class StageTiming:
    name: str
    seconds: float  # of its last run that was not skipped
    skipped: bool  # in the last retraining


class Timings(Artifact):
    stages: tuple[StageTiming, ...]
