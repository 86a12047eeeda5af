"""Which class an image is of: what the p-values and the confidence promise, and what other classes may not change."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.covariance import LedoitWolf

from fixtures.effort import examples
from fixtures.learning import fake_fused
from shadowline.benchmarks.class_identification import open_set_scores, synthetic_classes
from shadowline.core.conformal import required_normals
from shadowline.core.params import IdentificationParams
from shadowline.models.class_identification import ClassIdentity, Identities, embed

WIDTH = 24
PARAMS = IdentificationParams(unknown_share=0.1, directions=4)


def images(seed: int, count: int, part: int = 0, *, spread: float = 0.05) -> np.ndarray:
    """(N, D) float32 of length 1: images of the class `seed`, some directions wider; another part, other images."""
    own = np.random.default_rng(seed)
    centre, widths = own.normal(size=WIDTH), np.where(np.arange(WIDTH) < 3, 6.0, 1.0)
    noise = np.random.default_rng((seed, part)).normal(size=(count, WIDTH))
    found = centre + spread * math.sqrt(WIDTH) * widths * noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def identity(seed: int, *, num_val: int = 40, params: IdentificationParams = PARAMS) -> ClassIdentity:
    known, val = images(seed, 60, 1), images(seed, num_val, 2)
    return ClassIdentity.fit(known, val, params, class_name=f"class-{seed}", fingerprint="f")


def classes(*seeds: int) -> dict[str, ClassIdentity]:
    return {f"class-{seed}": identity(seed) for seed in seeds}


# --- the embedding and the distance ---------------------------------------------------------------------------------


def test_an_embedding_is_the_mean_patch_of_the_last_group_without_prefix_and_has_length_1():
    fused = fake_fused(3, 0)
    found = embed(fused, 1)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    spoilt = fused.clone()
    spoilt[:, 0], spoilt[:, :, 0] = 7.0, 7.0
    assert torch.equal(embed(spoilt, 1), found)
    spoilt[:, -1, 1] += 1.0
    assert not torch.equal(embed(spoilt, 1), found)


def test_with_all_directions_the_distance_is_that_of_the_shrunk_covariance():
    exact = LedoitWolf().fit(images(0, 60, 1))
    full = Identities.of({"a": identity(0, params=PARAMS.model_copy(update={"directions": WIDTH - 1}))})
    for image in images(0, 20, 5):
        assert full.distance(image)[0] == pytest.approx(math.sqrt(exact.mahalanobis(image[None])[0]), rel=1e-3)


def test_more_directions_than_dimensions_are_cut():
    assert identity(0, params=PARAMS.model_copy(update={"directions": 999})).directions_RD.shape == (WIDTH - 1, WIDTH)


# --- what is promised ------------------------------------------------------------------------------------------------


def test_p_values_of_exchangeable_images_are_uniform():
    """Fresh calibration for every image; on its grid of 1/20 each value is as likely as any other."""
    known = images(3, 60, 1)
    draws = images(3, 2_000 * 20, 9).reshape(2_000, 20, WIDTH)
    base = ClassIdentity.fit(known, draws[0, :19], PARAMS, class_name="a", fingerprint="f")
    alone = Identities.of({"a": base})
    distances = np.array([[alone.distance(image)[0] for image in draw] for draw in draws])
    found = []
    for row in distances:
        fresh = replace(base, distances_N=np.sort(row[:19]))
        found.append(Identities.of({"a": fresh}).p_values(row[19:])[0])
    counts = np.bincount(np.round(np.array(found) * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 1e-4
    assert set(np.round(np.array(found) * 20, 9)) == set(range(1, 21))


@pytest.mark.parametrize(("num_val", "share"), [(19, 0.05), (40, 0.1), (37, 0.2)])
def test_a_class_rejects_no_more_of_its_normal_images_than_promised(num_val: int, share: float):
    """4 000 repetitions: never above the promise, and below it by no more than one rank is worth."""
    params, repetitions = IdentificationParams(unknown_share=share, directions=4), 4_000
    base = ClassIdentity.fit(images(1, 60, 1), images(1, num_val, 2), params, class_name="a", fingerprint="f")
    alone = Identities.of({"a": base})
    pool = np.array([alone.distance(image)[0] for image in images(1, 5_000, 3)])
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(repetitions):
        drawn = random.choice(pool, num_val + 1, replace=False)
        p = Identities.of({"a": replace(base, distances_N=np.sort(drawn[1:]))}).p_values(drawn[:1])[0]
        rejected += p <= share + 1e-12
    noise = 4 * math.sqrt(share * (1 - share) / repetitions)
    assert share - 1 / (num_val + 1) - noise <= rejected / repetitions <= share + noise


def test_wrong_answers_are_as_rare_as_their_confidence_promises():
    """Of a class's normal images at most (1 − q) / q are given to a wrong class with confidence q or more: twins."""
    random = np.random.default_rng(4)
    wrong: list[float] = []
    repetitions = 1_500
    base = {name: ClassIdentity.fit(images(8, 60, part), images(8, 19, 90), PARAMS, class_name=name, fingerprint="f")
            for name, part in (("a", 1), ("b", 2))}  # fmt: skip
    pool = images(8, 3_000, 3)  # both classes look the same
    each = {name: Identities.of({name: class_identity}) for name, class_identity in base.items()}
    distances = {name: np.array([identities.distance(image)[0] for image in pool]) for name, identities in each.items()}
    for _ in range(repetitions):
        rows = random.choice(len(pool), 39, replace=False)
        drawn = {"a": rows[1:20], "b": rows[20:]}
        fresh = {n: replace(base[n], distances_N=np.sort(distances[n][drawn[n]])) for n in base}
        answer = Identities.of(fresh).identify(pool[rows[0]])  # an image of class a
        if answer.class_name == "b":
            wrong.append(answer.confidence)
    assert len(wrong) > repetitions / 4
    for q in (0.6, 0.7, 0.8, 0.9, 0.95):
        share, promise = sum(confidence >= q - 1e-12 for confidence in wrong) / repetitions, (1 - q) / q
        assert share <= promise + 4 * math.sqrt(promise * (1 - promise) / repetitions), q


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_with_few_val_images_a_class_rejects_the_least_share_that_they_allow(share: float):
    params, needed = IdentificationParams(unknown_share=share, directions=4), required_normals(share)
    assert identity(0, num_val=needed, params=params).unknown_share == share
    assert identity(0, num_val=needed - 1, params=params).unknown_share == 1 / needed


def test_without_val_images_there_is_no_identity():
    with pytest.raises(ValueError, match="class 'class-0': 0 val images; add normal images"):
        identity(0, num_val=0)


@pytest.mark.parametrize("num_val", [3, 18, 19, 20])
def test_however_few_val_images_there_are_a_strange_image_is_still_rejected(num_val: int):
    params = IdentificationParams(unknown_share=0.05, directions=4)
    alone = Identities.of({"a": identity(0, num_val=num_val, params=params)})
    assert alone.identify(images(1, 1)[0]).class_name is None


# --- answers ---------------------------------------------------------------------------------------------------------


def test_images_find_their_class_and_strange_ones_none():
    identities = Identities.of(classes(0, 1, 2))
    for seed in range(3):
        answers = [identities.identify(image) for image in images(seed, 50, 3)]
        assert {answer.nearest_class for answer in answers} == {f"class-{seed}"}
        assert sum(answer.class_name is None for answer in answers) <= 12
        known = [answer.confidence for answer in answers if answer.class_name is not None]
        assert np.median(known) > 0.75 and min(known) > 0.45
    strange = [identities.identify(image) for image in images(7, 20)]
    assert {answer.class_name for answer in strange} == {None}
    assert all(answer.confidence < 0.1 for answer in strange)


def test_a_single_class_still_rejects_strange_products():
    alone = Identities.of(classes(0))
    own, strange = alone.identify(identity(0).mean_D), alone.identify(images(1, 1)[0])
    assert (own.class_name, own.p_value) == ("class-0", 1.0)
    assert own.confidence == pytest.approx(10 / 11)  # a support of 1 / 0.1, beside that of "unknown"
    assert (strange.class_name, strange.nearest_class) == (None, "class-0")
    assert 0.0 < strange.confidence < 0.1


def line_of_images(count: int) -> tuple[Identities, list[float], np.ndarray]:
    """One class, and images that leave it along a line: their distances and themselves."""
    alone = Identities.of(classes(0))
    steps = np.linspace(0.0, 1.0, count, dtype=np.float32)
    far, near = images(1, 1)[0], identity(0).mean_D
    line = np.stack([near + step * (far - near) for step in steps])
    return alone, [float(alone.distance(image)[0]) for image in line], line


def test_the_farther_from_a_class_the_lower_the_confidence_in_it_whether_it_is_named_or_not():
    alone, distances, line = line_of_images(200)
    assert distances == sorted(distances)
    answers = [alone.identify(image) for image in line]
    confidences = [answer.confidence for answer in answers]
    assert confidences == sorted(confidences, reverse=True)
    assert min(answer.confidence for answer in answers if answer.class_name) >= 0.5 - 1e-9
    unknown = [answer.confidence for answer in answers if answer.class_name is None]
    assert 0.3 < unknown[0] <= 0.5 and len(set(unknown)) > 20 and unknown[-1] < 0.05


def test_no_two_strange_images_are_equally_strange():
    """Of the demo's foreign images each had 0.9888."""
    identities = Identities.of(classes(0, 1, 2))
    strange = [identities.identify(image) for image in images(7, 11)]
    assert {answer.class_name for answer in strange} == {None}
    assert len({answer.confidence for answer in strange}) == 11


def test_an_image_of_two_classes_alike_is_named_with_half_the_confidence_at_most():
    twin = identity(0)
    answer = Identities.of({"a": twin, "b": twin}).identify(twin.mean_D)
    assert answer.class_name == "a" and answer.confidence == pytest.approx(10 / 21)


def test_the_reach_that_the_benchmark_counts_by_is_the_one_that_decides():
    known = classes(0, 1, 2)
    mixed = np.concatenate([images(seed, 40, 5, spread=0.06) for seed in (0, 1, 2, 3)])
    decided = [Identities.of(known).identify(image).class_name is None for image in mixed]
    assert list(open_set_scores(known, mixed) > 1.0) == decided
    assert 0 < sum(decided) < len(decided)


# --- what other classes may not change -------------------------------------------------------------------------------


@settings(max_examples=examples(25), deadline=None)
@given(order=st.permutations(range(6)), image=st.integers(0, 400))
def test_the_answer_does_not_depend_on_the_order_of_classes(order, image):
    known = classes(*range(6))
    probe = images(image % 8, 1, image, spread=0.08)[0]
    shuffled = {f"class-{seed}": known[f"class-{seed}"] for seed in order}
    assert Identities.of(shuffled).identify(probe) == Identities.of(known).identify(probe)


def test_adding_classes_changes_no_distance_by_a_bit_and_never_makes_a_known_image_unknown():
    few = classes(0, 1)
    many = {**few, **synthetic_classes([identity(seed) for seed in range(2, 6)], 150, np.random.default_rng(0))}
    small, large = Identities.of(few), Identities.of(many)
    rows = [large.names.index(name) for name in small.names]
    for image in np.concatenate([images(seed, 40, 7, spread=0.06) for seed in range(3)]):
        assert np.array_equal(large.distance(image)[rows], small.distance(image))
        if small.identify(image).class_name is not None:
            assert large.identify(image).class_name is not None


def test_a_class_with_more_val_images_or_fewer_directions_leaves_the_others_alone():
    few = classes(0, 1)
    other = identity(2, num_val=90, params=PARAMS.model_copy(update={"directions": 2}))
    for image in images(0, 20, 8):
        small, large = Identities.of(few), Identities.of({**few, "z": other})
        assert np.array_equal(large.p_values(large.distance(image))[:2], small.p_values(small.distance(image)))


def test_ties_go_to_the_first_name():
    twin = identity(0)
    for image in (twin.mean_D, images(1, 1)[0]):  # accepted by both, and by none
        answers = [Identities.of(dict.fromkeys(names, twin)).identify(image) for names in ("ab", "ba")]
        assert answers[0] == answers[1]
        assert answers[0].nearest_class == "a"


def two_reaches() -> tuple[dict[str, ClassIdentity], np.ndarray]:
    """A tight class and a wide one around the same mean, and an image at a distance of 1.2."""
    one = identity(0, params=PARAMS.model_copy(update={"directions": 1}))
    across = np.random.default_rng(0).normal(size=WIDTH)
    direction = one.directions_RD[0] / np.linalg.norm(one.directions_RD[0])
    across -= (across @ direction) * direction
    image = one.mean_D + 1.2 * across / np.linalg.norm(across) / math.sqrt(one.precision)
    tight = replace(one, distances_N=np.float32([1.0] * 39 + [1.1]))
    wide = replace(one, distances_N=np.float32([0.5] * 30 + [2.0] * 10))
    return {"tight": tight, "wide": wide}, image.astype(np.float32)


def test_an_image_that_the_nearest_class_rejects_goes_to_one_that_accepts_it():
    known, image = two_reaches()
    assert Identities.of(known).distance(image) == pytest.approx([1.2, 1.2], rel=1e-3)
    assert (
        Identities.of({**known, "tight": replace(known["tight"], unknown_share=0.01)}).identify(image).class_name
        == "tight"
    )  # in units of its typical distance it is the nearer one
    assert Identities.of(known).identify(image).class_name == "wide"


def test_nearness_is_counted_in_a_class_s_own_typical_distances():
    known, image = two_reaches()
    far = {
        name: replace(class_identity, distances_N=class_identity.distances_N + np.float32(2.0))
        for name, class_identity in known.items()
    }
    typical = dict(zip(("tight", "wide"), Identities.of(far).typical_C, strict=True))
    assert typical["tight"] > typical["wide"]
    assert Identities.of({"b": far["tight"], "a": far["wide"]}).identify(image).class_name == "b"


def test_a_val_image_as_far_out_counts():
    one = replace(identity(0), distances_N=np.float32([1.0, 2.0, 2.0, 3.0]))
    p_values = [Identities.of({"a": one}).p_values(np.float32([d]))[0] for d in (0.5, 1.0, 2.0, 2.5, 3.0, 4.0)]
    assert p_values == pytest.approx([1.0, 1.0, 0.8, 0.4, 0.4, 0.2])


# --- files -----------------------------------------------------------------------------------------------------------


def test_an_identity_survives_the_disk_bit_for_bit_and_equal_ones_are_equal_files(tmp_path):
    one = identity(0)
    for name in ("one", "two"):
        one.save(tmp_path / f"{name}/a.safetensors")
    loaded = ClassIdentity.load(tmp_path / "one/a.safetensors")
    for image in images(0, 5):
        found, again = (Identities.of({"a": each}).identify(image) for each in (one, loaded))
        assert found == again
    assert (loaded.precision, loaded.unknown_share, loaded.num_images) == (one.precision, 0.1, 60)
    assert (tmp_path / "one/a.safetensors").read_bytes() == (tmp_path / "two/a.safetensors").read_bytes()


def test_identities_of_different_encoders_are_not_compared():
    with pytest.raises(ValueError, match="identities of a, b: need one encoder's; run `dvc repro`"):
        Identities.of({"a": identity(0), "b": replace(identity(1), fingerprint="g")})
    with pytest.raises(ValueError, match="identities of no class"):
        Identities.of({})
