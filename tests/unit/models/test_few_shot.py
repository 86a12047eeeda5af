"""Few-shot inspection: the nearest reference patch decides, and the threshold says what it can promise."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fixtures.effort import examples
from fixtures.learning import picture, project_params, stub_encoder
from shadowline.benchmarks.few_shot import grown_scores
from shadowline.core.params import EncoderParams, FewShotParams
from shadowline.features.encoder import Encoder, build_network, load_encoder, save_encoder
from shadowline.models.few_shot.detector import FewShot
from shadowline.models.few_shot.model import (
    Basis,
    Distance,
    FewShotReferences,
    distance_map,
    encode_references,
    image_score,
    leave_one_out,
    unit_patches,
)
from shadowline.models.loader import DetectorKind, find_model, load_detector

pytestmark = pytest.mark.usefixtures("one_thread")
GROUPS, PATCHES, WIDTH = 2, 16, 8
ALL_VIEWS = ("hflip", "vflip", "rot90", "rot180", "rot270")
DISTANCES = list(Distance)


def features(count: int, seed: int, *, num_views: int = 1) -> Tensor:
    """(N, V, G, P, D) float16: one class's pattern and some noise."""
    pattern = torch.randn(1, 1, GROUPS, PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(count, num_views, GROUPS, PATCHES, WIDTH, generator=torch.Generator().manual_seed(seed + 1))
    return (pattern + 0.3 * noise).half()


def references(count: int, seed: int = 0, *, num_views: int = 1) -> FewShotReferences:
    views = ("original", *ALL_VIEWS)[:num_views]
    return FewShotReferences("bolt", features(count, seed, num_views=num_views), views, "f" * 64)


def few_shot_params(**changes: object) -> FewShotParams:
    return FewShotParams.model_validate({**project_params().few_shot.model_dump(), **changes})


# --- distances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_map_is_the_brute_force_nearest_neighbour(distance):
    query, known = unit_patches(features(1, 5)[0, 0]), references(3, num_views=2)
    expected = np.zeros((GROUPS, PATCHES))
    for group, patch in itertools.product(range(GROUPS), range(PATCHES)):
        cosine = known.all_RGPD[:, group].flatten(0, 1).double() @ query[group, patch].double()
        angle = 1.0 - float(cosine.max())
        expected[group, patch] = angle if distance is Distance.COSINE else np.sqrt(2 * angle)
    np.testing.assert_allclose(distance_map(query, known.all_RGPD, distance), expected.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_an_image_that_is_its_own_reference_scores_the_minimum_exactly(distance):
    known = references(4)
    for own in known.unit_NVGPD[:, 0]:
        assert not distance_map(own, known.all_RGPD, distance).any()


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 1000), first=st.integers(1, 5), distance=st.sampled_from(DISTANCES))
def test_more_references_never_raise_a_patch_s_distance_or_a_score(seed, first, distance):
    """Exactly, not to rounding: the promise of the threshold rests on it."""
    query, known = unit_patches(features(1, seed + 2000)[0, 0]), references(6, seed).all_RGPD
    fewer, more = (distance_map(query, some, distance) for some in (known[:first], known))
    assert (more <= fewer).all()
    assert image_score(more, 0.2) <= image_score(fewer, 0.2)


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(5)), distance=st.sampled_from(DISTANCES))
def test_the_order_of_references_changes_nothing(seed, order, distance):
    query, known = unit_patches(features(1, seed + 2000)[0, 0]), references(5, seed, num_views=2)
    shuffled = FewShotReferences("bolt", known.fused_NVGPD[list(order)], known.views, known.fingerprint)
    np.testing.assert_array_equal(
        distance_map(query, known.all_RGPD, distance), distance_map(query, shuffled.all_RGPD, distance)
    )
    assert leave_one_out(known, distance, 0.1, 0.05) == leave_one_out(shuffled, distance, 0.1, 0.05)


def test_the_length_of_a_patch_does_not_matter():
    query, known = features(1, 5)[0, 0].float(), references(2).all_RGPD
    one, other = (distance_map(unit_patches(k * query), known, Distance.COSINE) for k in (1.0, 7.0))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_view_is_found_where_its_image_alone_is_far(encoder):
    image = picture(1)
    turned = unit_patches(
        encoder.encode([image.transpose(Image.Transpose.ROTATE_180)], padded=False)[0, :, encoder.num_prefix :].half()
    )
    without, with_view = (encode_references("bolt", [image], encoder, views) for views in ((), ("rot180",)))
    assert distance_map(turned, without.all_RGPD, Distance.COSINE).min() > 0
    assert not distance_map(turned, with_view.all_RGPD, Distance.COSINE).any()


@given(shots=st.sets(st.integers(1, 6), min_size=1))
@settings(max_examples=examples(10), deadline=None)
def test_scores_of_growing_references_are_those_of_each_number_alone(shots):
    few, known = few_shot_params(views=["hflip"]), references(6, num_views=2)
    query = unit_patches(features(1, 77)[0, 0])
    expected = [
        image_score(distance_map(query, known.unit_NVGPD[:n].flatten(0, 1), Distance.COSINE), few.top_share)
        for n in sorted(shots)
    ]
    assert grown_scores(query, known, sorted(shots), few) == expected


# --- the threshold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "target", "promised", "provisional"),
    [
        (2, 0.05, 1 / 3, True),
        (4, 0.05, 0.2, True),
        (16, 0.05, 1 / 17, True),
        (19, 0.05, 0.05, False),
        (4, 0.4, 0.4, False),
    ],
)
def test_no_rate_better_than_one_in_n_plus_one_is_promised(count, target, promised, provisional):
    rule = leave_one_out(references(count), Distance.COSINE, 0.1, target)
    assert rule.promised_fpr == pytest.approx(promised)
    assert (rule.provisional, rule.basis, len(rule.scores)) == (provisional, Basis.IMAGES, count)
    assert rule.threshold in rule.scores
    assert rule.threshold == rule.scores[-1] or not provisional


def test_one_image_promises_nothing_and_its_views_stand_in():
    rule = leave_one_out(references(1, num_views=3), Distance.COSINE, 0.1, 0.05)
    assert (rule.promised_fpr, rule.provisional, rule.basis, len(rule.scores)) == (None, True, Basis.VIEWS, 3)
    assert rule.threshold == max(rule.scores) > 0


def test_leaving_an_image_out_leaves_its_views_out():
    """Else an image would find itself in its mirror, and every threshold were too low."""
    fused = features(3, 0).repeat(1, 2, 1, 1, 1)  # each image's second view is the image again
    twins = FewShotReferences("bolt", fused, ("original", "hflip"), "f")
    alone = leave_one_out(references(3), Distance.COSINE, 0.1, 0.05)
    assert leave_one_out(twins, Distance.COSINE, 0.1, 0.05) == alone


def test_each_reference_is_scored_as_it_is_against_all_views_of_the_others():
    known = references(3, num_views=2)
    expected = []
    for i in range(3):
        others = torch.cat([known.unit_NVGPD[:i], known.unit_NVGPD[i + 1 :]]).flatten(0, 1)
        expected.append(image_score(distance_map(known.unit_NVGPD[i, 0], others, Distance.EUCLIDEAN), 0.1))
    assert leave_one_out(known, Distance.EUCLIDEAN, 0.1, 0.05).scores == tuple(sorted(expected))


def test_the_promise_holds_over_many_draws():
    """1/(n+1) with n = 4: of 400 fresh normals at most 80 are expected above; 110 lies beyond three deviations."""
    alarms = 0
    for draw in range(400):
        fused = features(5, 10_000 + draw)
        known = FewShotReferences("bolt", fused[:4], ("original",), "f")
        rule = leave_one_out(known, Distance.COSINE, 0.1, 0.05)
        query = unit_patches(fused[4, 0])
        alarms += image_score(distance_map(query, known.all_RGPD, Distance.COSINE), 0.1) > rule.threshold
    assert 20 < alarms <= 110


# --- refusals -------------------------------------------------------------------------------------------------------


def test_no_reference_is_refused(encoder):
    with pytest.raises(ValueError, match="class 'bolt': 0 reference images, need at least 1; give a normal image"):
        encode_references("bolt", [], encoder, ("hflip",))


def test_one_image_without_views_gives_no_threshold():
    with pytest.raises(ValueError, match="class 'bolt': 1 reference image without views gives no threshold"):
        leave_one_out(references(1), Distance.COSINE, 0.1, 0.05)


def test_the_same_image_twice_is_refused(encoder):
    with pytest.raises(ValueError, match="class 'bolt': 3 reference images, some the same; give each only once"):
        encode_references("bolt", [picture(1), picture(2), picture(1)], encoder, ())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_references_that_are_not_finite_are_counted_and_refused(value):
    fused = features(2, 0)
    fused[1, 0, 0, 0, :3] = value
    with pytest.raises(ValueError, match="class 'bolt', references: 3 feature values are not finite"):
        FewShotReferences("bolt", fused, ("original",), "f")


def test_a_query_that_is_not_finite_is_refused():
    query = unit_patches(features(1, 5)[0, 0])
    query[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="few-shot query: 1 feature values are not finite"):
        distance_map(query, references(2).all_RGPD, Distance.COSINE)


def test_a_query_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 9, 8\), references \(2, 16, 8\); encode both with one encoder"):
        distance_map(unit_patches(features(1, 5)[0, 0, :, :9]), references(2).all_RGPD, Distance.COSINE)


def test_references_from_another_encoder_are_refused(encoder):
    known = encode_references("bolt", [picture(1), picture(2)], stub_encoder(seed=1), ())
    with pytest.raises(ValueError, match=r"few-shot references: encoder .*; encode the references again"):
        FewShot.fit("bolt", known, encoder, few_shot_params(), 0.05)


def test_references_of_another_class_are_refused(encoder):
    known = encode_references("nut", [picture(1), picture(2)], encoder, ())
    with pytest.raises(ValueError, match="class 'bolt': references of class 'nut'; give its own images"):
        FewShot.fit("bolt", known, encoder, few_shot_params(), 0.05)


@pytest.mark.parametrize("views", [["noise"], ["hflip", "hflip"], ["rot45"]])
def test_views_that_are_no_mirror_or_rotation_or_come_twice_are_refused(views):
    with pytest.raises(ValueError, match="hflip"):
        few_shot_params(views=views)


# --- the detector and its directory ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory) -> Path:
    """A small real transformer in the files that the pipeline writes, with seeded random weights."""
    raw = {"name": "vit_small_patch14_dinov2", "crop": 56, "resize": 64, "layers": [0, 1], "batch_size": 4}
    params = EncoderParams.model_validate({**project_params().encoder.model_dump(), **raw})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(params.name, params.crop, depth=2)
    directory = tmp_path_factory.mktemp("encoder")
    save_encoder(network.state_dict(), params, directory)
    return directory


@pytest.fixture(scope="module")
def small(encoder_directory) -> Encoder:
    return load_encoder(encoder_directory)


@pytest.fixture(scope="module")
def detector(small) -> FewShot:
    params = few_shot_params(views=["hflip"], distance="euclidean", top_share=0.2)
    known = encode_references("bolt", [picture(seed) for seed in range(3)], small, params.views)
    return FewShot.fit("bolt", known, small, params, target_fpr=0.05)


@pytest.fixture
def saved(detector, encoder_directory, tmp_path) -> Path:
    detector.save(tmp_path / "bolt", encoder_directory)
    return tmp_path / "bolt"


def test_a_reference_scores_zero_and_a_strange_image_more(detector):
    scores = detector.score([picture(0), picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT), picture(9)])
    assert scores[0] == scores[1] == 0.0
    assert scores[2] > 0.0


def test_a_score_does_not_depend_on_the_images_beside_it(detector):
    pictures = [picture(seed) for seed in range(5, 10)]
    assert detector.score(pictures).tolist() == [float(detector.score([image])[0]) for image in pictures]
    np.testing.assert_array_equal(detector.maps(pictures)[2], detector.maps([pictures[2]])[0])
    assert (detector.maps(pictures).shape, detector.maps([]).shape) == ((5, 4, 4), (0, 4, 4))
    assert detector.score([]).shape == (0,)


def test_a_grey_image_is_read_as_rgb(detector):
    grey = picture(3).convert("L")
    assert detector.score([grey]) == detector.score([grey.convert("RGB")])


def test_a_saved_directory_decides_the_same_and_needs_no_other(detector, saved):
    assert {path.name for path in saved.iterdir()} == {
        "encoder.safetensors",
        "encoder.json",
        "references.safetensors",
        "config.json",
    }
    assert load_file(saved / "references.safetensors")["fused"].dtype is torch.float16
    loaded = load_detector(str(saved), "bolt")
    assert find_model(str(saved))[1] is DetectorKind.FEW_SHOT
    assert (loaded.class_name, loaded.threshold, loaded.fingerprint) == (
        "bolt",
        detector.threshold,
        detector.fingerprint,
    )
    pictures = [picture(0), picture(9)]
    np.testing.assert_array_equal(loaded.score(pictures), detector.score(pictures))


def test_the_file_says_what_its_threshold_promises(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["kind"] == "few_shot"
    assert (config["target_fpr"], config["promised_fpr"]) == (0.05, 0.25)
    assert (config["provisional"], config["basis"], config["num_images"]) == (True, "images", 3)
    assert (config["views"], config["distance"]) == (["original", "hflip"], "euclidean")


@pytest.mark.parametrize("change", [{"top_share": 0.3}, {"views": ["vflip"]}, {"distance": "cosine"}])
def test_the_fingerprint_knows_all_that_decides(detector, small, change):
    base = {"views": ["hflip"], "distance": "euclidean", "top_share": 0.2}
    params = few_shot_params(**{**base, **change})
    known = encode_references("bolt", [picture(seed) for seed in range(3)], small, params.views)
    assert FewShot.fit("bolt", known, small, params, 0.05).fingerprint != detector.fingerprint


def test_a_directory_of_another_class_is_refused(saved):
    with pytest.raises(ValueError, match="a model of class 'bolt', not 'nut'; name the right one"):
        load_detector(str(saved), "nut")


def test_a_changed_threshold_is_refused(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps({**config, "threshold": 0.1}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"fingerprint .*, but config.json says .*; restore it"):
        FewShot.load(saved)


def test_other_references_of_the_same_class_in_the_directory_are_refused(saved, small):
    other = encode_references("bolt", [picture(seed) for seed in range(5, 8)], small, ("hflip",))
    other.save(saved / "references.safetensors")
    with pytest.raises(ValueError, match=r"fingerprint .*, but config.json says .*; restore it"):
        FewShot.load(saved)


def test_references_of_another_class_in_the_directory_are_refused(saved, small):
    encode_references("nut", [picture(7)], small, ()).save(saved / "references.safetensors")
    with pytest.raises(ValueError, match="class 'bolt': references of class 'nut'"):
        FewShot.load(saved)


def test_a_missing_part_is_named(saved):
    (saved / "references.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"references.safetensors: no such file; not a few-shot detector"):
        load_detector(str(saved), "bolt")


def test_a_detector_is_not_saved_beside_another_encoder(detector, tmp_path, encoder_directory):
    raw = {"name": "vit_small_patch14_dinov2", "crop": 56, "resize": 70, "layers": [0, 1], "batch_size": 4}
    params = EncoderParams.model_validate({**project_params().encoder.model_dump(), **raw})
    save_encoder(load_file(encoder_directory / "encoder.safetensors"), params, tmp_path / "other")
    with pytest.raises(ValueError, match=r"few-shot detector: encoder .*, need "):
        detector.save(tmp_path / "bolt", tmp_path / "other")
