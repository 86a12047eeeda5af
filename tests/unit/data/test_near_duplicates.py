"""Near-identical frames: what is encoded again or filmed twice is one frame, two parts are two."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures.effort import examples
from fixtures.learning import ROOT
from shadowline.core.params import Params
from shadowline.data.near_duplicates import FrameGroups, FrameRule, frame_signature, is_near_identical
from shadowline.data.sources.wheels import list_elpv, list_textile

RULE = FrameRule(window=5, levels=0.5)


def test_a_signature_takes_a_kilobyte_whatever_the_image() -> None:
    for size in ((1, 1), (7, 300), (1500, 900)):
        assert len(frame_signature(Image.new("RGB", size, (10, 200, 30)))) == 1024


def test_a_scratch_makes_another_part_although_the_mean_hardly_moves() -> None:
    image = Image.new("RGB", (320, 320), (90, 90, 90))
    scratched = image.copy()
    scratched.paste((40, 40, 40), (100, 100, 130, 110))
    a, b = frame_signature(image), frame_signature(scratched)
    assert np.abs(np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8)).mean() < RULE.levels
    assert not is_near_identical(a, b, RULE.levels)


def test_signatures_of_different_forms_are_never_alike() -> None:
    assert not is_near_identical(bytes(64), bytes(1024), 255.0)


# --- the demo's images ----------------------------------------------------------------------------------------------


def images_of(name: str, params: Params) -> Iterator[Image.Image]:
    chosen = params.classes[name]
    if not (ROOT / chosen.location).is_file():
        pytest.skip(f"{chosen.location} is not here; run `shadowline data fetch`")
    for source in (list_textile if name == "textile" else list_elpv)(name, chosen, ROOT).images:
        with Image.open(io.BytesIO(source.read(1 << 26))) as image:
            yield image.convert("RGB")


@pytest.mark.parametrize("name", ["solar_mono", "solar_poly", "textile"])
def test_no_two_images_of_a_demo_class_are_one_frame_and_each_encoded_again_is(name: str, params: Params) -> None:
    images = list(images_of(name, params))
    signatures = [frame_signature(image) for image in images]
    groups = FrameGroups(FrameRule(len(images), params.shadow.near_identical_levels), {})
    assert all(groups.assign(str(number), levels)[1] for number, levels in enumerate(signatures))
    random = np.random.default_rng(0)
    for image, signature in list(zip(images, signatures, strict=True))[::40]:
        assert is_near_identical(signature, frame_signature(image), 0.0)
        for again in (jpeg(image, 90), noisy(image, random)):
            assert is_near_identical(signature, frame_signature(again), params.shadow.near_identical_levels)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def noisy(image: Image.Image, random: np.random.Generator) -> Image.Image:
    levels = np.asarray(image).astype(np.int16)
    return Image.fromarray(np.clip(levels + random.integers(-1, 2, levels.shape), 0, 255).astype(np.uint8))


# --- groups ---------------------------------------------------------------------------------------------------------


def grey(level: int) -> bytes:
    return bytes([level]) * 1024


def test_a_frame_joins_the_first_of_its_series_and_a_chain_does_not_drift() -> None:
    groups = FrameGroups(FrameRule(5, 1.0), {})
    assert [groups.assign(str(level), grey(level)) for level in (10, 11, 12, 13)] == [
        ("10", True), ("10", False), ("12", True), ("12", False),
    ]  # fmt: skip


def test_an_image_seen_long_ago_is_known_and_a_frame_like_it_is_not() -> None:
    groups = FrameGroups(RULE, {"old": "older"}, [("older", grey(10))])
    for level in range(20, 120, 20):
        groups.assign(str(level), grey(level))
    assert groups.assign("old", grey(10)) == ("older", False)
    assert groups.assign("alike", grey(10)) == ("alike", True)


def test_without_a_signature_only_the_same_image_is_the_same_frame() -> None:
    groups = FrameGroups(RULE, {})
    assert [groups.assign(name, None) for name in "aba"] == [("a", True), ("b", True), ("a", False)]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 12))), max_size=30),
    st.sets(st.integers(0, 30)),
)
def test_the_groups_are_the_same_whatever_comes_together(frames: list[tuple[int, int | None]], cuts: set[int]) -> None:
    """A store reads what is on record before each batch; that must lead to what one batch leads to."""
    once = FrameGroups(RULE, {})
    expected = [once.assign(str(image), None if level is None else grey(level)) for image, level in frames]
    known: dict[str, str] = {}
    firsts: list[tuple[str, bytes]] = []
    found = []
    for number, (image, level) in enumerate(frames):
        if number == 0 or number in cuts:
            groups = FrameGroups(RULE, known, firsts[-RULE.window :])
        signature = None if level is None else grey(level)
        group, is_first = groups.assign(str(image), signature)
        found.append((group, is_first))
        known[str(image)] = group
        if is_first and signature is not None:
            firsts.append((str(image), signature))
    assert found == expected
