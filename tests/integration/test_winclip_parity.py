"""WinCLIP against anomalib's, on the same random weights, prompts and pixels: scores and maps, zero-shot.

anomalib is imported inside a fixture, because it imports torchvision, which `shadowline.features.backbones` prepares
first. Its model names its weights in two module constants; they are turned to our small architecture and to no weights
at all, so that nothing is downloaded. anomalib was written for open_clip before 2.26, whose transformers took the
length first; today's take the batch first, and unadapted it would let windows attend to each other. `length_first`
gives its window pass the order that it asks for, and nothing else is changed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fixtures.clip import GRID, tiny_clip
from fixtures.learning import picture
from shadowline.core.params import ZeroShotParams
from shadowline.data.transforms import to_tensor
from shadowline.features import backbones
from shadowline.models.winclip.detector import WinClip
from shadowline.models.winclip.prompts import Prompts
from shadowline.models.winclip.tower import size_of
from shadowline.models.winclip.weights import load_clip

TOLERANCE = 1e-4
PROMPTS = Prompts(
    "parity",
    normal=("a photo of a bolt.", "a photo of a flawless bolt.", "perfect bolt without damage"),
    anomalous=("a dark photo of a damaged bolt.", "bolt with a crack"),
)
IMAGES = [picture(seed, side=64) for seed in range(100, 105)]


class LengthFirst(nn.Module):
    """A transformer that takes (length, batch, width)."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, hidden: Tensor) -> Tensor:
        return self.transformer(hidden.transpose(0, 1)).transpose(0, 1)


@contextmanager
def length_first(visual: Any) -> Iterator[None]:
    batch_first = visual.transformer
    visual.transformer = LengthFirst(batch_first)
    yield
    visual.transformer = batch_first


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    backbones.open_clip()
    return importlib.import_module("anomalib.models.image.winclip.torch_model")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> ZeroShotParams:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def ours(params: ZeroShotParams) -> WinClip:
    return WinClip.from_words("bolt", PROMPTS, load_clip(params, Path()), params)


@pytest.fixture
def their_model(theirs: ModuleType, params: ZeroShotParams, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Zero-shot, with our weights and prompts."""

    class Oracle(theirs.WinClipModel):  # type: ignore[name-defined, misc]
        def _get_window_embeddings(self, feature_map: Tensor, masks: Tensor) -> Tensor:
            with length_first(self.clip.visual):
                return super()._get_window_embeddings(feature_map, masks)

    backbones.open_clip().add_model_config(params.architecture)
    monkeypatch.setattr(theirs, "BACKBONE", "tiny")
    monkeypatch.setattr(theirs, "PRETRAINED", None)
    monkeypatch.setattr(theirs, "create_prompt_ensemble", lambda _: (list(PROMPTS.normal), list(PROMPTS.anomalous)))
    model = Oracle().eval()
    model.clip.load_state_dict(load_file(params.location))
    model.setup("bolt")
    return model


def pixels_of(detector: WinClip, images: list[Any]) -> Tensor:
    config = detector.config
    return torch.stack([to_tensor(image, size_of(detector.tower), config.mean, config.std) for image in images])


def differences(detector: WinClip, model: Any) -> tuple[float, float]:
    """Largest difference of an image score and of a map's pixel, on images that the scores tell apart."""
    expected = model(pixels_of(detector, IMAGES))
    scores, maps = expected.pred_score.numpy(), expected.anomaly_map.numpy()
    assert np.ptp(scores) > 20 * TOLERANCE
    assert maps.std(axis=(1, 2)).min() > 20 * TOLERANCE
    return np.abs(detector.score(IMAGES) - scores).max(), np.abs(detector.maps(IMAGES) - maps).max()


def test_zero_shot_scores_and_maps_agree(ours: WinClip, their_model: Any) -> None:
    score, pixel = differences(ours, their_model)
    assert score <= TOLERANCE and pixel <= TOLERANCE


def test_both_sides_of_the_text_agree(ours: WinClip, their_model: Any) -> None:
    text = nn.functional.normalize(their_model.text_embeddings, dim=-1)
    assert torch.allclose(ours.text_2D, text, atol=1e-6)
    assert (text[0] - text[1]).norm() > 0.1


def test_windows_cover_the_same_patches(ours: WinClip, theirs: ModuleType) -> None:
    for side, found in zip(ours.config.window_scales, ours.windows, strict=True):
        assert torch.equal(found, theirs.make_masks(GRID, side).T.long())
