"""Views: the same on every machine, of the right shape, and defective exactly where the mask says."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fixtures.effort import examples
from fixtures.learning import picture, project_params
from shadowline.data.perturbations import DEFECT_PREFIX, ORIGINAL, apply_view, view_seed

TURNS = ("hflip", "vflip", "rot90", "rot180", "rot270")
ROBUSTNESS = ("brightness-30", "brightness+30", "noise", "jpeg")
DEFECTS = tuple(DEFECT_PREFIX + kind for kind in ("cutpaste", "perlin", "scratch", "drift"))
LOCAL = DEFECTS[:3]
ALL = (ORIGINAL, *TURNS, *ROBUSTNESS, *DEFECTS)
RANDOM = ("noise", *DEFECTS)
SOFT_EDGE = 5  # pixels that a defect may fade out beyond its mask: four sigmas of the blur, and one


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


@pytest.fixture(scope="module")
def rgb() -> Image.Image:
    return picture(0, side=96)


@pytest.mark.parametrize("name", ALL)
def test_a_view_is_a_pure_function_of_image_and_seed(name, rgb):
    before = rgb.tobytes()
    one, other = (apply_view(rgb, name, seed=11) for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes()
    assert rgb.tobytes() == before, "the image itself is left alone"
    if one.mask_HW is not None:
        assert np.array_equal(one.mask_HW, other.mask_HW)


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_gives_another_random_view(name, rgb):
    assert apply_view(rgb, name, seed=1).image.tobytes() != apply_view(rgb, name, seed=2).image.tobytes()


@pytest.mark.parametrize("name", sorted(set(ALL) - set(RANDOM)))
def test_a_view_without_chance_ignores_the_seed(name, rgb):
    assert apply_view(rgb, name, seed=1).image.tobytes() == apply_view(rgb, name, seed=2).image.tobytes()


@pytest.mark.parametrize("name", ALL)
def test_a_view_is_rgb_of_the_same_size(name):
    wide = picture(1, side=90).resize((120, 90))
    view = apply_view(wide, name, seed=3)
    assert view.image.mode == "RGB"
    assert view.image.size == ((90, 120) if name in {"rot90", "rot270"} else (120, 90))
    assert (view.mask_HW is not None) == (name in DEFECTS)
    if view.mask_HW is not None:
        assert view.mask_HW.shape == (90, 120)
        assert view.mask_HW.dtype == bool


@settings(max_examples=examples(40))
@given(seed=st.integers(0, 2**63), name=st.sampled_from(LOCAL), side=st.sampled_from([64, 97, 300]))
def test_a_local_defect_changes_pixels_inside_its_mask_only(seed, name, side):
    rgb = picture(2, side=side)
    view = apply_view(rgb, name, seed)
    changed = (pixels(view.image) != pixels(rgb)).any(axis=-1)
    assert view.mask_HW.any()
    assert view.mask_HW.mean() < 0.3
    assert changed[view.mask_HW].mean() > 0.5
    assert not changed[~ndimage.binary_dilation(view.mask_HW, iterations=SOFT_EDGE)].any()


def test_drift_changes_the_whole_image_and_says_so(rgb):
    view = apply_view(rgb, "defect:drift", seed=3)
    assert view.mask_HW.all()
    assert (pixels(view.image) != pixels(rgb)).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (ORIGINAL, lambda x: x),
        ("hflip", lambda x: x[:, ::-1]),
        ("vflip", lambda x: x[::-1]),
        ("rot90", lambda x: np.rot90(x)),
        ("rot180", lambda x: np.rot90(x, 2)),
        ("rot270", lambda x: np.rot90(x, 3)),
        ("brightness-30", lambda x: np.rint(x * 0.7)),
        ("brightness+30", lambda x: np.clip(np.rint(x * 1.3), 0, 255)),
    ],
)
def test_a_plain_view_does_what_its_name_says(name, expected, rgb):
    assert np.array_equal(pixels(apply_view(rgb, name, seed=0).image), expected(pixels(rgb)))


def test_noise_has_three_percent_of_full_scale_and_is_grey():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = pixels(apply_view(grey, "noise", seed=0).image)
    assert noisy.std() == pytest.approx(0.03 * 255, rel=0.03)
    assert (noisy == noisy[..., :1]).all()


def test_jpeg_stays_near_the_image_and_is_not_it(rgb):
    difference = np.abs(pixels(apply_view(rgb, "jpeg", seed=0).image) - pixels(rgb))
    assert 0 < difference.mean() < 10


def test_every_view_that_the_project_s_params_name_exists(rgb):
    params = project_params()
    defects = [DEFECT_PREFIX + kind for kind in params.calibration.injected]
    augmentations = [view for cls in params.classes.values() for view in cls.augment]
    for name in (*defects, *params.evaluation.robustness_views, *augmentations):
        assert apply_view(rgb, name, seed=0).image.size == rgb.size


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("brightnes+30", "brightness+30"), ("defect:cutpast", "defect:cutpaste"), ("rot9", "rot90")]
)
def test_an_unknown_view_names_the_nearest(wrong, nearest, rgb):
    with pytest.raises(ValueError, match=re.escape(f"unknown view {wrong!r}; did you mean {nearest!r}?")):
        apply_view(rgb, wrong, seed=0)


@pytest.mark.parametrize("wrong", ["cutpaste", "defect:", "defect:hflip", ""])
def test_a_kind_is_no_view_without_its_prefix_and_the_other_way_round(wrong, rgb):
    with pytest.raises(ValueError, match="unknown view"):
        apply_view(rgb, wrong, seed=0)


def test_the_seed_of_a_view_depends_on_seed_content_and_name():
    """And on nothing that differs between processes, as Python's own hash does."""
    seeds = {view_seed(s, i, v) for s in (7, 8) for i in ("a", "b") for v in ("noise", "jpeg")}
    assert len(seeds) == 8
    assert view_seed(7, "a", "noise") == int(hashlib.sha256(b"7:a:noise").hexdigest()[:16], 16)
