"""What a class's images allow, known from their counts alone: before an image is decoded or a model loaded.

    counts = ClassCounts.of(list_images("bolt", class_params, root))
    forecast = forecast_class("bolt", counts, params)
    forecast.splits                    # how many images each split gets
    forecast.problems                  # why no model of the class can be made; empty: it can
    forecast.notes                     # what the class works with less of than params.yaml asks for
    forecast.rates                     # each guaranteed rate: what was asked for, and what can be promised

A rate below 1 / (n + 1) cannot be promised with n normal images (`shadowline/core/conformal.py`). The stages then
promise the least possible rate, and go on; `needed_normals` says with how many normal images every target would hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import pandas as pd

from shadowline.core.conformal import promised_rate, required_normals
from shadowline.core.params import Params
from shadowline.data.labels import Label, Split
from shadowline.data.splits import num_held_out
from shadowline.data.synthetic_defects import PREFIX as INJECTED_PREFIX

USABLE = {  # images of a split and label without which a class cannot be computed
    (Split.TRAIN, Label.NORMAL): 1,
    (
        Split.VAL,
        Label.NORMAL,
    ): 8,  # half choose the recipe: the larger of two scaled pools of 2 or 3 can be equal for all
    (Split.TEST, Label.NORMAL): 1,
    (Split.TEST, Label.ANOMALOUS): 1,
}
_MOST_NORMALS = 5_000  # up to which the numbers of normals that would do are looked for


class Labelled(Protocol):
    """What is counted of an image of a source."""

    @property
    def label(self) -> Label: ...
    @property
    def split_hint(self) -> Split | None: ...


@dataclass(frozen=True)
class ClassCounts:
    """Images of one class's source, by the split that the source puts them in."""

    unassigned: int = 0  # normals that the source puts in no split
    train: int = 0  # normals, as all below up to `test`
    val: int = 0
    test: int = 0
    defects: int = 0  # images with a known defect, wherever they lie
    stream: int = 0  # of unknown label, or kept for the stream by the source

    @classmethod
    def of(cls, images: Iterable[Labelled]) -> ClassCounts:
        return cls(**Counter(map(_kind, images)))

    @property
    def normals(self) -> int:
        return self.unassigned + self.train + self.val + self.test

    def with_normals(self, normals: int) -> ClassCounts:
        """The same class with so many normals: what is added or taken away has no split, or is for training."""
        change = normals - self.normals
        if self.train:
            return replace(self, train=self.train + change)
        return replace(self, unassigned=self.unassigned + change)


def _kind(image: Labelled) -> str:
    """The field of `ClassCounts` that an image is counted in."""
    if image.label is Label.UNKNOWN or image.split_hint is Split.STREAM:
        return "stream"
    if image.label is Label.ANOMALOUS:
        return "defects"
    return "unassigned" if image.split_hint is None else image.split_hint.value


@dataclass(frozen=True)
class SplitSizes:
    """Images of a class per split."""

    train: int
    val: int
    selecting: int  # of val: they choose the recipe
    calibrating: int  # of val: they set the threshold
    test_normal: int
    test_anomalous: int
    injected: bool  # the defects in test are injected, because the class has none of its own
    tune: int
    stream: int

    @classmethod
    def of_manifest(cls, rows: pd.DataFrame) -> SplitSizes:
        """The sizes in the manifest of one class."""
        held = Counter(zip(rows["split"], rows["label"], strict=True))
        val = held[Split.VAL, Label.NORMAL]
        return cls(
            train=held[Split.TRAIN, Label.NORMAL],
            val=val,
            selecting=val // 2,
            calibrating=val - val // 2,
            test_normal=held[Split.TEST, Label.NORMAL],
            test_anomalous=held[Split.TEST, Label.ANOMALOUS],
            injected=bool(rows["defect_type"].str.startswith(INJECTED_PREFIX).any()),
            tune=held[Split.TUNE, Label.ANOMALOUS],
            stream=int((rows["split"] == Split.STREAM).sum()),
        )


@dataclass(frozen=True)
class PromisedRate:
    """A rate that a class's normal images guarantee."""

    parameter: str  # the key of params.yaml that sets the target
    target: float
    num_normals: int  # that set it; at least 1

    @property
    def promised(self) -> float:
        return promised_rate(self.target, self.num_normals)

    @property
    def is_kept(self) -> bool:
        return self.num_normals >= required_normals(self.target)

    @property
    def note(self) -> str:
        return (
            f"{self.num_normals} normal images promise a rate of {self.promised:.3g}, "
            f"not of {self.parameter} {self.target:g}, which needs {required_normals(self.target)}"
        )


@dataclass(frozen=True)
class ClassForecast:
    """What the images of one class allow."""

    class_name: str
    counts: ClassCounts
    splits: SplitSizes
    rates: tuple[PromisedRate, ...]
    problems: tuple[str, ...]  # why no model can be made of the class
    notes: tuple[str, ...]  # what it has less of than params.yaml asks for
    usable_normals: int | None  # the fewest normals with which there are no problems; None: more will not do
    needed_normals: int | None  # the fewest normals with which there are no notes either; None: likewise

    @property
    def lines(self) -> tuple[str, ...]:
        """Problems and notes for people, each with the number of normals that would do."""
        few = "" if self.usable_normals is None else f"; {self.usable_normals} normal images would do"
        all_kept = "" if self.needed_normals is None else f"; {self.needed_normals} normal images would do for all"
        problems = [f"class '{self.class_name}': {problem}{few}" for problem in self.problems]
        return (*problems, *(f"class '{self.class_name}': {note}{all_kept}" for note in self.notes))

    @property
    def text(self) -> str:
        """How the images are split, in one line for people."""
        splits = self.splits
        kind = "injected defects" if splits.injected else "defects"
        return (
            f"class '{self.class_name}': {self.counts.normals} normal images and {self.counts.defects} defects: "
            f"{splits.train} train, {splits.val} val ({splits.selecting} select, {splits.calibrating} calibrate), "
            f"test {splits.test_normal} normal and {splits.test_anomalous} {kind}, {splits.tune} tune, "
            f"{splits.stream} stream"
        )


def forecast_class(
    class_name: str, counts: ClassCounts, params: Params, splits: SplitSizes | None = None
) -> ClassForecast:
    """The splits of a class with these images, what can be promised, and what would be needed.

    `splits`: those of the class's manifest, once there is one. The class need not be in params.yaml yet.
    """
    splits = splits or split_sizes(class_name, counts, params)
    return ClassForecast(
        class_name=class_name,
        counts=counts,
        splits=splits,
        rates=promised_rates(class_name, splits, params),
        problems=find_problems(splits),
        notes=find_notes(class_name, splits, params),
        usable_normals=_fewest_normals(class_name, counts, params, with_notes=True),
        needed_normals=_fewest_normals(class_name, counts, params, with_notes=False),
    )


def split_sizes(class_name: str, counts: ClassCounts, params: Params) -> SplitSizes:
    """How many images `assign_splits` and `injected_defects` give to each split."""
    data = params.of_class(class_name)
    num_of = {"": counts.unassigned, Split.TRAIN: counts.train, Split.VAL: counts.val, Split.TEST: counts.test}
    free_test, free_val = num_held_out("", num_of, data)
    train_test, train_val = num_held_out(Split.TRAIN, num_of, data)
    test_pool, val_pool = counts.test + free_test + train_test, counts.val + free_val + train_val
    test, val = min(test_pool, data.max_test_normal), min(val_pool, data.max_val)
    train = min(counts.normals - test_pool - val_pool, data.max_train)
    defects = counts.defects or min(test, data.injected_test) * len(params.calibration.injected)
    test_anomalous = min(defects, data.max_test_anomalous)
    tune = min(defects - test_anomalous, data.max_tune)
    return SplitSizes(
        train=train,
        val=val,
        selecting=val // 2,
        calibrating=val - val // 2,
        test_normal=test,
        test_anomalous=test_anomalous,
        injected=counts.defects == 0,
        tune=tune,
        stream=counts.stream + counts.normals - train - val - test + defects - test_anomalous - tune,
    )


def promised_rates(class_name: str, splits: SplitSizes, params: Params) -> tuple[PromisedRate, ...]:
    """What the class's images guarantee: false alarms, images rejected as unknown, false alarms of the baseline."""
    own = class_name in params.classes and params.classes[class_name].target_fpr is not None
    key = f"classes.{class_name}.target_fpr" if own else "calibration.target_fpr"
    return (
        PromisedRate(key, params.promise(class_name), splits.calibrating),
        PromisedRate("identification.unknown_share", params.identification.unknown_share, splits.val),
        PromisedRate("legacy.target_fpr", params.legacy.target_fpr, splits.val),
    )


def find_problems(splits: SplitSizes) -> tuple[str, ...]:
    """Why no model of the class can be made; empty: it can."""
    sizes = (splits.train, splits.val, splits.test_normal, splits.test_anomalous)
    return tuple(
        f"{number} {label} images in {split}, needs at least {needed}"
        for ((split, label), needed), number in zip(USABLE.items(), sizes, strict=True)
        if number < needed
    )


def find_notes(class_name: str, splits: SplitSizes, params: Params) -> tuple[str, ...]:
    """What the class works with less of than params.yaml asks for."""
    notes = [rate.note for rate in promised_rates(class_name, splits, params) if splits.val and not rate.is_kept]
    if splits.train < params.validation.min_normal:
        asked = params.validation.min_normal
        notes.insert(0, f"{splits.train} normal training images, validation.min_normal asks for {asked}")
    return tuple(notes)


def _fewest_normals(class_name: str, counts: ClassCounts, params: Params, *, with_notes: bool) -> int | None:
    """The fewest normals without problems, or also without notes; searched, so that it follows whatever splits do."""
    fixed = counts.normals - (counts.train or counts.unassigned)
    for normals in range(fixed, _MOST_NORMALS):
        splits = split_sizes(class_name, counts.with_normals(normals), params)
        if not find_problems(splits) and (with_notes or not find_notes(class_name, splits, params)):
            return normals
    return None
