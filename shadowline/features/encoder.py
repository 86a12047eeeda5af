"""The frozen vision transformer: images in, fused features out, never trained.

    encoder = load_encoder(layout.encoder)
    fused_BGTD = encoder.encode(images)        # float32, prefix (class, register) tokens first

B images · G groups · T tokens · D width. The encoder's chosen layers are averaged in G equal groups; these two
tensors are all that Dinomaly's training and scoring ever need of it (arXiv 2405.14325 §3.4), so caching them is
exact. Layers after the last chosen one are never run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shadowline.core.atomic_files import read_json, replace_file, write_json
from shadowline.core.hashing import file_sha256
from shadowline.core.params import EncoderParams
from shadowline.data.transforms import to_tensor
from shadowline.features import backbones

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what DINOv2 was trained with
_TAKE_DINOV2 = "; take a DINOv2 of timm, with or without registers, e.g. vit_base_patch14_reg4_dinov2"
_WEIGHTS, _CONFIG = "encoder.safetensors", "encoder.json"


@dataclass(frozen=True)
class EncoderConfig:
    """Everything beside the weights that can change a feature."""

    name: str  # timm model name
    resize: int  # pixels, square
    crop: int  # pixels
    layers: tuple[int, ...]  # 0-based block indices
    groups: int
    batch_size: int  # images per forward pass; fixed, see `Encoder.encode`
    weights_sha256: str

    @property
    def fingerprint(self) -> str:
        """sha256 over all of it: features of different fingerprints never mix."""
        fields = {**self.__dict__, "layers": list(self.layers)}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class Encoder:
    """A timm vision transformer, frozen, cut after the last layer that is needed."""

    def __init__(self, network: nn.Module, config: EncoderConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self.device)
        self.num_prefix = int(getattr(network, "num_prefix_tokens", 1))
        self.width = int(getattr(network, "num_features"))  # noqa: B009 (an attribute that nn.Module does not declare)
        self.patch_size = int(network.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
        self.grid = config.crop // self.patch_size  # patches per side
        self.num_tokens = self.num_prefix + self.grid**2

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._network.parameters()

    def preprocess(self, image: Image.Image) -> Tensor:
        """RGB image → normalised (3, crop, crop) float32."""
        size = (self.config.resize, self.config.resize)
        return to_tensor(image, size, IMAGENET_MEAN, IMAGENET_STD, crop=self.config.crop)

    @torch.inference_mode()
    def encode(self, images: Iterable[Image.Image], *, padded: bool = True) -> Tensor:
        """Fused features of RGB images: (B, G, T, D) float32 on the CPU. Holds one image at a time, and small tensors.

        Every forward pass has exactly `batch_size` rows, the last one padded with zeros: matrix products choose
        their order of summation by shape, and so an image's features never depend on how many came with it.
        `padded=False` saves the padding's time where the last bits do not matter: a single image in production.
        """
        size, small = self.config.batch_size, map(self.preprocess, images)
        batches = iter(lambda: list(islice(small, size)), [])
        fused = [self._encode_batch(batch, size if padded else len(batch)) for batch in batches]
        return torch.cat(fused) if fused else torch.empty(0, self.config.groups, self.num_tokens, self.width)

    def _encode_batch(self, images: list[Tensor], num_rows: int) -> Tensor:
        pixels = torch.zeros(num_rows, 3, self.config.crop, self.config.crop)
        for i, image in enumerate(images):
            pixels[i] = image
        layers = self._network.forward_intermediates(  # type: ignore[operator]
            pixels.to(self.device),
            indices=list(self.config.layers),
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
            stop_early=True,
            norm=False,
        )
        tokens_BLTD = torch.stack([torch.cat([prefix, patches], dim=1) for patches, prefix in layers], dim=1)
        B, L, T, D = tokens_BLTD.shape
        fused_BGTD = tokens_BLTD.reshape(B, self.config.groups, L // self.config.groups, T, D).mean(dim=2)
        return fused_BGTD[: len(images)].float().cpu()


def save_encoder(state: dict[str, Tensor], params: EncoderParams, directory: Path) -> EncoderConfig:
    """Write weights and config, atomically; the position embedding is already at the crop's grid."""
    directory.mkdir(parents=True, exist_ok=True)
    with replace_file(directory / _WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in sorted(state.items())}, temporary)
    weights_sha256 = file_sha256(directory / _WEIGHTS)
    config = EncoderConfig(
        name=params.name,
        resize=params.resize,
        crop=params.crop,
        layers=params.layers,
        groups=params.groups,
        batch_size=params.batch_size,
        weights_sha256=weights_sha256,
    )
    write_json(directory / _CONFIG, {**config.__dict__, "layers": list(config.layers)})
    return config


def load_encoder(directory: Path, device: torch.device | str = "cpu") -> Encoder:
    """Load what `save_encoder` wrote. Raises FileNotFoundError, or ValueError when the weights were changed."""
    if not (directory / _CONFIG).is_file() or not (directory / _WEIGHTS).is_file():
        raise FileNotFoundError(f"{directory}: no encoder here; run `dvc repro encoder`")
    raw = read_json(directory / _CONFIG)
    config = EncoderConfig(**{**raw, "layers": tuple(raw["layers"])})
    actual = file_sha256(directory / _WEIGHTS)
    if actual != config.weights_sha256:
        raise ValueError(
            f"{directory / _WEIGHTS}: sha256 {actual[:12]}…, expected {config.weights_sha256[:12]}…; restore the file"
        )
    network = build_network(config.name, config.crop, depth=max(config.layers) + 1)
    network.load_state_dict(load_file(directory / _WEIGHTS))
    return Encoder(network, config, device)


def build_network(name: str, crop: int, depth: int | None = None) -> nn.Module:
    """timm's transformer `name` at `crop` pixels with random weights, cut after `depth` blocks."""
    try:
        network = backbones.build(name, img_size=crop, num_classes=0)
    except (TypeError, AssertionError):  # of a network that is none of patches, or of another size of them
        raise ValueError(f"encoder.name: {name} does not take {crop} pixels as encoder.crop{_TAKE_DINOV2}") from None
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not isinstance(getattr(network, "pos_embed", None), Tensor):
        raise ValueError(f"encoder.name: {name} is a {type(network).__name__}, no ViT of DINOv2{_TAKE_DINOV2}")
    patch = int(network.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
    if crop % patch:
        raise ValueError(f"encoder.crop: {crop} pixels is not a multiple of the patch size {patch} of {name}")
    if depth is not None and depth > len(blocks):
        raise ValueError(f"encoder.layers: layer {depth - 1} asked for, {name} has {len(blocks)} blocks (0-based)")
    network.blocks = blocks[: depth or len(blocks)]
    network.norm = nn.Identity()  # features are taken before it
    return network
