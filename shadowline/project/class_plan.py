"""What a class gets of its images, known from their number alone: its splits, and the rates that they can promise.

    plan = plan_class("bolt", images, params)
    plan.num_train, plan.false_alarms.possible, plan.false_alarms.target

The splits are those of `shadowline/data/splits.py`, made on names in the place of contents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from shadowline.core.params import Params
from shadowline.data.labels import Label, Split
from shadowline.data.sources import SourceImage
from shadowline.data.splits import assign_splits

_FIRST_TRIED = 1 << 6  # normals more than there are
_MOST_NORMALS = 1 << 12  # that are tried to find a number that does


@dataclass(frozen=True)
class Rate:
    """A rate that is promised for normal images of a class."""

    target: float  # what params.yaml asks for
    possible: float  # the least that so many images can promise, and not below the target

    @classmethod
    def of(cls, target: float, num_normals: int) -> Rate:
        """With n held-out normals no conformal rate below 1 / (n + 1) can be had."""
        return cls(target, max(target, 1.0 / (num_normals + 1)))

    @property
    def is_kept(self) -> bool:
        return math.isclose(self.possible, self.target)


@dataclass(frozen=True)
class ClassPlan:
    num_normal: int
    num_defects: int
    num_train: int
    num_val: int
    num_test_normal: int
    num_test_defects: int  # injected ones where none are known
    is_injected: bool
    false_alarms: Rate  # calibration.target_fpr, or the class's own
    unknown: Rate  # identification.unknown_share
    legacy: Rate  # legacy.target_fpr, of the baseline


def plan_class(class_name: str, images: Sequence[SourceImage], params: Params) -> ClassPlan:
    """What the class gets of `images`, its source; all of them count as readable and different."""
    return _plan(class_name, _frame(images), params)


def normals_needed(
    class_name: str, images: Sequence[SourceImage], params: Params, is_enough: Callable[[ClassPlan], bool]
) -> int | None:
    """The fewest normals for which the class's plan is enough, where more are put beside those for training.

    None where no number is.
    """
    frame = _frame([image for image in images if image.label is Label.NORMAL])  # defects take no place from them

    def with_more(count: int) -> ClassPlan:
        return _plan(class_name, _with_more_normals(frame, count), params)

    too_few, enough = 0, _FIRST_TRIED
    while not is_enough(with_more(enough)):
        too_few, enough = enough, 2 * enough
        if enough > _MOST_NORMALS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(with_more(middle)) else (middle, enough)
    return with_more(enough).num_normal


def _frame(images: Sequence[SourceImage]) -> pd.DataFrame:
    rows = [
        (image.name, image.label.value, image.defect_type, image.split_hint.value if image.split_hint else "")
        for image in images
    ]
    return pd.DataFrame(rows, columns=["image_id", "label", "defect_type", "split_hint"])


def _with_more_normals(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    is_for_training = (frame["label"] == Label.NORMAL) & frame["split_hint"].isin(["", Split.TRAIN.value])
    hints = frame["split_hint"][is_for_training]
    more = pd.DataFrame(
        {
            "image_id": [f"\0{number}" for number in range(count)],  # the name of no file
            "label": Label.NORMAL.value,
            "defect_type": "",
            "split_hint": hints.iloc[0] if len(hints) else "",
        }
    )
    return pd.concat([frame, more], ignore_index=True)


def _plan(class_name: str, frame: pd.DataFrame, params: Params) -> ClassPlan:
    frame = assign_splits(frame, params.of_class(class_name), params.seed)
    is_normal = frame["label"] == Label.NORMAL
    num_of = frame[is_normal]["split"].value_counts()
    num_train, num_val, num_test = (int(num_of.get(split.value, 0)) for split in (Split.TRAIN, Split.VAL, Split.TEST))
    num_defects = int((frame["label"] == Label.ANOMALOUS).sum())
    is_injected = num_defects == 0
    num_test_defects = int((~is_normal & (frame["split"] == Split.TEST)).sum())
    if is_injected:
        num_test_defects = min(num_test, params.data.injected_test) * len(params.calibration.injected)
    return ClassPlan(
        num_normal=int(is_normal.sum()),
        num_defects=num_defects,
        num_train=num_train,
        num_val=num_val,
        num_test_normal=num_test,
        num_test_defects=num_test_defects,
        is_injected=is_injected,
        false_alarms=Rate.of(params.promise(class_name), num_val - num_val // 2),  # the calibrating half
        unknown=Rate.of(params.identification.unknown_share, num_val),
        legacy=Rate.of(params.legacy.target_fpr, num_val),
    )
