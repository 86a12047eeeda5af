"""Measures speed and memory, as ratios against a baseline that runs on the same machine.

bench_training(params, layout, progress)   # cached against encoder in the loop; token fractions
bench_memory(params, layout)               # one inspector for many classes against as many PatchCores
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.images import open_within
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import class_bit_depth, read_manifest
from shadowline.evaluation.metrics import auroc, bootstrap
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.encoder import Encoder, load_encoder
from shadowline.features.keys import ids_of
from shadowline.models.dinomaly.model import reconstruction_map
from shadowline.models.dinomaly.training import Trainer, decoder_spec
from shadowline.models.dinomaly.training_data import ClassData, class_data
from shadowline.models.inspector import Inspector
from shadowline.models.patchcore.detector import PatchCore

_TOP_SHARE = 0.01  # of the map, for the AUROC of the decoder alone


class EncoderSource:
    """Fused features computed by the encoder at each fetch: training without a cache."""

    def __init__(self, class_name: str, encoder: Encoder, params: Params, layout: Layout) -> None:
        manifest = read_manifest([layout.manifest(class_name)])
        self._paths = dict(zip(manifest["image_id"], manifest["path"], strict=True))
        self._bit_depth = class_bit_depth(manifest) or FULL_DEPTH
        self._encoder, self._params, self._layout = encoder, params, layout
        self.fingerprint = encoder.config.fingerprint

    def fetch(self, keys: Sequence[FeatureKey]) -> Tensor:
        return self._encoder.encode([self._read(key) for key in keys])

    def _read(self, key: FeatureKey) -> Image.Image:
        return open_within(self._layout.root / self._paths[key.image_id], self._params.data, self._bit_depth)


@dataclass(frozen=True)
class TrainingSpeed:
    """One way of training, measured beside the others."""

    name: str
    seconds_per_step: float  # median
    steps: int  # that were timed
    auroc: float | None  # mean over classes, of the decoder alone, after these steps
    seconds_to_target: float | None  # of training until the mean AUROC reached the target; None: not reached


def bench_training(
    params: Params, layout: Layout, progress: Progress, *, steps: int, target: float
) -> list[TrainingSpeed]:
    """Token fractions 1.0, 0.5 and 0.25 on the cache to `target` AUROC or `steps`, then the encoder in the loop.

    With the same seed the encoder in the loop takes the same steps to the same weights (a test proves it), so a few
    of its steps are timed and its time to the target is the cached run's number of steps at its own speed.
    """
    cached = {name: class_data(name, params, layout) for name in params.train.classes}
    results = []
    for fraction in (1.0, 0.5, 0.25):
        results.append(
            _train_cached(
                f"cached, token_fraction {fraction:g}", cached, fraction, params, layout, progress, steps, target
            )
        )
    encoder = load_encoder(layout.encoder, pick_device())
    looped = {name: replace(data, source=EncoderSource(name, encoder, params, layout)) for name, data in cached.items()}
    trainer = _trainer(looped, 0.25, params, layout, steps)
    seconds = _time_steps(trainer, 4)
    per_step = float(np.median(seconds))
    reference = results[-1]
    to_target = (
        None
        if reference.seconds_to_target is None
        else per_step * reference.seconds_to_target / reference.seconds_per_step
    )
    results.append(TrainingSpeed("encoder in the loop, token_fraction 0.25", per_step, len(seconds), None, to_target))
    return results


def _train_cached(
    name: str,
    data: Mapping[str, ClassData],
    fraction: float,
    params: Params,
    layout: Layout,
    progress: Progress,
    steps: int,
    target: float,
) -> TrainingSpeed:
    trainer = _trainer(data, fraction, params, layout, steps)
    seconds: list[float] = []
    reached: float | None = None
    score = 0.0
    with progress.task(name, total=steps) as task:
        while trainer.step < steps:
            seconds += _time_steps(trainer, min(params.train.eval_every, steps - trainer.step))
            score = decoder_auroc(trainer, params, layout)
            task.advance(min(params.train.eval_every, steps), note=f"AUROC {score:.3f}")
            if reached is None and score >= target:
                reached = sum(seconds)
    return TrainingSpeed(name, float(np.median(seconds)), len(seconds), score, reached)


def _trainer(data: Mapping[str, ClassData], fraction: float, params: Params, layout: Layout, steps: int) -> Trainer:
    spec = decoder_spec(FeatureFile(layout.features(params.train.classes[0])), params)
    train = params.train.model_copy(update={"token_fraction": fraction, "steps": steps})
    return Trainer(data, train, spec, seed=params.seed, device=pick_device())


def _time_steps(trainer: Trainer, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        trainer.train_step()
        seconds.append(time.perf_counter() - started)
    return seconds


@torch.inference_mode()
def decoder_auroc(trainer: Trainer, params: Params, layout: Layout) -> float:
    """Mean over classes of the image AUROC that the decoder alone reaches on test, all tokens, top 1 % of the map."""
    trainer.decoder.eval()
    aurocs = []
    for name in trainer.data:
        manifest = read_manifest([layout.manifest(name)]).set_index("image_id")
        ids = ids_of(manifest.reset_index(), Split.TEST)
        features = FeatureFile(layout.features(name))
        maps = []
        for start in range(0, len(ids), params.train.batch_size):
            fused = features.fetch(
                [FeatureKey(image_id) for image_id in ids[start : start + params.train.batch_size]]
            ).to(trainer.device)
            maps.append(reconstruction_map(fused, trainer.decoder(fused), features.num_prefix).cpu())
        top = max(1, round(_TOP_SHARE * maps[0].shape[1]))
        scores = torch.cat(maps).topk(top, dim=1).values.mean(dim=1).numpy()
        anomalous = (manifest.loc[ids, "label"] == Label.ANOMALOUS).to_numpy()
        aurocs.append(bootstrap(auroc, scores, anomalous, resamples=1, confidence=0.5, seed=0).value)
    return float(np.mean(aurocs))


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of weights, 10⁶, for a number of classes."""

    num_classes: int
    encoder_mb: float
    decoder_mb: float
    banks_mb: float
    patchcores_mb: float  # as many single-class models

    @property
    def total_mb(self) -> float:
        return self.encoder_mb + self.decoder_mb + self.banks_mb


def bench_memory(params: Params, layout: Layout, num_classes: int) -> MemoryUse:
    """The packaged inspector and the legacy models, both extended to `num_classes` of their mean size per class."""
    parts = Inspector.load(layout.package).memory_mb
    legacy = [PatchCore.load(layout.legacy(name)).memory_bytes / 1e6 for name in params.classes]
    return MemoryUse(
        num_classes=num_classes,
        encoder_mb=parts["encoder_mb"],
        decoder_mb=parts["decoder_mb"],
        banks_mb=parts["banks_mb"] / len(params.classes) * num_classes,
        patchcores_mb=float(np.mean(legacy)) * num_classes,
    )
