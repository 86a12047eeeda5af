"""What a class gets of its images is what the import gives it, and the numbers that are named do."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.learning import project_params
from shadowline.core.params import ClassParams, Params
from shadowline.data.labels import Label, Split
from shadowline.data.sources import SourceImage
from shadowline.models.calibration import conformal_threshold
from shadowline.project.class_plan import ClassPlan, Rate, normals_needed, plan_class


def images(train: int, test: int = 0, defects: int = 0, hint: Split | None = Split.TRAIN) -> list[SourceImage]:
    def some(count: int, kind: str, split: Split | None) -> list[SourceImage]:
        label = Label.ANOMALOUS if kind == "crack" else Label.NORMAL
        defect_type = kind if label is Label.ANOMALOUS else ""
        return [
            SourceImage(f"{split}/{kind}/{number}.png", label, defect_type, split, lambda limit: b"")
            for number in range(count)
        ]

    return some(train, "good", hint) + some(test, "good", Split.TEST) + some(defects, "crack", Split.TEST)


def params_of(**of_class: object) -> Params:
    params = project_params()
    bolt = ClassParams(source="folder", location="x", **of_class)
    return params.model_copy(update={"classes": {"bolt": bolt}})


def test_every_image_has_its_place() -> None:
    plan = plan_class("bolt", images(209, 20, 63), params_of(val_share=0.25))
    assert (plan.num_normal, plan.num_defects) == (229, 63)
    assert (plan.num_train, plan.num_val, plan.num_test_normal, plan.num_test_defects) == (157, 52, 20, 63)
    assert not plan.is_injected


def test_without_known_defects_the_injected_ones_are_counted() -> None:
    params = params_of()
    plan = plan_class("bolt", images(300, hint=None), params)
    assert plan.is_injected
    assert plan.num_test_defects == params.data.injected_test * len(params.calibration.injected)


def test_an_own_share_and_an_own_rate_count() -> None:
    few, many = (plan_class("bolt", images(300), params_of(val_share=share)).num_val for share in (0.1, 0.3))
    assert few < many
    assert plan_class("bolt", images(300), params_of(target_fpr=0.2)).false_alarms.target == 0.2


@pytest.mark.parametrize(("target", "count"), [(0.05, 19), (0.05, 18), (0.02, 49), (0.02, 48), (0.3, 1), (0.3, 0)])
def test_a_rate_is_possible_exactly_where_the_calibration_can_promise_it(target: float, count: int) -> None:
    rate = Rate.of(target, count)
    assert rate.possible >= target
    if count:
        conformal_threshold(np.arange(count), rate.possible)
    if not rate.is_kept and count:
        with pytest.raises(ValueError, match="calibration normals"):
            conformal_threshold(np.arange(count), rate.possible * 0.99)


def enough_to_train(plan: ClassPlan) -> bool:
    return plan.num_train >= 100


@pytest.mark.parametrize(("train", "test", "hint"), [(90, 7, Split.TRAIN), (60, 0, None)])
def test_the_number_that_is_named_does_and_one_less_does_not(train: int, test: int, hint: Split | None) -> None:
    params, there = params_of(), images(train, test, 5, hint)
    needed = normals_needed("bolt", there, params, enough_to_train)
    assert needed is not None
    more = needed - train - test
    assert enough_to_train(plan_class("bolt", images(train + more, test, 5, hint), params))
    assert not enough_to_train(plan_class("bolt", images(train + more - 1, test, 5, hint), params))


def test_what_no_number_can_bring_is_said() -> None:
    assert normals_needed("bolt", images(50, 5), params_of(val_share=1.0), enough_to_train) is None
