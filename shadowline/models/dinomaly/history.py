"""`history.json`: what happened during the training of the decoder; also a part of the checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AllowInfNan, ConfigDict, Field

from shadowline.core.artifacts import Artifact


@dataclass(frozen=True)
class TrainingStep:
    step: int
    loss: float
    lr: float


@dataclass(frozen=True)
class TrainingEvaluation:
    step: int
    val_loss: float  # mean over the classes
    per_class: dict[str, float]


class TrainingHistory(Artifact):
    """Extended by the trainer at each step. The file is the same on every machine: `seconds` is not written to it."""

    model_config = ConfigDict(frozen=False)

    steps: list[TrainingStep]
    evaluations: list[TrainingEvaluation]
    best_step: int
    best_loss: Annotated[float, AllowInfNan(True)]  # infinite before the first evaluation
    stopped: Literal["finished", "early"]
    seconds: float = Field(default=0.0, exclude=True)  # of training, resumed parts included; in the checkpoint alone

    @classmethod
    def empty(cls) -> TrainingHistory:
        return cls(steps=[], evaluations=[], best_step=0, best_loss=math.inf, stopped="finished")

    def since_best(self) -> int:
        """Number of evaluations after the best one."""
        return sum(evaluation.step > self.best_step for evaluation in self.evaluations)
