"""WinCLIP: a detector for a product without any training images (Jeong et al., CVPR 2023, arXiv 2303.14814).

    clip = load_clip(params.zero_shot, Path())
    detector = WinClip.from_words("bolt", choose(Path("prompts"), "bolt", "states"), clip, params.zero_shot)
    detector.save(directory)

The score is the share of the anomalous side of the text (eq. 1); the paper's few-shot part is left out, because few
images are scored by DINOv2 features (`shadowline/models/few_shot`). What is saved needs neither the text tower nor the
prompts again. Images are scored one by one, so that a score never depends on its neighbours.

Axes: N images · S input size, pixels · W windows · D width
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from shadowline.core.atomic_files import read_json, replace_file, write_json
from shadowline.core.conformal import conformal_threshold
from shadowline.core.params import ZeroShotParams
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.transforms import to_tensor
from shadowline.models.saved_detector import SavedConfig, SavedDetector, fingerprint_of
from shadowline.models.winclip.prompts import Prompts
from shadowline.models.winclip.scoring import anomaly_share, language_map, window_patches
from shadowline.models.winclip.tower import TowerDesign, build_tower, embed_image, embed_images, grid_of, size_of
from shadowline.models.winclip.weights import Clip, embed_sides

Floats = npt.NDArray[np.float64]

_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"


class WinClipConfig(SavedConfig):
    """Everything that decides a score besides the tensors, and the prompts behind the text embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    class_name: str
    architecture: str  # open_clip's name, for the record
    embed_dim: int
    quick_gelu: bool
    vision: dict[str, Any]  # open_clip's `vision_cfg`
    mean: tuple[float, ...]  # per channel, of pixels in 0…1
    std: tuple[float, ...]
    clip_sha256: str  # of the weights file that both towers came from
    prompt_set: str
    normal: tuple[str, ...]  # prompts
    anomalous: tuple[str, ...]
    window_scales: tuple[int, ...]  # patches along a window's side
    temperature: float
    num_references: Literal[0] = 0  # a part of the fingerprint of every saved detector
    threshold: float

    @property
    def design(self) -> TowerDesign:
        return TowerDesign(self.embed_dim, self.quick_gelu, self.vision)


@dataclass(frozen=True, eq=False)
class WinClip(SavedDetector):
    """A detector of one class; see `shadowline.models.detector.Detector`."""

    config: WinClipConfig
    tower: nn.Module
    text_2D: Tensor  # normal, anomalous

    @classmethod
    def from_words(
        cls, class_name: str, prompts: Prompts, clip: Clip, params: ZeroShotParams, *, bit_depth: int = FULL_DEPTH
    ) -> WinClip:
        """The zero-shot detector; raises ValueError for a tower without windows and for prompts that are too long."""
        config = WinClipConfig(
            class_name=class_name,
            architecture=params.architecture,
            embed_dim=clip.design.embed_dim,
            quick_gelu=clip.design.quick_gelu,
            vision=clip.design.vision,
            mean=clip.mean,
            std=clip.std,
            clip_sha256=clip.weights_sha256,
            prompt_set=prompts.set_name,
            normal=prompts.normal,
            anomalous=prompts.anomalous,
            window_scales=params.window_scales,
            temperature=params.temperature,
            threshold=params.threshold,
            bit_depth=bit_depth,
        )
        detector = cls(config, clip.tower, embed_sides(clip, prompts))
        _ = detector.windows  # refuses scales beyond the grid
        return detector

    def calibrate(self, normal_scores: npt.ArrayLike, target_fpr: float) -> WinClip:
        """This detector with the split-conformal threshold of held-out normals, hence with a new fingerprint.

        Raises ValueError for too few scores; see `shadowline.core.conformal`.
        """
        threshold = conformal_threshold(normal_scores, target_fpr, subject=f"class '{self.class_name}'")
        return dataclasses.replace(self, config=self.config.model_copy(update={"threshold": threshold}))

    @functools.cached_property
    def windows(self) -> tuple[Tensor, ...]:
        """Per scale, the patches of each window: (W, k²)."""
        device = self.text_2D.device
        return tuple(window_patches(grid_of(self.tower), side).to(device) for side in self.config.window_scales)

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """Image scores (N,) in 0…1."""
        return np.array([self._score_one(image) for image in images], dtype=np.float64)

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """Anomaly maps (N, S, S) in 0…1, upsampled from the grid of patches."""
        maps = [self._map_one(image) for image in images]
        return np.stack(maps) if maps else np.empty((0, *size_of(self.tower)))

    def save(self, directory: Path) -> None:
        """Write weights.safetensors and config.json (with the fingerprint) into `directory`."""
        with replace_file(directory / _WEIGHTS) as temporary:
            save_file(self._tensors(), temporary)
        write_json(directory / _CONFIG, {**self.config.model_dump(mode="json"), "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, directory: Path, *, device: str | torch.device = "cpu") -> WinClip:
        """The inverse of `save`; raises FileNotFoundError, or ValueError where the content is not what was saved."""
        for name in (_WEIGHTS, _CONFIG):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory / name}: no such file; not a saved WinCLIP, or a partial one")
        fields = read_json(directory / _CONFIG)
        expected = fields.pop("fingerprint", None)
        config, tensors = WinClipConfig.model_validate(fields), load_file(directory / _WEIGHTS)
        fingerprint = fingerprint_of(config, tensors)
        if fingerprint != expected:
            raise ValueError(
                f"{directory}: fingerprint {fingerprint[:12]}…, but config.json says {expected}; restore it"
            )
        tower = build_tower(config.design)
        tower.load_state_dict({k.removeprefix("tower."): v for k, v in tensors.items() if k.startswith("tower.")})
        placed = {name: tensor.to(device) for name, tensor in tensors.items()}
        return cls(config, tower.to(device), placed["text"])

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"tower.{name}": tensor for name, tensor in self.tower.state_dict().items()}
        tensors["text"] = self.text_2D
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def _prepare(self, image: Image.Image) -> Tensor:
        return to_tensor(image, size_of(self.tower), self.config.mean, self.config.std)[None].to(self.text_2D.device)

    @torch.inference_mode()
    def _score_one(self, image: Image.Image) -> float:
        return float(self._words(embed_image(self.tower, self._prepare(image))))

    @torch.inference_mode()
    def _map_one(self, image: Image.Image) -> Floats:
        embedding = embed_images(self.tower, self._prepare(image), self.windows)
        scales = [self._words(windows) for windows in embedding.windows]
        grid_map = language_map(self._words(embedding.image_BD), scales, self.windows, grid_of(self.tower))
        large = functional.interpolate(grid_map[:, None], size=size_of(self.tower), mode="bilinear")
        return np.asarray(large[0, 0].double().cpu().numpy())

    def _words(self, features: Tensor) -> Tensor:
        return anomaly_share(features, self.text_2D, self.config.temperature)
