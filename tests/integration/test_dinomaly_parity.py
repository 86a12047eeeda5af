"""Decoder, loss, map and optimiser against anomalib 2.7's Dinomaly: the same weights, the same numbers, to 1e-5.

anomalib is imported inside a fixture, after `shadowline.features.backbones` has prepared torchvision. Its DinomalyModel
is never constructed, because it downloads; its parts are put together here as its constructor does. One difference is
known and made explicit: the paper's reference implementation has biases in its MLPs, which anomalib leaves out but can
be given.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures.learning import train_params
from shadowline.features import backbones
from shadowline.models.dinomaly.loss import loose_cosine_loss
from shadowline.models.dinomaly.model import Decoder, reconstruction_map
from shadowline.models.dinomaly.optimizer import StableAdamW
from shadowline.models.dinomaly.schedule import hard_mining_share

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, HEADS, BLOCKS, GRID, PREFIX, BATCH = 128, 2, 8, 6, 5, 3
TOLERANCE = {"rtol": 0, "atol": 1e-5}
FUSED_LAYERS = ([0, 1, 2, 3], [4, 5, 6, 7])  # of the decoder's blocks, last block first


@dataclass(frozen=True)
class Anomalib:
    """The pieces of anomalib that ours are compared with."""

    model: Any
    components: Any
    optimizer: Any


@pytest.fixture(scope="module")
def anomalib() -> Anomalib:
    backbones.timm()
    package, modules = "anomalib.models.image.dinomaly", ("torch_model", "components", "components.optimizer")
    return Anomalib(*(importlib.import_module(f"{package}.{module}") for module in modules))


@pytest.fixture
def ours() -> Decoder:
    """Larger weights than fresh ones, so that attention and MLP matter beside the residual path; biases too."""
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, HEADS, BLOCKS, num_groups=2, dropout=0.2).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return decoder


class Theirs(nn.Module):
    """anomalib's bottleneck and decoder blocks, called in the order of DinomalyModel.get_encoder_decoder_outputs."""

    def __init__(self, anomalib: Anomalib, weights: dict[str, Tensor]) -> None:
        super().__init__()
        parts, block = anomalib.components, anomalib.model.DecoderViTBlock
        mlp = partial(parts.DinomalyMLP, WIDTH, 4 * WIDTH, WIDTH, bias=True)
        self.fuse = anomalib.model.DinomalyModel._fuse_feature
        self.bottleneck = mlp(drop=0.2, apply_input_dropout=True)
        self.blocks = nn.ModuleList(
            block(WIDTH, HEADS, norm_layer=partial(nn.LayerNorm, eps=1e-8), attn=parts.LinearAttention)
            for _ in range(BLOCKS)
        )
        for decoder_block in self.blocks:
            decoder_block.mlp = mlp()
        self.load_state_dict(weights)
        self.eval()

    def forward(self, layers: list[Tensor]) -> list[Tensor]:
        """From the encoder's eight layers, (B, T, D) each, to the reconstruction of each group."""
        x, outputs = self.bottleneck(self.fuse(layers)), []
        for block in self.blocks:
            x = block(x, attn_mask=None)
            outputs.append(x)
        outputs.reverse()
        return [self.fuse([outputs[i] for i in indices]) for indices in FUSED_LAYERS]


@pytest.fixture
def theirs(anomalib, ours) -> Theirs:
    return Theirs(anomalib, ours.state_dict())


def layers(seed: int) -> list[Tensor]:
    """Eight encoder layers (B, T, D)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH, PREFIX + GRID**2, WIDTH, generator=generator) for _ in range(8)]


def fuse(eight: list[Tensor]) -> Tensor:
    """(B, G, T, D), as our encoder hands them over."""
    return torch.stack([torch.stack(eight[:4]).mean(0), torch.stack(eight[4:]).mean(0)], dim=1)


def spatial(tokens_BTD: Tensor) -> Tensor:
    """(B, D, H, W) without prefix tokens, the layout of anomalib's loss and map."""
    return tokens_BTD[:, PREFIX:].permute(0, 2, 1).reshape(BATCH, WIDTH, GRID, GRID).contiguous()


# --- the decoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_decoder_reconstructs_alike(ours, theirs, seed):
    """From the eight layers there, from their two group means here."""
    expected = torch.stack(theirs(layers(seed)), dim=1)
    torch.testing.assert_close(ours(fuse(layers(seed))), expected, **TOLERANCE)
    assert expected.std() > 0.5, "there is something to compare"


def test_the_bottleneck_draws_the_same_noise(ours, theirs):
    """Dropout before, inside and after, in this order: from one seed the same numbers, in training mode."""
    x = torch.randn(BATCH, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    expected = theirs.bottleneck.train()(x)
    torch.manual_seed(5)
    torch.testing.assert_close(ours.bottleneck.train()(x), expected, **TOLERANCE)


def test_gradients_of_every_weight_agree(ours, theirs):
    sum((x**2).mean() for x in theirs(layers(0))).backward()
    sum((x**2).mean() for x in ours(fuse(layers(0))).unbind(1)).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, **TOLERANCE)


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 137, 500, 999, 1000, 5000])
@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_the_loss_and_its_gradient_agree_at_every_stage_of_the_ramp(anomalib, step, factor):
    """At step 0 nothing is easy, from step 1000 nine tenths of the points are."""
    target, rebuilt = fuse(layers(0)), fuse(layers(1)).requires_grad_()
    copy = rebuilt.detach().clone().requires_grad_()
    params = train_params(steps=10_000, hard_final_share=0.9, hard_ramp_steps=1000)

    loss_fn = anomalib.components.CosineHardMiningLoss(p_final=0.9, p_schedule_steps=1000, factor=factor)
    expected = loss_fn([spatial(g) for g in target.unbind(1)], [spatial(g) for g in copy.unbind(1)], global_step=step)
    expected.backward()
    found = loose_cosine_loss(target[:, :, PREFIX:], rebuilt[:, :, PREFIX:], hard_mining_share(step, params), factor)
    found.backward()

    assert hard_mining_share(step, params) == pytest.approx(loss_fn.p)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    scale = 1.0 / copy.grad.abs().max()  # gradients of a mean are tiny; compare them at the size of one
    torch.testing.assert_close(rebuilt.grad * scale, copy.grad * scale, **TOLERANCE)


def test_the_ramp_makes_a_difference_here():
    """The comparison above would say nothing if shrinking left these gradients as they are."""
    gradients = []
    for share in (0.0, 0.9):
        rebuilt = fuse(layers(1)).requires_grad_()
        loose_cosine_loss(fuse(layers(0)), rebuilt, share, 0.1).backward()
        gradients.append(rebuilt.grad)
    assert gradients[1].norm() < 0.5 * gradients[0].norm()


# --- the map --------------------------------------------------------------------------------------------------------


def test_the_anomaly_map_agrees_patch_by_patch(anomalib):
    target, rebuilt = fuse(layers(0)), fuse(layers(0)) + 0.7 * fuse(layers(1))
    theirs, _ = anomalib.model.DinomalyModel.calculate_anomaly_maps(
        [spatial(g) for g in target.unbind(1)], [spatial(g) for g in rebuilt.unbind(1)], out_size=GRID
    )
    ours = reconstruction_map(target, rebuilt, PREFIX).reshape(BATCH, GRID, GRID)
    torch.testing.assert_close(ours, theirs[:, 0], **TOLERANCE)


# --- the optimiser --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.1])
def test_the_optimiser_walks_the_same_way_for_twenty_steps(anomalib, weight_decay):
    """Gradients of one law, then a hundred times larger (the update is clipped), then of the first again."""
    torch.manual_seed(0)
    ours = nn.Linear(16, 8)
    theirs = nn.Linear(16, 8)
    theirs.load_state_dict(ours.state_dict())
    optimizer = StableAdamW(ours.named_parameters(), weight_decay=weight_decay)
    reference = anomalib.optimizer.StableAdamW(
        theirs.parameters(), lr=2e-3, betas=(0.9, 0.999), eps=1e-10, weight_decay=weight_decay, amsgrad=True
    )
    for step in range(20):
        scale, lr = 100.0 if step in (8, 9) else 1.0, 2e-3 * (1 + step) / 20
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = scale * torch.randn_like(mine)
            its.grad = mine.grad.clone()
        reference.param_groups[0]["lr"] = lr
        reference.step()
        optimizer.step(lr)
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-6)


def test_twenty_steps_of_real_training_end_alike(anomalib, ours, theirs):
    """Decoder, loss, ramp, clipping and optimiser together, without dropout."""
    optimizer = StableAdamW(ours.named_parameters(), weight_decay=1e-4)
    reference = anomalib.optimizer.StableAdamW(
        theirs.parameters(), lr=2e-4, betas=(0.9, 0.999), eps=1e-10, weight_decay=1e-4, amsgrad=True
    )
    loss_fn = anomalib.components.CosineHardMiningLoss(p_schedule_steps=10)
    params = train_params(steps=100, hard_final_share=0.9, hard_ramp_steps=10)
    for step in range(20):
        eight = layers(step % 4)
        fused = fuse(eight)
        reference.zero_grad()
        expected = loss_fn([spatial(g) for g in fused.unbind(1)], [spatial(g) for g in theirs(eight)], global_step=step)
        expected.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        reference.step()

        optimizer.zero_grad()
        rebuilt = ours(fused)
        found = loose_cosine_loss(fused[:, :, PREFIX:], rebuilt[:, :, PREFIX:], hard_mining_share(step, params), 0.1)
        found.backward()
        nn.utils.clip_grad_norm_(ours.parameters(), 0.1)
        optimizer.step(2e-4)
        torch.testing.assert_close(found, expected, **TOLERANCE)
