"""Train one decoder for many classes on cached features, deterministically and resumably.

    result = Trainer(data, params, spec, seed=7).run(progress, checkpoint)

B images · G groups · T tokens · D width. Every random choice of a step (images, tokens, dropout) is drawn from a
generator seeded by (seed, step). Hence a run that was killed and resumed from a checkpoint continues bit for bit,
and the checkpoint needs no generator state.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from shadowline.core.atomic_files import replace_file
from shadowline.core.params import Params, TrainParams
from shadowline.core.progress import Progress
from shadowline.features.cache import FeatureFile
from shadowline.models.dinomaly.history import TrainingEvaluation, TrainingHistory, TrainingStep
from shadowline.models.dinomaly.loss import loose_cosine_loss
from shadowline.models.dinomaly.model import Decoder, DecoderSpec, reconstruction_map
from shadowline.models.dinomaly.optimizer import StableAdamW
from shadowline.models.dinomaly.schedule import hard_mining_share, learning_rate
from shadowline.models.dinomaly.training_data import ClassData


@dataclass(frozen=True)
class TrainingResult:
    decoder: Decoder  # the weights of the best evaluation, in evaluation mode
    history: TrainingHistory


class Trainer:
    """One decoder, its optimiser and its history; `run` continues from the present step."""

    def __init__(
        self,
        data: Mapping[str, ClassData],
        params: TrainParams,
        spec: DecoderSpec,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        empty = sorted(name for name, class_data in data.items() if not class_data.train or not class_data.val)
        if empty or not data:
            raise ValueError(f"train: classes {empty or '(none)'} have no train or val images; check the manifest")
        self.data, self.params, self.spec, self.seed = dict(sorted(data.items())), params, spec, seed
        self.device = torch.device(device)
        torch.manual_seed(seed)
        self.decoder = spec.build().to(self.device)
        self.optimizer = StableAdamW(self.decoder.named_parameters(), weight_decay=params.weight_decay)
        self.best = _copy_state(self.decoder)
        self.history = TrainingHistory.empty()
        self.step = 0

    # --- one step ----------------------------------------------------------------------------------------------

    def batch(self, step: int) -> Tensor:
        """The fused features of this step's images and tokens: (B, G, T', D). Classes take turns in the slots."""
        random = np.random.default_rng([self.seed, step])
        names = list(self.data)
        order = random.permutation(len(names))
        slots = [names[order[slot % len(names)]] for slot in range(self.params.batch_size)]
        images = []
        for name in dict.fromkeys(slots):
            keys, count = self.data[name].train, slots.count(name)
            chosen = random.choice(len(keys), size=count, replace=count > len(keys))
            images.append(self.data[name].source.fetch([keys[i] for i in chosen]))
        return self._subsample(torch.cat(images), random)

    def _subsample(self, fused_BGTD: Tensor, random: np.random.Generator) -> Tensor:
        """A random `token_fraction` of each image's patch tokens; prefix tokens always stay."""
        B, G, T, D = fused_BGTD.shape
        prefix, num_patches = self.spec.num_prefix, T - self.spec.num_prefix
        kept = max(1, round(num_patches * self.params.token_fraction))
        if kept == num_patches:
            return fused_BGTD
        choice = random.random((B, num_patches)).argsort(axis=1)[:, :kept]
        patches = torch.from_numpy(np.sort(choice, axis=1)) + prefix
        rows_BT = torch.cat([torch.arange(prefix).expand(B, -1), patches], dim=1)
        return fused_BGTD.gather(2, rows_BT[:, None, :, None].expand(B, G, -1, D))

    def train_step(self) -> float:
        """One optimiser step; returns the loss. Raises ValueError when it is not finite."""
        fused = self.batch(self.step).to(self.device)
        torch.manual_seed(_mix(self.seed, self.step))
        self.decoder.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._mixed):
            rebuilt = self.decoder(fused)
        patches = slice(self.spec.num_prefix, None)
        share = hard_mining_share(self.step, self.params)
        loss = loose_cosine_loss(fused[:, :, patches], rebuilt[:, :, patches].float(), share, self.params.hard_factor)
        if not torch.isfinite(loss):
            raise ValueError(f"train: loss is {loss.item()} at step {self.step}; lower train.lr or check the features")
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.decoder.parameters(), self.params.clip_norm)
        self.optimizer.step(learning_rate(self.step, self.params))
        self.step += 1
        return float(loss.detach())

    @property
    def _mixed(self) -> bool:
        wanted = self.params.precision
        return wanted == "bfloat16" or (wanted == "auto" and self.device.type == "cuda")

    # --- the whole run -----------------------------------------------------------------------------------------

    def run(self, progress: Progress, checkpoint: Path | None = None) -> TrainingResult:
        """Train to the last step or to early stopping, saving `checkpoint` on the way and resuming from it."""
        if checkpoint is not None and checkpoint.is_file():
            self.load(checkpoint)
            progress.message(f"train: resumed at step {self.step}")
        with progress.task("train", total=self.params.steps) as task:
            task.advance(self.step)
            while self.step < self.params.steps and self.history.stopped != "early":
                self._advance(progress, checkpoint)
                task.advance(1, note=f"loss {self.history.steps[-1].loss:.4f}")
        self.decoder.load_state_dict(self.best)
        return TrainingResult(self.decoder.eval(), self.history)

    def _advance(self, progress: Progress, checkpoint: Path | None) -> None:
        started, step = time.monotonic(), self.step
        rate = learning_rate(step, self.params)
        loss = self.train_step()
        self.history.steps.append(TrainingStep(step, loss, rate))
        progress.metric("train/loss", loss, step)
        progress.metric("train/lr", rate, step)
        if self.step % self.params.eval_every == 0 or self.step == self.params.steps:
            self._evaluate(progress)
        self.history.seconds += time.monotonic() - started
        if checkpoint is not None and (self.step % self.params.checkpoint_every == 0):
            self.save(checkpoint)

    def _evaluate(self, progress: Progress) -> None:
        """Mean reconstruction distance of val, per class; keeps the best weights, stops when patience is spent."""
        per_class = {name: self.val_loss(name) for name in self.data}
        mean = float(np.mean(list(per_class.values())))
        if not math.isfinite(mean):
            raise ValueError(
                f"train: val loss is {mean} at step {self.step}, per class {per_class}; check the features"
            )
        self.history.evaluations.append(TrainingEvaluation(self.step, mean, per_class))
        progress.metric("val/loss", mean, self.step)
        for name, value in per_class.items():
            progress.metric(f"val/loss/{name}", value, self.step)
        if mean < self.history.best_loss:
            self.history.best_loss, self.history.best_step = mean, self.step
            self.best = _copy_state(self.decoder)
        elif self.history.since_best() >= self.params.patience:
            self.history.stopped = "early"

    @torch.inference_mode()
    def val_loss(self, class_name: str) -> float:
        """Mean over images and patches of the reconstruction map of the class's val images, all tokens."""
        self.decoder.eval()
        data, sums, count = self.data[class_name], 0.0, 0
        for start in range(0, len(data.val), self.params.batch_size):
            fused = data.source.fetch(data.val[start : start + self.params.batch_size]).to(self.device)
            distance_BP = reconstruction_map(fused, self.decoder(fused), self.spec.num_prefix)
            sums, count = sums + float(distance_BP.sum()), count + distance_BP.numel()
        return sums / count

    # --- checkpoints -------------------------------------------------------------------------------------------

    def identity(self) -> str:
        """What a checkpoint must agree on to be resumed: parameters, data, the encoder behind the data, and seed."""
        keys = {
            name: [str(key) for key in (*class_data.train, *class_data.val)] for name, class_data in self.data.items()
        }
        facts = {
            "params": self.params.model_dump(mode="json"),
            "spec": self.spec.__dict__,
            "seed": self.seed,
            "keys": keys,
            "encoders": {name: class_data.source.fingerprint for name, class_data in self.data.items()},
        }
        return json.dumps(facts, sort_keys=True)

    def save(self, path: Path) -> None:
        tensors = {f"decoder.{k}": v for k, v in self.decoder.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizer.state.items()}
        history = json.dumps({**self.history.model_dump(mode="json"), "seconds": self.history.seconds})
        facts = {"step": str(self.step), "identity": self.identity(), "history": history}
        with replace_file(path) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=facts)

    def load(self, path: Path) -> None:
        """Continue from `path`; a checkpoint of other parameters or data is ignored."""
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            if facts["identity"] != self.identity():
                return
            tensors = {name: file.get_tensor(name).to(self.device) for name in file.keys()}  # noqa: SIM118
        self.decoder.load_state_dict(_below(tensors, "decoder."))
        self.best = _below(tensors, "best.")
        for name, value in _below(tensors, "optimizer.").items():
            self.optimizer.state[name].copy_(value)
        self.step = self.optimizer.steps = int(facts["step"])
        self.history = TrainingHistory.parse(facts["history"], str(path))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _copy_state(decoder: Decoder) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in decoder.state_dict().items()}


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed out of two integers."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def decoder_spec(features: FeatureFile, params: Params) -> DecoderSpec:
    """The decoder that fits these features."""
    _, G, _, D = features.shape
    return DecoderSpec(
        width=D,
        num_groups=G,
        num_prefix=features.num_prefix,
        num_blocks=params.train.decoder_blocks,
        dropout=params.train.dropout,
    )
