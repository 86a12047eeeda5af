"""What a class gets of its images, known from their number alone: its splits, and the rates that they can promise.

    plan = plan_class("bolt", images, params)
    plan.num_train, plan.false_alarms.possible, plan.false_alarms.target

The splits are those of `shadowline/data/splits.py`, made on numbers in the place of contents.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from shadowline.core.params import DataParams, Params
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
    return _plan(class_name, _counts(images), params)


def normals_needed(
    class_name: str, images: Sequence[SourceImage], params: Params, is_enough: Callable[[ClassPlan], bool]
) -> int | None:
    """The fewest normals for which the class's plan is enough, where more are put beside those for training.

    None where no number is.
    """
    counts = _counts(images)
    hints = {hint for (label, hint), count in counts.items() if label is Label.NORMAL and count}
    hint = Split.TRAIN.value if Split.TRAIN.value in hints else ""

    def with_more(count: int) -> ClassPlan:
        return _plan(class_name, counts + Counter({(Label.NORMAL, hint): count}), params)

    too_few, enough = 0, _FIRST_TRIED
    while not is_enough(with_more(enough)):
        too_few, enough = enough, 2 * enough
        if enough > _MOST_NORMALS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(with_more(middle)) else (middle, enough)
    return with_more(enough).num_normal


def _counts(images: Sequence[SourceImage]) -> Counter[tuple[Label, str]]:
    """(label, split hint or empty) → images."""
    return Counter((image.label, image.split_hint.value if image.split_hint else "") for image in images)


def _plan(class_name: str, counts: Counter[tuple[Label, str]], params: Params) -> ClassPlan:
    num_of = _split_counts(tuple(sorted(counts.items())), params.of_class(class_name), params.seed)
    num_train, num_val, num_test, num_test_defects = (
        num_of.get(key, 0)
        for key in (
            (Label.NORMAL, Split.TRAIN),
            (Label.NORMAL, Split.VAL),
            (Label.NORMAL, Split.TEST),
            (Label.ANOMALOUS, Split.TEST),
        )
    )
    num_normal, num_defects = (
        sum(count for (own, _), count in counts.items() if own is label) for label in (Label.NORMAL, Label.ANOMALOUS)
    )
    if num_defects == 0:
        num_test_defects = min(num_test, params.data.injected_test) * len(params.calibration.injected)
    return ClassPlan(
        num_normal=num_normal,
        num_defects=num_defects,
        num_train=num_train,
        num_val=num_val,
        num_test_normal=num_test,
        num_test_defects=num_test_defects,
        is_injected=num_defects == 0,
        false_alarms=Rate.of(params.promise(class_name), num_val - num_val // 2),  # the calibrating half
        unknown=Rate.of(params.identification.unknown_share, num_val),
        legacy=Rate.of(params.legacy.target_fpr, num_val),
    )


@cache
def _split_counts(
    counts: tuple[tuple[tuple[Label, str], int], ...], params: DataParams, seed: int
) -> dict[tuple[Label, Split], int]:
    """(label, split) → images, of so many images of each label and hint: which ones they are changes no number."""
    rows = [(label.value, hint) for (label, hint), count in counts for _ in range(count)]
    frame = pd.DataFrame(rows, columns=["label", "split_hint"])
    frame = frame.assign(image_id=[str(number) for number in range(len(frame))], defect_type="")
    split = assign_splits(frame, params, seed)
    pairs = zip(split["label"], split["split"], strict=True)
    return dict(Counter((Label(label), Split(name)) for label, name in pairs))
