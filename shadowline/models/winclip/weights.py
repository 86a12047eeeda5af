"""CLIP's weights: from a safetensors file, or from the model hub where the network is allowed; no fallback.

clip = load_clip(params.zero_shot, Path())
text_2D = embed_sides(clip, prompts)
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shadowline.core.atomic_files import read_json
from shadowline.core.hashing import file_sha256
from shadowline.core.params import ZeroShotParams
from shadowline.core.settings import Settings
from shadowline.features import backbones
from shadowline.models.winclip.prompts import Prompts
from shadowline.models.winclip.tower import TowerDesign

_CONVERT = "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'clip.safetensors')"
_TEXT_BATCH = 64  # prompts per pass of the text tower


class MissingWeightsError(ValueError):
    """CLIP's weights are missing; the message names the file and where to get it."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Both towers, frozen, and what they were trained with."""

    network: nn.Module
    tokenizer: Any
    design: TowerDesign
    mean: tuple[float, ...]  # per channel, of pixels in 0…1
    std: tuple[float, ...]
    weights_sha256: str

    @property
    def tower(self) -> nn.Module:
        tower: nn.Module = self.network.visual  # type: ignore[assignment]
        return tower


def load_clip(params: ZeroShotParams, root: Path, *, device: str | torch.device = "cpu") -> Clip:
    """The network that `params` name, with its weights.

    Raises ValueError for an architecture without windows, and for weights that are missing, pickled or of another
    architecture.
    """
    config = read_architecture(params.architecture, root)
    design = TowerDesign(config["embed_dim"], config.get("quick_gelu", False), config["vision_cfg"])
    trained = _trained_with(params, config)
    path = _find_weights(params, root)
    network = build_towers(config)
    try:
        backbones.open_clip().load_checkpoint(network, str(path))
    except (RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[1:2] or [str(error)]
        raise ValueError(
            f"zero_shot.location: {path}: not weights of {params.architecture} ({first[0].strip()[:160]}); "
            "name the architecture that they were trained in"
        ) from None
    return Clip(
        network=network.eval().requires_grad_(False).to(device),
        tokenizer=_tokenizer(config),
        design=design,
        mean=tuple(trained["mean"]),
        std=tuple(trained["std"]),
        weights_sha256=file_sha256(path),
    )


def read_architecture(name: str, root: Path) -> dict[str, Any]:
    """open_clip's configuration of an architecture: one of its own names, or a .json file of that form."""
    config = _read_own(root / name) if name.endswith(".json") else _look_up(name)
    text = config["text_cfg"]
    if "hf_model_name" in text or "hf_tokenizer_name" in text or "siglip" in name.lower():
        raise ValueError(
            f"zero_shot.architecture: the tokenizer of {name} is not part of open_clip; take one with open_clip's own, "
            "e.g. ViT-B-16-plus-240"
        )
    return config


def build_towers(config: dict[str, Any]) -> nn.Module:
    """open_clip's network of a configuration, with random weights; both towers."""
    library, options = backbones.open_clip(), copy.deepcopy(config)
    custom = options.pop("custom_text", False)
    maker = library.CoCa if "multimodal_cfg" in options else library.CustomTextCLIP if custom else library.CLIP
    network: nn.Module = maker(**options)
    return network


@torch.inference_mode()
def embed_sides(clip: Clip, prompts: Prompts) -> Tensor:
    """Mean embedding of the normal and of the anomalous prompts, each of length 1: (2, D).

    The mean is over the embeddings as the tower gives them. Raises ValueError for a prompt that the tower would cut.
    """
    sides = [_embed_texts(clip, sorted(side)).mean(dim=0) for side in (prompts.normal, prompts.anomalous)]
    return torch.nn.functional.normalize(torch.stack(sides), dim=-1)


def _embed_texts(clip: Clip, texts: list[str]) -> Tensor:
    longest = max(texts, key=lambda text: len(clip.tokenizer.encode(text)))
    length, limit = len(clip.tokenizer.encode(longest)) + 2, clip.tokenizer.context_length  # with start and end
    if length > limit:
        raise ValueError(f"prompt {longest!r}: {length} tokens, at most {limit}; shorten it")
    device = next(clip.network.parameters()).device
    batches = [texts[start : start + _TEXT_BATCH] for start in range(0, len(texts), _TEXT_BATCH)]
    encode: Any = clip.network.encode_text
    return torch.cat([encode(clip.tokenizer(batch).to(device)) for batch in batches])


def _look_up(name: str) -> dict[str, Any]:
    library = backbones.open_clip()
    config: dict[str, Any] | None = library.get_model_config(name)
    if config is None:
        nearest = difflib.get_close_matches(name, library.list_models(), n=1, cutoff=0.3)
        hint = f"did you mean {nearest[0]}?" if nearest else "see open_clip.list_models()"
        raise ValueError(f"zero_shot.architecture: open_clip has no {name!r}; {hint}")
    return config


def _read_own(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"zero_shot.architecture: {path} is missing; name a .json file of open_clip's form, or a name")
    config: dict[str, Any] = read_json(path)
    missing = [part for part in ("embed_dim", "vision_cfg", "text_cfg") if part not in config]
    if missing:
        raise ValueError(f"zero_shot.architecture: {path} lacks {missing}; write it in the form of open_clip's own")
    return config


def _tokenizer(config: dict[str, Any]) -> Any:
    text = config["text_cfg"]
    options = text.get("tokenizer_kwargs", {})
    return backbones.open_clip().SimpleTokenizer(context_length=text.get("context_length", 77), **options)


def _trained_with(params: ZeroShotParams, config: dict[str, Any]) -> dict[str, Any]:
    """Normalisation and activation of the pretrained weights; without a tag, those of OpenAI's CLIP."""
    library = backbones.open_clip()
    if not params.pretrained:
        return {"mean": library.OPENAI_DATASET_MEAN, "std": library.OPENAI_DATASET_STD}
    tags = library.list_pretrained_tags_by_model(params.architecture)
    if params.pretrained not in tags:
        raise ValueError(
            f"zero_shot.pretrained: {params.architecture} has no {params.pretrained!r}, open_clip knows {tags}; "
            "leave it empty for weights of your own"
        )
    trained: dict[str, Any] = library.get_pretrained_cfg(params.architecture, params.pretrained)
    quick = trained.get("quick_gelu", False)
    if quick != config.get("quick_gelu", False):
        raise ValueError(
            f"zero_shot.architecture: {params.pretrained} was trained {'with' if quick else 'without'} QuickGELU, "
            f"{params.architecture} is the other kind; take the one {'with' if quick else 'without'} -quickgelu"
        )
    return trained


def _find_weights(params: ZeroShotParams, root: Path) -> Path:
    if params.weights == "hub":
        return _from_hub(params)
    path = root / params.location
    if path.suffix != ".safetensors":
        raise ValueError(
            f"zero_shot.location: {params.location!r}, need a .safetensors file; convert a checkpoint whose origin you "
            f"trust once, elsewhere: {_CONVERT}"
        )
    if not path.is_file():
        raise MissingWeightsError(f"zero_shot.location: {path} is missing; {_way_out(params)}")
    return path


def _from_hub(params: ZeroShotParams) -> Path:
    repository = _repository(params)
    if not repository:
        raise ValueError(
            f"zero_shot.pretrained: {params.pretrained!r} of {params.architecture} is not on the model hub; "
            "use weights: file and zero_shot.location"
        )
    name = backbones.open_clip().constants.HF_SAFE_WEIGHTS_NAME
    try:
        return backbones.hub_file(repository, name, allow_network=Settings().allow_network)
    except OSError as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise MissingWeightsError(
            f"zero_shot.weights: hub, but {name} of {repository} is not here ({reason}); {_way_out(params)}"
        ) from None


def _repository(params: ZeroShotParams) -> str:
    """The repository of the weights on the model hub; empty for own weights and for weights elsewhere."""
    pretrained = backbones.open_clip().get_pretrained_cfg(params.architecture, params.pretrained)
    return str(pretrained.get("hf_hub", "")).rpartition("/")[0]


def _way_out(params: ZeroShotParams) -> str:
    repository = _repository(params)
    if not repository:
        return "place the weights there as .safetensors, or name another file in zero_shot.location"
    name = backbones.open_clip().constants.HF_SAFE_WEIGHTS_NAME
    return (
        f"get {name} from https://huggingface.co/{repository} ({params.architecture}, {params.pretrained}) and name it "
        "in zero_shot.location with weights: file; or use weights: hub with SHADOWLINE_ALLOW_NETWORK=true"
    )
