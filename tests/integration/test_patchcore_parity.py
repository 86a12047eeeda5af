"""The baseline, and the region metric, against anomalib's implementations, on equal inputs.

anomalib is imported inside a fixture: it imports torchvision, which `shadowline.features.backbones` prepares first. Its
model is built with `pre_trained=False` and gets our network's weights, so that nothing is downloaded.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage

from shadowline.core.params import LegacyParams
from shadowline.evaluation.metrics import pixel_metrics
from shadowline.features import backbones
from shadowline.models.patchcore import detector as patchcore
from shadowline.models.patchcore.coreset import join_layers, k_center_greedy, nearest, reweighted_image_score
from shadowline.models.patchcore.detector import PatchCore

NETWORK, LAYERS = "test_resnet", (1, 2)


@pytest.fixture(scope="module")
def anomalib():
    """Imports a submodule of anomalib by its dotted name."""
    backbones.timm()
    return lambda name: importlib.import_module(f"anomalib.{name}")


@pytest.fixture
def their_model(anomalib):
    module = anomalib("models.image.patchcore.torch_model")
    torch.manual_seed(0)
    return module.PatchcoreModel(layers=LAYERS, backbone=NETWORK, pre_trained=False, num_neighbors=9).eval()


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_coreset_has_the_same_indices_in_the_same_order(anomalib, seed):
    """Both start from the same random patch of the same projection.

    Their sampler projects two-dimensional input by itself, with a generator of its own; input of three dimensions it
    takes as it is. In float64 no two candidates are near enough for rounding to choose between them.
    """
    projection = anomalib("models.components.dimensionality_reduction").SparseRandomProjection(eps=0.9, random_state=1)
    projected = projection.fit(random(seed, 3000, 300).float()).transform(random(seed, 3000, 300))
    sampler = anomalib("models.components.sampling").KCenterGreedy(embedding=projected[..., None], sampling_ratio=0.05)
    torch.manual_seed(seed)
    theirs = sampler.select_coreset_idxs()
    torch.manual_seed(seed)
    start = int(torch.randint(len(projected), (1,)))
    assert k_center_greedy(projected, size=150, start=start).tolist() == theirs


def test_patches_are_joined_alike(their_model):
    """Pooling, upsampling and the order of layers."""
    first, second = random(1, 2, 32, 16, 16), random(2, 2, 48, 8, 8)
    pooled = {layer: their_model.feature_pooler(x) for layer, x in zip(LAYERS, (first, second), strict=True)}
    assert torch.allclose(join_layers([first, second]), their_model.generate_embedding(pooled), atol=1e-12)


@pytest.mark.parametrize("neighbours", [1, 3, 9, 1000])
def test_distances_and_weighted_scores_agree(their_model, neighbours):
    """Five images of 300 patches, more than their chunk, against 500 in the bank; and a bank smaller than asked for."""
    their_model.memory_bank, their_model.num_neighbors = random(3, 500, 20), neighbours
    patches = random(4, 5, 300, 20) * torch.linspace(1.0, 1.5, 5)[:, None, None]
    distances, locations = their_model.nearest_neighbors(patches.flatten(0, 1), n_neighbors=1)
    ours = nearest(patches.flatten(0, 1), their_model.memory_bank)
    assert torch.equal(ours[1], locations)
    assert torch.allclose(ours[0], distances, atol=1e-5)
    theirs = their_model.compute_anomaly_score(distances.view(5, 300), locations.view(5, 300), patches.flatten(0, 1))
    scores = [reweighted_image_score(image, their_model.memory_bank, neighbours) for image in patches]
    assert scores == pytest.approx(theirs.tolist(), abs=1e-5)


def test_a_whole_image_scores_alike_from_pixels_on(their_model, tmp_path):
    """Their network, weights and bank in both; everything after the preprocessing."""
    weights = tmp_path / "network.safetensors"
    save_file(their_model.feature_extractor.feature_extractor.state_dict(), weights)
    params = LegacyParams(
        network=NETWORK,
        location=str(weights),
        input_size=64,
        layers=LAYERS,
        coreset_share=0.2,
        neighbours=9,
        target_fpr=0.1,
    )
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, size=(70, 50, 3), dtype=np.uint8)) for _ in range(6)]
    detector = PatchCore.fit("noise", images[:4], params, seed=7)
    their_model.memory_bank = detector.bank.clone()
    pixels = torch.cat([patchcore._prepare(image, detector.config, torch.device("cpu")) for image in images[4:]])
    theirs = their_model(pixels)
    assert detector.score(images[4:]) == pytest.approx(theirs.pred_score.numpy(), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_aupro_agrees_to_1e_5_with_exact_thresholds(anomalib, seed):
    """Every distinct score is a threshold in both; theirs accumulates in float32, hence the tolerance."""
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(6, 32, 32)), (0, 2, 2)) > 0.2
    maps = np.float32(rng.normal(size=masks.shape) + masks)
    metric = anomalib("metrics.aupro")._AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    ours = pixel_metrics(maps, masks, resamples=1, confidence=0.9, seed=0, max_thresholds=maps.size)
    assert ours.aupro.value == pytest.approx(float(metric.compute()), abs=1e-5)
