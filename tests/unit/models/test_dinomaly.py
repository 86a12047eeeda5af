"""The decoder, its loss and its optimiser: shapes, and the laws that the paper states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from fixtures.learning import GROUPS, PATCHES, PREFIX, SPEC, WIDTH, fake_fused
from shadowline.models.dinomaly.loss import loose_cosine_loss
from shadowline.models.dinomaly.model import (
    Decoder,
    LinearAttention,
    NoisyBottleneck,
    load_decoder,
    reconstruction_map,
    save_decoder,
)
from shadowline.models.dinomaly.optimizer import StableAdamW

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    return SPEC.build().eval()


# --- the decoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "groups", "prefix", "blocks"), [(64, 2, 1, 2), (128, 1, 5, 3), (192, 4, 1, 8)])
def test_a_reconstruction_has_the_shape_of_its_features(width, groups, prefix, blocks):
    spec = replace(SPEC, width=width, num_groups=groups, num_prefix=prefix, num_blocks=blocks)
    fused = torch.randn(3, groups, prefix + PATCHES, width)
    assert spec.build()(fused).shape == fused.shape
    assert spec.build().blocks[0].attn.num_heads == width // 64


def test_the_last_blocks_reconstruct_the_first_group():
    """With four blocks and two groups: group 0 is the mean of blocks 3 and 2, group 1 of blocks 1 and 0."""
    decoder = replace(SPEC, num_blocks=4).build().eval()
    outputs = []
    for block in decoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    rebuilt = decoder(fake_fused(2, 0))
    assert torch.equal(rebuilt[:, 0], torch.stack([outputs[3], outputs[2]]).mean(0))
    assert torch.equal(rebuilt[:, 1], torch.stack([outputs[1], outputs[0]]).mean(0))


def test_the_decoder_sees_only_the_mean_of_the_groups(decoder):
    fused = fake_fused(2, 0)
    mean = fused.mean(dim=1, keepdim=True).expand_as(fused)
    assert torch.allclose(decoder(fused), decoder(mean), atol=1e-6)


def test_fresh_weights_are_small_and_biases_zero(decoder):
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= 0.03
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
            assert not module.bias.any()


def test_linear_attention_is_its_quadratic_definition():
    """Each output is the mean of the values weighted by φ(q)·φ(k), written out over all pairs of tokens."""
    torch.manual_seed(0)
    attention = LinearAttention(WIDTH, num_heads=2).double()
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    q, k, v = attention.qkv(x).reshape(2, 7, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
    affinity = (functional.elu(q) + 1) @ (functional.elu(k) + 1).transpose(-2, -1)
    mixed = (affinity / affinity.sum(-1, keepdim=True)) @ v
    assert torch.allclose(attention(x), attention.proj(mixed.transpose(1, 2).reshape(2, 7, WIDTH)), atol=1e-12)


def test_the_bottleneck_is_noisy_in_training_only():
    bottleneck = NoisyBottleneck(WIDTH, dropout=0.2)
    x = torch.randn(2, 3, WIDTH)
    assert not torch.equal(bottleneck.train()(x), bottleneck(x))
    assert torch.equal(bottleneck.eval()(x), bottleneck(x))


def test_the_bottleneck_drops_its_output_at_the_named_rate():
    torch.manual_seed(0)
    dropped = NoisyBottleneck(WIDTH, dropout=0.3).train()(torch.randn(50, 20, WIDTH)) == 0
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 5}, "train.decoder_blocks: 5 is not a multiple of encoder.groups 2"),
        ({"width": 129}, "decoder: width 129 is not a multiple of 2 heads"),
    ],
)
def test_a_decoder_that_cannot_be_divided_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **changes).build()


def test_a_decoder_survives_the_disk_bit_for_bit(decoder, tmp_path):
    path = tmp_path / "deep/decoder.safetensors"
    save_decoder(decoder, SPEC, path)
    loaded, spec = load_decoder(path)
    assert spec == SPEC
    assert not loaded.training
    assert torch.equal(loaded(fake_fused(2, 0)), decoder(fake_fused(2, 0)))


def test_equal_decoders_are_equal_files(decoder, tmp_path):
    for name in ("one", "two"):
        save_decoder(decoder, SPEC, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_missing_decoder_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no decoder; run `dvc repro train`"):
        load_decoder(tmp_path / "decoder.safetensors")


# --- the map --------------------------------------------------------------------------------------------------------


def test_the_map_is_zero_for_equal_and_two_for_opposite_features():
    fused = fake_fused(2, 0)
    assert reconstruction_map(fused, fused, PREFIX).shape == (2, PATCHES)
    assert torch.allclose(reconstruction_map(fused, fused, PREFIX), torch.zeros(2, PATCHES), atol=1e-6)
    assert torch.allclose(reconstruction_map(fused, -fused, PREFIX), torch.full((2, PATCHES), 2.0), atol=1e-6)


def test_a_wrong_patch_shows_at_its_own_place_and_prefix_tokens_never():
    fused = fake_fused(1, 0)
    rebuilt = fused.clone()
    rebuilt[:, :, :PREFIX] *= -1
    rebuilt[:, 0, PREFIX + 5] *= -1  # one of two groups: a distance of 2, halved by the mean
    found = reconstruction_map(fused, rebuilt, PREFIX)[0]
    assert found[5].item() == pytest.approx(1.0, abs=1e-6)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)


# --- the loss -------------------------------------------------------------------------------------------------------


def losses(easy_share: float, factor: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Target, reconstruction, loss, gradient of the reconstruction."""
    target = fake_fused(3, 0)
    rebuilt = fake_fused(3, 1).requires_grad_()
    loss = loose_cosine_loss(target, rebuilt, easy_share, factor)
    loss.backward()
    return target, rebuilt.detach(), loss.detach(), rebuilt.grad


def test_the_loss_is_the_mean_over_groups_of_one_minus_the_whole_feature_s_cosine():
    target, rebuilt, loss, _ = losses(0.5, 0.1)
    cosines = [
        functional.cosine_similarity(target[b, g].flatten(), rebuilt[b, g].flatten(), dim=0)
        for b in range(3)
        for g in range(GROUPS)
    ]
    assert loss.item() == pytest.approx(1 - torch.stack(cosines).mean().item(), abs=1e-6)


def test_the_share_of_easy_points_changes_the_gradient_and_never_the_loss():
    _, _, plain, plain_gradient = losses(0.0, 0.1)
    _, _, loose, loose_gradient = losses(0.75, 0.1)
    assert torch.equal(plain, loose)
    assert loose_gradient.norm() < plain_gradient.norm()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_exactly_the_easiest_points_of_the_batch_pass_back_less(share, factor):
    target, rebuilt, _, gradient = losses(share, factor)
    _, _, _, plain = losses(0.0, factor)
    for group in range(GROUPS):
        distance = 1 - functional.cosine_similarity(target[:, group], rebuilt[:, group], dim=-1)
        num_hard = max(1, int(distance.numel() * (1 - share)))
        hard = distance >= distance.flatten().sort(descending=True).values[num_hard - 1]
        assert int(hard.sum()) == num_hard
        expected = plain[:, group] * torch.where(hard, 1.0, factor)[..., None]
        assert torch.equal(gradient[:, group], expected)


def test_the_target_passes_nothing_back():
    target = fake_fused(2, 0).requires_grad_()
    loose_cosine_loss(target, fake_fused(2, 1).requires_grad_(), 0.5, 0.1).backward()
    assert target.grad is None


# --- the optimiser --------------------------------------------------------------------------------------------------


def stepped(gradients: list[torch.Tensor | None], *, weight_decay: float = 0.0, lr: float = 0.1) -> torch.Tensor:
    """A parameter of ones after one step per gradient."""
    parameter = nn.Parameter(torch.ones(4))
    optimizer = StableAdamW([("w", parameter)], weight_decay=weight_decay)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step(lr)
    return parameter.detach()


def test_the_first_step_moves_by_the_rate_against_the_sign():
    """Bias corrections make the first step ±lr, whatever the size of the gradient."""
    moved = stepped([torch.tensor([1e-3, -1e-3, 10.0, -10.0])])
    assert torch.allclose(moved, 1 - 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0]), atol=1e-5)


def test_a_sudden_large_gradient_is_clipped_by_its_surprise():
    """After 50 small gradients one of 1000 times the size: unclipped, Adam would step by more than lr."""
    small, large = torch.full((4,), 1e-3), torch.full((4,), 1.0)
    before, after = stepped([small] * 50), stepped([*[small] * 50, large])
    assert 0 < (before - after).max() < 0.1 / 3


def test_decay_is_decoupled_from_the_gradient():
    assert torch.allclose(stepped([torch.zeros(4)], weight_decay=0.5), torch.full((4,), 1 - 0.1 * 0.5))


def test_a_parameter_without_a_gradient_stays():
    assert torch.equal(stepped([None, None], weight_decay=0.5), torch.ones(4))


def test_amsgrad_never_forgets_the_largest_second_moment():
    parameter = nn.Parameter(torch.ones(4))
    optimizer = StableAdamW([("w", parameter)], weight_decay=0.0)
    peaks = []
    for scale in (1.0, 0.0, 0.0, 0.0):
        parameter.grad = torch.full((4,), scale)
        optimizer.step(0.1)
        peaks.append(optimizer.state["max_square.w"].clone())
    assert all(torch.equal(peak, peaks[0]) for peak in peaks)
    assert (optimizer.state["square.w"] < peaks[0]).all()


def test_gradients_are_cleared():
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    StableAdamW([("w", parameter)], weight_decay=0.0).zero_grad()
    assert parameter.grad is None
