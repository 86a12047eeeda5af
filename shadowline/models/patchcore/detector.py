"""PatchCore, the single-class baseline (Roth et al., "Towards Total Recall in Industrial Anomaly Detection",
CVPR 2022, arXiv 2106.08265).

    detector = PatchCore.fit("bolt", train_images, params.legacy, seed=7)
    detector = detector.calibrate(detector.score(val_images), target_fpr=0.05)
    detector.save(directory)
    PatchCore.load(directory).score(images) > detector.threshold

Patches of normal images are thinned to a coreset, the memory bank; an image is as anomalous as its patch that lies
farthest from the bank. Images are scored one by one, so that a score never depends on its neighbours.

Axes: N images · P patches of an image · D feature width · M patches in the bank · Q queries · S input size, pixels
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import ConfigDict
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import nn
from torch.nn import functional

from shadowline.core.atomic_files import read_json, replace_file, write_json
from shadowline.core.conformal import conformal_threshold
from shadowline.core.params import LegacyParams
from shadowline.core.progress import Progress
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.transforms import to_tensor
from shadowline.features import backbones
from shadowline.models.patchcore.coreset import choose_coreset, join_layers, nearest, reweighted_image_score
from shadowline.models.patchcore.lite0_weights import NETWORK as LITE0
from shadowline.models.patchcore.lite0_weights import read_lite0
from shadowline.models.saved_detector import SavedConfig, SavedDetector, fingerprint_of

Floats = npt.NDArray[np.float64]

POOL_CAP = 40_000  # training patches that a coreset is chosen from; bounds memory, and time: 5 % take 5 s on a core
MAP_SIGMA = 4.0  # pixels of the input; smoothing of the map (paper, section 3.3)

_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"


class PatchCoreConfig(SavedConfig):
    """Everything that decides a score besides the tensors, and how the bank was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    class_name: str
    network: str  # timm model name
    layers: tuple[int, ...]  # timm feature indices
    input_size: int  # S, pixels
    mean: tuple[float, ...]  # per channel, of pixels in 0…1; the network's own
    std: tuple[float, ...]
    neighbours: int  # of the re-weighting; 1 turns it off
    coreset_share: float
    seed: int
    num_images: int  # training images
    num_patches: int  # training patches
    num_pooled: int  # of these, patches that the coreset was chosen from
    threshold: float | None = None  # None before calibration


@dataclass(frozen=True, eq=False)
class PatchCore(SavedDetector):
    """A detector of one class; see `shadowline.models.detector.Detector`."""

    config: PatchCoreConfig
    network: nn.Module
    bank: torch.Tensor  # (M, D)

    @classmethod
    def fit(
        cls,
        class_name: str,
        images: Sequence[Image.Image],
        params: LegacyParams,
        *,
        seed: int,
        bit_depth: int = FULL_DEPTH,
        progress: Progress | None = None,
        device: str | torch.device = "cpu",
    ) -> PatchCore:
        """Build the memory bank from normal images; the same input gives the same bank, bit for bit, on one machine.

        Of more than `POOL_CAP` patches in all, each image gives an equal random part; `coreset_share` is a share of the
        pooled patches, and the config records both counts. `bit_depth`: that the images were opened with. Raises
        ValueError without images or for weights that do not fit.
        """
        if not images:
            raise ValueError(f"class '{class_name}': 0 training images, need at least 1; import the class first")
        progress = progress or Progress()
        network = _build_network(params).to(device)
        config = _initial_config(class_name, params, seed, len(images), bit_depth)
        generator = torch.Generator().manual_seed(seed)
        pool, num_patches = _pool_patches(network, images, config, generator, progress)
        bank = pool[choose_coreset(pool, params.coreset_share, generator, progress)]
        counts = {"num_patches": num_patches, "num_pooled": len(pool)}
        return cls(config.model_copy(update=counts), network, bank.contiguous())

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """Image scores (N,): eq. 7 of the paper, in units of feature distance."""
        return np.array([self._score_one(image) for image in images], dtype=np.float64)

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """Distance maps (N, S, S), upsampled and smoothed with σ = 4 pixels; the image score does not use them."""
        maps = [self._map_one(image) for image in images]
        return np.stack(maps) if maps else np.empty((0, self.config.input_size, self.config.input_size))

    def calibrate(self, normal_scores: npt.ArrayLike, target_fpr: float) -> PatchCore:
        """This detector with the split-conformal threshold of held-out normals, hence with a new fingerprint.

        Raises ValueError for too few scores; see `shadowline.core.conformal`.
        """
        threshold = conformal_threshold(normal_scores, target_fpr, subject=f"class '{self.class_name}'")
        return dataclasses.replace(self, config=self.config.model_copy(update={"threshold": threshold}))

    def save(self, directory: Path) -> None:
        """Write weights.safetensors and config.json (with the fingerprint) into `directory`."""
        with replace_file(directory / _WEIGHTS) as temporary:
            save_file(self._tensors(), temporary)
        write_json(directory / _CONFIG, {**self.config.model_dump(mode="json"), "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, directory: Path, *, device: str | torch.device = "cpu") -> PatchCore:
        """The inverse of `save`; raises FileNotFoundError, or ValueError where the content is not what was saved."""
        for name in (_WEIGHTS, _CONFIG):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory / name}: no such file; not a saved PatchCore, or a partial one")
        fields = read_json(directory / _CONFIG)
        expected = fields.pop("fingerprint", None)
        config, tensors = PatchCoreConfig.model_validate(fields), load_file(directory / _WEIGHTS)
        fingerprint = fingerprint_of(config, tensors)
        if fingerprint != expected:
            raise ValueError(
                f"{directory}: fingerprint {fingerprint[:12]}…, but config.json says {expected}; restore it"
            )
        network = backbones.build(config.network, features_only=True, out_indices=config.layers)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k != "bank"})
        return cls(config, network.to(device), tensors["bank"].to(device))

    def _tensors(self) -> dict[str, torch.Tensor]:
        network = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {name: tensor.cpu().contiguous() for name, tensor in {**network, "bank": self.bank}.items()}

    @torch.inference_mode()
    def _score_one(self, image: Image.Image) -> float:
        patches_DHW = _embed(self.network, image, self.config)
        return reweighted_image_score(patches_DHW.flatten(1).T, self.bank, self.config.neighbours)

    @torch.inference_mode()
    def _map_one(self, image: Image.Image) -> Floats:
        patches_DHW = _embed(self.network, image, self.config)
        distance_P, _ = nearest(patches_DHW.flatten(1).T, self.bank)
        grid = distance_P.reshape(1, 1, *patches_DHW.shape[1:])
        large = functional.interpolate(grid, size=(self.config.input_size,) * 2, mode="bilinear", align_corners=False)
        smooth: Floats = ndimage.gaussian_filter(large[0, 0].double().cpu().numpy(), MAP_SIGMA)
        return smooth


def _build_network(params: LegacyParams) -> nn.Module:
    network = backbones.build(params.network, features_only=True, out_indices=params.layers)
    location = Path(params.location)
    if location.suffix == ".whl" and params.network == LITE0:
        network.load_state_dict(read_lite0(location))
    elif location.suffix == ".safetensors":
        network.load_state_dict(load_file(location))
    else:
        raise ValueError(
            f"legacy.location: {params.location!r} for {params.network}, need timm's features_only state dict as "
            f".safetensors, or the EfficientNet-Lite0 wheel with network {LITE0}"
        )
    return network


def _initial_config(
    class_name: str, params: LegacyParams, seed: int, num_images: int, bit_depth: int
) -> PatchCoreConfig:
    pretrained = backbones.timm().get_pretrained_cfg(params.network)
    return PatchCoreConfig(
        class_name=class_name,
        network=params.network,
        layers=params.layers,
        input_size=params.input_size,
        mean=tuple(pretrained.mean),
        std=tuple(pretrained.std),
        neighbours=params.neighbours,
        coreset_share=params.coreset_share,
        seed=seed,
        num_images=num_images,
        bit_depth=bit_depth,
        num_patches=0,
        num_pooled=0,
    )


def _prepare(image: Image.Image, config: PatchCoreConfig, device: torch.device) -> torch.Tensor:
    """(1, 3, S, S), normalised as the network was trained."""
    return to_tensor(image, (config.input_size, config.input_size), config.mean, config.std)[None].to(device)


def _embed(network: nn.Module, image: Image.Image, config: PatchCoreConfig) -> torch.Tensor:
    """Patch features (D, H, W) of one image at the size of the first layer."""
    return join_layers(network(_prepare(image, config, next(network.parameters()).device)))[0]


@torch.inference_mode()
def _pool_patches(
    network: nn.Module,
    images: Sequence[Image.Image],
    config: PatchCoreConfig,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[torch.Tensor, int]:
    """At most POOL_CAP patches, evenly from all images, and the number of patches of all images."""
    quota = max(1, POOL_CAP // len(images))
    kept, num_patches = [], 0
    with progress.task(f"patches {config.class_name}", total=len(images)) as task:
        for image in images:
            patches_PD = _embed(network, image, config).flatten(1).T
            order = torch.randperm(len(patches_PD), generator=generator)[:quota].to(patches_PD.device)
            kept.append(patches_PD[order.sort().values])
            num_patches += len(patches_PD)
            task.advance()
    pool = torch.cat(kept)
    if len(pool) < num_patches:
        progress.message(f"{config.class_name}: {len(pool)} of {num_patches} patches pooled for the coreset")
    return pool, num_patches
