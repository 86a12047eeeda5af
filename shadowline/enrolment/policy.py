"""The three phases of a new product, chosen by the number of its images.

    phase = choose_phase(num_normals, params.enrolment)
    advice = advise(phase, trial, params.enrolment)

On day 1 it is judged by words only (WinCLIP), then by a handful of normal images, and from `bank_images` on by a bank
and a calibration of its own. Until then a starter model answers, and takes the place of a legacy model in the rollout.
The bounds of the phases and of the deployment rule are `params.yaml`, section `enrolment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shadowline.core.params import EnrolmentParams


class EnrolmentPhase(StrEnum):
    ZERO_SHOT = "zero_shot"  # no image: judged by words alone
    FEW_SHOT = "few_shot"  # a handful of normals: judged by their nearest patches
    BANK = "bank"  # enough for a bank and a calibration: part of the multi-class model


class Advice(StrEnum):
    """What the measured quality of a starter model allows."""

    DEPLOY = "deploy"  # it may answer
    FEW_SHOT = "few_shot"  # words alone do not suffice; a handful of normal images may
    COLLECT = "collect"  # it may not answer; collect images for a bank
    UNMEASURED = "unmeasured"  # nothing speaks for it or against it: it answers, because a product without any image
    # has nothing else, and a person has to look at every part

    @property
    def may_answer(self) -> bool:
        return self in (Advice.DEPLOY, Advice.UNMEASURED)


@dataclass(frozen=True)
class Trial:
    """How well a starter model separates the known images of its class; AUROC is None where they are too few."""

    auroc: float | None
    num_normal: int
    num_anomalous: int
    injected: bool  # the anomalies were injected: no real ones are known

    def __str__(self) -> str:
        if self.auroc is None:
            return "not measured: too few images"
        kind = "injected" if self.injected else "real"
        return f"AUROC {self.auroc:.3f} on {self.num_normal} normal images and {self.num_anomalous} {kind} defects"


def choose_phase(num_normal: int, params: EnrolmentParams) -> EnrolmentPhase:
    """The phase of a class with so many normal images."""
    if num_normal == 0:
        return EnrolmentPhase.ZERO_SHOT
    return EnrolmentPhase.BANK if num_normal >= params.bank_images else EnrolmentPhase.FEW_SHOT


def advise(phase: EnrolmentPhase, trial: Trial, params: EnrolmentParams) -> Advice:
    """The deployment rule: ≥ `min_deploy` deploy, from `min_few_shot` on few-shot, below that collect.

    1. words alone, nothing measured   unmeasured: what was not measured is not advised, and nothing else can answer
    2. images, but not enough to tell  collect: nothing speaks for the model yet
    3. measured                        the rule; a few-shot model below `min_deploy` has no next thing to try
    """
    if trial.auroc is None:
        return Advice.UNMEASURED if phase is EnrolmentPhase.ZERO_SHOT else Advice.COLLECT
    if trial.auroc >= params.min_deploy:
        return Advice.DEPLOY
    tries_next = phase is EnrolmentPhase.ZERO_SHOT and trial.auroc >= params.min_few_shot
    return Advice.FEW_SHOT if tries_next else Advice.COLLECT


def missing_images(num_normal: int, params: EnrolmentParams) -> int:
    """Normal images that the class lacks for the next phase; 0 at the last."""
    phase = choose_phase(num_normal, params)
    if phase is EnrolmentPhase.BANK:
        return 0
    return 1 if phase is EnrolmentPhase.ZERO_SHOT else params.bank_images - num_normal
