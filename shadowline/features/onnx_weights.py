"""DINOv2 weights out of an ONNX graph, in the names that timm's vision transformer uses.

An exporter keeps the names of biases and norms but folds the matrices of linear layers into anonymous
constants (`onnx::MatMul_1966`). Each such matrix is found through the graph: the Add that holds the named
bias takes the output of the MatMul that holds the matrix.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float32]

_PREFIX = "backbone."


def read_linear_weights(onnx_path: Path) -> dict[str, Array]:
    """All named constants of the graph's backbone, plus each linear layer's matrix under its bias's name.

    Matrices are returned as (out, in), the torch convention; ONNX stores (in, out).
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_path)).graph
    constants: dict[str, Array] = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    named = {k.removeprefix(_PREFIX): v for k, v in constants.items() if k.startswith(_PREFIX)}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((i for i in node.input if i.startswith(_PREFIX) and i.endswith(".bias")), None)
        operand = next((i for i in node.input if i != bias), None)
        producer = made_by.get(operand) if bias and operand else None
        if bias is None or producer is None or producer.op_type != "MatMul":
            continue
        matrix = constants[producer.input[1]]
        named[bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"] = matrix.T.copy()
    positions = [v for k, v in constants.items() if v.ndim == 3 and v.shape[1] > 1 and not k.startswith(_PREFIX)]
    class_position = [
        v for k, v in constants.items() if v.shape == (1, 1, positions[0].shape[2]) and k.startswith("onnx")
    ]
    named["embeddings.position_embeddings"] = np.concatenate(
        [class_position[0], positions[0].reshape(1, -1, positions[0].shape[2])], axis=1
    )
    return named


def to_timm_vit(named: dict[str, Array]) -> dict[str, torch.Tensor]:
    """Rename Hugging Face's Dinov2 tensors to timm's VisionTransformer; query, key and value become one `qkv`."""
    state = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": named["embeddings.position_embeddings"],
        "patch_embed.proj.weight": named["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": named["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    depth = 1 + max(int(k.split(".")[2]) for k in named if k.startswith("encoder.layer."))
    for i in range(depth):
        source, target = f"encoder.layer.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            attention = [named[f"{source}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{target}attn.qkv.{kind}"] = np.concatenate(attention)
            state[f"{target}attn.proj.{kind}"] = named[f"{source}attention.output.dense.{kind}"]
            for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{target}{layer}.{kind}"] = named[f"{source}{layer}.{kind}"]
        for j in (1, 2):
            state[f"{target}ls{j}.gamma"] = named[f"{source}layer_scale{j}.lambda1"]
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
