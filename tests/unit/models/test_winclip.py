"""WinCLIP on a small CLIP of open_clip's own make: its laws, its files, its refusals; nothing stands in for weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from fixtures.clip import GRID, SIDE, TINY, tiny_clip
from fixtures.effort import examples
from fixtures.learning import ROOT, picture, project_params
from shadowline.core.params import ZeroShotParams
from shadowline.features import backbones
from shadowline.models.detector import Detector
from shadowline.models.loader import DetectorKind, find_model, load_detector
from shadowline.models.winclip.detector import WinClip
from shadowline.models.winclip.prompts import Prompts, read_book
from shadowline.models.winclip.scoring import (
    anomaly_share,
    harmonic_map,
    harmonic_mean,
    language_map,
    window_patches,
)
from shadowline.models.winclip.tower import TowerDesign, build_tower, embed_image, embed_images
from shadowline.models.winclip.weights import Clip, embed_sides, load_clip

PROMPTS = Prompts("some", ("a photo of a bolt.", "perfect bolt", "a bolt"), ("damaged bolt", "bolt with a crack"))
IMAGES = [picture(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> ZeroShotParams:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(params: ZeroShotParams) -> Clip:
    return load_clip(params, Path())


@pytest.fixture(scope="module")
def zero_shot(clip: Clip, params: ZeroShotParams) -> WinClip:
    return WinClip.from_words("bolt", PROMPTS, clip, params)


# --- the mathematics ------------------------------------------------------------------------------------------------

grids = st.tuples(st.integers(1, 7), st.integers(1, 7))


@given(grid=grids, side=st.integers(1, 7))
def test_a_window_covers_exactly_its_square_of_patches_and_every_patch_is_covered(grid, side):
    rows, columns = grid
    if side > min(grid):
        with pytest.raises(ValueError, match=r"zero_shot\.window_scales: a window of"):
            window_patches(grid, side)
        return
    found = window_patches(grid, side)
    corners = [(top, left) for top in range(rows - side + 1) for left in range(columns - side + 1)]
    squares = [[(top + i) * columns + left + j for i in range(side) for j in range(side)] for top, left in corners]
    assert found.tolist() == squares
    assert set(found.flatten().tolist()) == set(range(rows * columns))


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=8))
def test_the_harmonic_mean_lies_between_the_smallest_and_the_largest_and_below_the_mean(values):
    scores = torch.tensor(values, dtype=torch.float64)
    found = float(harmonic_mean(scores, dim=0))
    assert min(values) - 1e-12 <= found <= max(values) + 1e-12
    assert found <= float(scores.mean()) + 1e-12


@settings(max_examples=examples(40))
@given(grid=st.tuples(st.integers(3, 6), st.integers(3, 6)), side=st.integers(1, 3), seed=st.integers(0, 999))
def test_a_patch_s_score_lies_between_those_of_the_windows_that_cover_it(grid, side, seed):
    windows = window_patches(grid, side)
    scores = torch.rand(2, len(windows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = harmonic_map(scores, windows, grid).flatten(1)
    for patch in range(grid[0] * grid[1]):
        covering = scores[:, (windows == patch).any(dim=1)]
        assert (covering.amin(1) - 1e-12 <= found[:, patch]).all()
        assert (found[:, patch] <= covering.amax(1) + 1e-12).all()


def test_equal_windows_give_that_value_everywhere_and_a_zero_makes_its_patches_zero():
    windows = window_patches((4, 4), 2)
    scores = torch.full((1, 9), 0.25)
    assert torch.allclose(harmonic_map(scores, windows, (4, 4)), torch.tensor(0.25))
    scores[0, 0] = 0.0
    found = harmonic_map(scores, windows, (4, 4))[0]
    assert (found[:2, :2] == 0).all()
    assert torch.allclose(found[2:], torch.tensor(0.25))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_the_anomaly_share_is_half_between_the_sides_and_rises_towards_the_anomalous_one(temperature):
    text = torch.eye(2)
    angles = torch.linspace(0, torch.pi / 2, 9)
    share = anomaly_share(torch.stack([angles.cos(), angles.sin()], dim=1), text, temperature)
    assert share[4] == pytest.approx(0.5, abs=1e-5)
    assert (share.diff() >= 0).all() and share[0] < 0.5 < share[-1]
    assert torch.allclose(anomaly_share(7 * text, 3 * text, temperature), anomaly_share(text, text, temperature))


def test_scales_and_image_weigh_alike_in_a_map():
    """One window over the whole grid, so that every patch has the value of each scale."""
    windows = [window_patches((2, 2), 2), window_patches((2, 2), 2)]
    scales = [torch.tensor([[0.5]]), torch.tensor([[0.25]])]
    words = language_map(torch.tensor([1.0]), scales, windows, (2, 2))
    assert torch.allclose(words, torch.tensor(3 / (1 + 2 + 4)))


# --- text -----------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(10), deadline=None)
@given(normal=st.permutations(PROMPTS.normal), anomalous=st.permutations(PROMPTS.anomalous))
def test_the_order_of_the_prompts_within_a_side_changes_nothing(clip, zero_shot, normal, anomalous):
    text = embed_sides(clip, Prompts("some", tuple(normal), tuple(anomalous)))
    assert torch.equal(text, zero_shot.text_2D)


def test_a_side_is_the_mean_of_its_prompts_at_length_one(clip, zero_shot):
    tokens = clip.tokenizer(list(PROMPTS.anomalous))
    mean = clip.network.encode_text(tokens).mean(dim=0)
    assert torch.allclose(zero_shot.text_2D[1], mean / mean.norm(), atol=1e-6)
    assert torch.allclose(zero_shot.text_2D.norm(dim=1), torch.ones(2))


def test_more_prompts_than_a_batch_are_all_read(clip):
    many = tuple(f"bolt number {number}" for number in range(150))
    mean = torch.stack([clip.network.encode_text(clip.tokenizer([text]))[0] for text in many]).mean(dim=0)
    found = embed_sides(clip, Prompts("many", many, ("bad bolt",)))[0]
    assert torch.allclose(found, mean / mean.norm(), atol=1e-5)


def test_a_prompt_that_the_tower_would_cut_is_refused(clip):
    with pytest.raises(ValueError, match=r"prompt 'bolt bolt .*: 92 tokens, at most 77; shorten it"):
        embed_sides(clip, Prompts("long", ("a bolt", " ".join(["bolt"] * 90)), ("bad bolt",)))


# --- the tower ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"pos_embed_type": "sin_cos_2d"},
        {"patch_dropout": 0.5},
        {"attentional_pool": True, "attn_pooler_heads": 2},
    ],
    ids=str,
)
def test_the_image_s_embedding_is_open_clip_s_own_in_every_kind_of_tower(vision, tmp_path):
    clip = load_clip(tiny_clip(tmp_path, **vision), Path())
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    windows = [window_patches(GRID, side) for side in (2, 3)]
    found, expected = embed_images(clip.tower, pixels, windows), clip.network.encode_image(pixels)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert torch.allclose(found.image_BD, expected, atol=1e-4)
    assert torch.allclose(embed_image(clip.tower, pixels), expected, atol=1e-4)
    assert [tuple(window.shape) for window in found.windows] == [(2, 25, 32), (2, 16, 32)]


def test_a_window_over_the_whole_grid_is_the_whole_image(clip):
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = embed_images(clip.tower, pixels, [window_patches(GRID, 6)])
    assert torch.allclose(found.windows[0][:, 0], found.image_BD, atol=1e-4)


def test_a_window_sees_nothing_beyond_its_patches(clip):
    """Pixels change in the last column of patches only."""
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    changed = pixels.clone()
    changed[..., -8:] += 1.0
    windows = [window_patches(GRID, 2)]
    before, after = (
        embed_images(clip.tower, image, windows).windows[0][0].reshape(5, 5, -1) for image in (pixels, changed)
    )
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-5)
    assert ((before - after)[:, 4].norm(dim=-1) > 0.1).all()


# --- scores and maps ------------------------------------------------------------------------------------------------


def test_scores_and_maps_have_their_shapes_and_lie_in_0_to_1(zero_shot):
    scores, maps = zero_shot.score(IMAGES), zero_shot.maps(IMAGES)
    assert scores.shape == (3,) and maps.shape == (3, SIDE, SIDE)
    assert ((scores >= 0) & (scores <= 1)).all() and ((maps >= 0) & (maps <= 1)).all()
    assert np.ptp(scores) > 1e-3
    assert zero_shot.score([]).shape == (0,) and zero_shot.maps([]).shape == (0, SIDE, SIDE)


def test_a_batch_equals_one_by_one(zero_shot):
    assert zero_shot.score(IMAGES).tolist() == [zero_shot.score([image])[0] for image in IMAGES]
    assert np.array_equal(zero_shot.maps(IMAGES), np.concatenate([zero_shot.maps([image]) for image in IMAGES]))


def test_swapping_the_sides_of_the_text_turns_the_score_over(clip, params, zero_shot):
    turned = WinClip.from_words("bolt", Prompts("turned", PROMPTS.anomalous, PROMPTS.normal), clip, params)
    assert turned.score(IMAGES) == pytest.approx(1 - zero_shot.score(IMAGES), abs=1e-6)


def test_colour_mode_of_a_grey_image_does_not_matter(zero_shot):
    grey = picture(5).convert("L")
    assert len({*zero_shot.score([grey, grey.convert("RGB"), grey.convert("RGBA")]).tolist()}) == 1


def test_an_image_of_another_shape_is_squeezed_and_not_cropped(zero_shot):
    """A mark at the far end of a wide image still counts."""
    wide = Image.new("RGB", (200, 50), "grey")
    marked = wide.copy()
    marked.paste("white", (190, 0, 200, 50))
    assert zero_shot.score([wide])[0] != zero_shot.score([marked])[0]


@pytest.mark.parametrize(("scales", "temperature"), [((2,), 0.07), ((1, 2, 3), 0.07), ((2, 3), 0.5)])
def test_scales_and_temperature_of_the_params_reach_the_map(clip, params, zero_shot, scales, temperature):
    other = params.model_copy(update={"window_scales": scales, "temperature": temperature})
    found = WinClip.from_words("bolt", PROMPTS, clip, other)
    assert not np.allclose(found.maps(IMAGES[:1]), zero_shot.maps(IMAGES[:1]), atol=1e-3)
    assert found.fingerprint != zero_shot.fingerprint


def test_a_scale_beyond_the_grid_is_refused(clip, params):
    with pytest.raises(ValueError, match=r"zero_shot\.window_scales: a window of 7 patches, need 1…6"):
        WinClip.from_words("bolt", PROMPTS, clip, params.model_copy(update={"window_scales": (2, 7)}))


# --- threshold and files --------------------------------------------------------------------------------------------


def test_words_decide_by_the_threshold_of_the_params(clip, params, zero_shot):
    strict = WinClip.from_words("bolt", PROMPTS, clip, params.model_copy(update={"threshold": 0.7}))
    assert (zero_shot.threshold, strict.threshold) == (0.5, 0.7)
    assert strict.fingerprint != zero_shot.fingerprint


def test_calibration_gives_a_new_detector_with_the_conformal_threshold(zero_shot):
    scores = np.linspace(0.1, 0.2, 19)
    calibrated = zero_shot.calibrate(scores, target_fpr=0.05)
    assert calibrated.threshold == scores.max()
    assert calibrated.fingerprint != zero_shot.fingerprint
    with pytest.raises(ValueError, match="class 'bolt': 18 calibration normals, need 19"):
        zero_shot.calibrate(scores[:18], target_fpr=0.05)


def test_a_saved_detector_needs_nothing_but_its_directory(tmp_path_factory):
    """Neither the CLIP that it came from, nor the text tower, nor the prompts."""
    sources = tmp_path_factory.mktemp("sources")
    params = tiny_clip(sources)
    detector = WinClip.from_words("bolt", PROMPTS, load_clip(params, Path()), params)
    detector = detector.calibrate(np.linspace(0, 0.4, 30), target_fpr=0.1)
    directory = tmp_path_factory.mktemp("saved")
    detector.save(directory)
    shutil.rmtree(sources)
    back = load_detector(str(directory), "bolt")
    assert find_model(str(directory))[1] is DetectorKind.WINCLIP
    assert isinstance(back, WinClip)
    assert (back.config, back.fingerprint, back.threshold) == (
        detector.config,
        detector.fingerprint,
        detector.threshold,
    )
    assert back.memory_bytes == detector.memory_bytes
    assert back.score(IMAGES).tolist() == detector.score(IMAGES).tolist()
    assert np.array_equal(back.maps(IMAGES), detector.maps(IMAGES))
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "weights.safetensors"]
    assert not [name for name in load_file(directory / "weights.safetensors") if "token_embedding" in name]


def test_saving_twice_writes_the_same_bytes(zero_shot, tmp_path):
    for name in ("first", "second"):
        zero_shot.save(tmp_path / name)
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_model_of_another_class_is_refused(zero_shot, tmp_path):
    zero_shot.save(tmp_path)
    with pytest.raises(ValueError, match="a model of class 'bolt', not 'nut'"):
        load_detector(str(tmp_path), "nut")


def test_a_tampered_or_partial_directory_is_refused(zero_shot, tmp_path):
    zero_shot.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "temperature": 0.01}))
    with pytest.raises(ValueError, match="fingerprint"):
        WinClip.load(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors: no such file"):
        WinClip.load(tmp_path)


def test_other_weights_are_another_fingerprint(zero_shot, tmp_path):
    params = tiny_clip(tmp_path, seed=1)
    other = WinClip.from_words("bolt", PROMPTS, load_clip(params, Path()), params)
    assert other.fingerprint != zero_shot.fingerprint
    assert not np.allclose(other.score(IMAGES), zero_shot.score(IMAGES), atol=1e-3)


def test_winclip_is_a_detector(zero_shot):
    """mypy checks the signatures; this checks that every member is there before any calibration."""
    detector: Detector = zero_shot
    for name in ("class_name", "fingerprint", "threshold", "score", "maps"):
        assert getattr(detector, name) is not None


# --- weights that are missing or do not fit -------------------------------------------------------------------------


def project_zero_shot(**changes: object) -> ZeroShotParams:
    return ZeroShotParams.model_validate({**project_params().zero_shot.model_dump(), **changes})


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of the hub, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SHADOWLINE_ALLOW_NETWORK", raising=False)


def message_of(params: ZeroShotParams, root: Path = ROOT) -> str:
    with pytest.raises(ValueError) as caught:
        load_clip(params, root)
    return str(caught.value)


def test_weights_that_the_hub_does_not_give_are_named_with_every_way_to_get_them(offline):
    found = message_of(project_zero_shot(weights="hub"))
    assert "open_clip_model.safetensors" in found
    assert "https://huggingface.co/timm/vit_base_patch16_plus_clip_240.laion400m_e31" in found
    for word in ("laion400m_e31", "zero_shot.location", "weights: file", "SHADOWLINE_ALLOW_NETWORK"):
        assert word in found


def test_a_missing_file_is_named_with_every_way_to_get_it(tmp_path):
    found = message_of(project_zero_shot(weights="file", location="clip.safetensors"), tmp_path)
    assert found.startswith(f"zero_shot.location: {tmp_path / 'clip.safetensors'} is missing")
    assert "https://huggingface.co/timm/vit_base_patch16_plus_clip_240.laion400m_e31" in found
    assert "SHADOWLINE_ALLOW_NETWORK" in found


@pytest.mark.parametrize("name", ["clip.pt", "open_clip_pytorch_model.bin", "clip.pth", ""])
def test_a_pickle_is_refused_unread_with_the_way_to_convert_it(name, tmp_path):
    if name:
        (tmp_path / name).write_bytes(b"\x80\x02.")
    found = message_of(project_zero_shot(weights="file", location=name), tmp_path)
    assert "need a .safetensors file" in found and "safetensors.torch.save_file" in found


def test_weights_of_another_architecture_are_refused(tmp_path):
    params = tiny_clip(tmp_path)
    other = tiny_clip(tmp_path / "wide", width=128)
    assert "not weights of" in message_of(params.model_copy(update={"location": other.location}))
    state = load_file(params.location)
    del state["visual.proj"]
    save_file(state, params.location)
    assert "visual.proj" in message_of(params)
    Path(params.location).write_bytes(b"no safetensors")
    assert "not weights of" in message_of(params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "ViT-B-16-plus-24"}, "open_clip has no 'ViT-B-16-plus-24'; did you mean ViT-B-16-plus"),
        ({"architecture": "RN50"}, "windows need open_clip's own vision transformer"),
        ({"architecture": "ViT-B-16-SigLIP"}, "is not part of open_clip"),
        ({"architecture": "PE-Core-B-16", "pretrained": ""}, "windows need open_clip's own vision transformer"),
        ({"pretrained": "laion400m"}, "has no 'laion400m', open_clip knows ['laion400m_e31', 'laion400m_e32']"),
        ({"architecture": "ViT-B-32", "pretrained": "openai"}, "take the one with -quickgelu"),
        ({"architecture": "ViT-B-32-quickgelu", "pretrained": "laion400m_e31"}, "open_clip_model.safetensors of"),
        ({"pretrained": ""}, "is not on the model hub"),
        ({"architecture": "none.json"}, "none.json is missing"),
    ],
)
def test_an_architecture_that_cannot_be_used_is_refused_before_any_weights(changes, message, offline):
    assert message in message_of(project_zero_shot(weights="hub", **changes))


def test_an_own_architecture_must_have_open_clip_s_form(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({key: TINY[key] for key in ("embed_dim", "vision_cfg")}))
    found = message_of(project_zero_shot(architecture="own.json", pretrained=""), tmp_path)
    assert "own.json lacks ['text_cfg']" in found


def test_pixels_are_normalised_as_the_tag_was_trained(tmp_path):
    """ViT-L-14's LAION-2B weights were trained on another mean than OpenAI's."""
    from shadowline.models.winclip import weights

    def mean_of(tag: str) -> tuple[float, ...]:
        params = project_zero_shot(architecture="ViT-L-14", pretrained=tag)
        return tuple(weights._trained_with(params, weights.read_architecture("ViT-L-14", tmp_path))["mean"])

    assert mean_of("laion2b_s32b_b82k") == (0.5, 0.5, 0.5)
    assert mean_of("") == mean_of("laion400m_e32") == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)


def test_every_vision_transformer_of_open_clip_s_own_can_be_described(tmp_path):
    """Towers are not built here: the largest has billions of weights."""
    from shadowline.models.winclip.weights import read_architecture

    library, usable = backbones.open_clip(), []
    for name in library.list_models():
        try:
            config = read_architecture(name, tmp_path)
            TowerDesign(config["embed_dim"], config.get("quick_gelu", False), config["vision_cfg"])
        except ValueError:
            continue
        usable.append(name)
    assert {"ViT-B-16-plus-240", "ViT-B-32", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14", "coca_ViT-B-32"} <= set(usable)
    assert len(usable) >= 30


def test_the_default_architecture_has_the_paper_s_grid_and_windows():
    config = backbones.open_clip().get_model_config(project_params().zero_shot.architecture)
    with torch.device("meta"):
        tower = build_tower(TowerDesign(config["embed_dim"], False, config["vision_cfg"]))
    assert (tower.grid_size, tower.image_size) == ((15, 15), (240, 240))
    assert [len(window_patches((15, 15), side)) for side in project_params().zero_shot.window_scales] == [196, 169]


def test_the_project_s_prompts_fit_the_text_tower(clip):
    for class_name in project_params().classes:
        for prompts in read_book(ROOT / "prompts", class_name).fillable():
            assert max(len(clip.tokenizer.encode(text)) for text in (*prompts.normal, *prompts.anomalous)) <= 75


@pytest.mark.parametrize("scales", [[3, 2], [2, 2], [], [0, 2]])
def test_window_scales_must_rise(scales):
    with pytest.raises(ValueError):
        project_zero_shot(window_scales=scales)


def test_the_project_s_zero_shot_params_are_the_paper_s():
    own = project_params().zero_shot
    assert (own.window_scales, own.temperature, own.architecture) == ((2, 3), 0.07, "ViT-B-16-plus-240")
