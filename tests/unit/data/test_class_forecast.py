"""What a class's counts allow: the forecast is what the splits do, and its numbers work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from fixtures.learning import ROOT
from shadowline.core.params import Params, load_params
from shadowline.data.class_forecast import ClassCounts, forecast_class, split_sizes
from shadowline.data.labels import Label, Split
from shadowline.data.splits import assign_splits

PARAMS = load_params(ROOT / "params.yaml")
# MVTec AD (Bergmann et al., CVPR 2019, table 1): normal training images, normal test images, defective test images
MVTEC = {
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "leather": (245, 32, 92),
    "tile": (230, 33, 84),
    "wood": (247, 19, 60),
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "hazelnut": (391, 40, 70),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "zipper": (240, 32, 119),
}


def with_data(**changes: float) -> Params:
    return PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update=changes)})


def forecast(params: Params = PARAMS, **counts: int):
    return forecast_class("bolt", ClassCounts(**counts), params)


@settings(max_examples=examples(30), deadline=None)
@given(
    counts=st.builds(ClassCounts, *[st.integers(0, 40)] * 6),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    bounds=st.tuples(*[st.integers(1, 60)] * 5),
    min_val=st.integers(0, 60),
)
def test_the_forecast_is_what_the_splits_do(counts, shares, bounds, min_val):
    names = ("max_train", "max_val", "max_tune", "max_test_normal", "max_test_anomalous")
    values = dict(zip(names, bounds, strict=True))
    params = with_data(test_share=shares[0], val_share=shares[1], min_val=min_val, injected_test=0, **values)
    normals = [(counts.unassigned, ""), (counts.train, "train"), (counts.val, "val"), (counts.test, "test")]
    groups = [(number, Label.NORMAL, "", hint) for number, hint in normals]
    groups += [(counts.defects, Label.ANOMALOUS, "crack", "test"), (counts.stream, Label.UNKNOWN, "", "")]
    rows = [group[1:] for group in groups for _ in range(group[0])]
    frame = pd.DataFrame(rows, columns=["label", "defect_type", "split_hint"])
    frame = frame.assign(image_id=[f"image-{number}" for number in range(len(frame))])
    rows = assign_splits(frame, params.data, 7)
    held = Counter(zip(rows["split"], rows["label"], strict=True))
    sizes = split_sizes("bolt", counts, params)
    assert (sizes.train, sizes.val) == (held["train", "normal"], held["val", "normal"])
    assert (sizes.test_normal, sizes.test_anomalous) == (held["test", "normal"], held["test", "anomalous"])
    assert (sizes.tune, sizes.stream) == (held["tune", "anomalous"], (rows["split"] == "stream").sum())


@pytest.mark.parametrize("class_name", MVTEC)
def test_every_class_of_mvtec_ad_can_be_used_with_the_shipped_parameters(class_name):
    train, test, defects = MVTEC[class_name]
    made = forecast(train=train, test=test, defects=defects)
    assert made.problems == ()
    assert made.splits.test_normal == test
    if class_name != "toothbrush":
        assert made.notes == ()
        assert all(rate.promised == rate.target for rate in made.rates)


def test_where_a_target_cannot_be_promised_the_possible_rate_is_and_the_number_that_would_do():
    made = forecast(train=60, test=12, defects=30)
    assert (made.splits.train, made.splits.selecting, made.splits.calibrating) == (30, 15, 15)
    assert [rate.promised for rate in made.rates] == [1 / 16, 1 / 31, 1 / 31]
    assert made.notes == (
        "30 normal training images, validation.min_normal asks for 100",
        "15 normal images promise a rate of 0.0625, not of calibration.target_fpr 0.05, which needs 19",
        "30 normal images promise a rate of 0.0323, not of identification.unknown_share 0.02, which needs 49",
        "30 normal images promise a rate of 0.0323, not of legacy.target_fpr 0.0195, which needs 51",
    )
    assert made.needed_normals == 163
    assert forecast(train=163 - 12, test=12, defects=30).notes == ()
    assert forecast(train=162 - 12, test=12, defects=30).notes != ()


def test_too_few_images_for_any_model_are_a_problem_with_the_number_that_would_do():
    made = forecast(unassigned=10)
    assert made.problems == ("3 normal images in val, needs at least 8",)
    assert made.usable_normals == 21
    assert forecast(unassigned=21).problems == ()


def test_no_images_at_all_are_problems_and_no_error():
    assert len(forecast().problems) == 4


@pytest.mark.parametrize(
    ("counts", "normal", "anomalous"),
    [
        ({"unassigned": 60}, 15, 60),  # no defects: injected ones
        ({"train": 60}, 15, 60),
        ({"train": 60, "defects": 7}, 15, 7),  # no test normals: split off
        ({"train": 60, "val": 9, "defects": 7}, 15, 7),  # likewise, with a validation folder
    ],
)
def test_a_class_without_test_normals_or_defects_can_be_tested(counts, normal, anomalous):
    made = forecast(**counts)
    assert made.problems == ()
    assert (made.splits.test_normal, made.splits.test_anomalous) == (normal, anomalous)
    assert made.splits.injected == ("defects" not in counts)


def test_more_training_images_do_not_help_where_the_source_brings_too_few_val_images():
    made = forecast(train=300, val=10, test=20, defects=20)
    assert made.problems == ()
    assert made.needed_normals is None


def test_a_source_that_assigns_some_of_its_normals_alone_needs_no_fewer_than_it_has_of_the_others():
    made = forecast(unassigned=20, train=20, test=5, defects=5)
    assert made.usable_normals is not None and made.usable_normals >= 25
    assert forecast(unassigned=20, train=made.usable_normals - 25, test=5, defects=5).problems == ()


def test_a_class_s_own_target_is_named():
    own = PARAMS.classes["textile"].model_copy(update={"target_fpr": 0.01})
    params = PARAMS.model_copy(update={"classes": {"bolt": own}})
    assert forecast(params, unassigned=300).rates[0].parameter == "classes.bolt.target_fpr"


def test_images_are_counted_by_label_and_by_where_the_source_puts_them():
    @dataclass(frozen=True)
    class Image:
        label: Label
        split_hint: Split | None

    listed = [
        Image(Label.NORMAL, None),
        Image(Label.NORMAL, Split.TRAIN),
        Image(Label.NORMAL, Split.STREAM),
        Image(Label.ANOMALOUS, Split.TEST),
        Image(Label.ANOMALOUS, Split.STREAM),
        Image(Label.UNKNOWN, None),
    ]
    assert ClassCounts.of(listed) == ClassCounts(unassigned=1, train=1, defects=1, stream=3)
