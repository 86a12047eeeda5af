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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from shadowline.core.conformal import promised_rate, required_normals
from shadowline.core.params import Params
from shadowline.data.labels import Label, Split
from shadowline.data.splits import num_held_out

USABLE = {  # images of a split and label without which a class cannot be computed
    (Split.TRAIN, Label.NORMAL): 1,
    (Split.VAL, Label.NORMAL): 4,  # two choose the recipe and two calibrate: a robust sigma of one image is 0
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
    def text(self) -> str:
        """One line for people."""
        splits = self.splits
        kind = "injected defects" if splits.injected else "defects"
        return (
            f"class '{self.class_name}': {self.counts.normals} normal images and {self.counts.defects} defects: "
            f"{splits.train} train, {splits.val} val ({splits.selecting} select, {splits.calibrating} calibrate), "
            f"test {splits.test_normal} normal and {splits.test_anomalous} {kind}, {splits.tune} tune, "
            f"{splits.stream} stream"
        )


def forecast_class(class_name: str, counts: ClassCounts, params: Params) -> ClassForecast:
    """The splits of a class with these images, what can be promised, and what would be needed."""
    splits = split_sizes(class_name, counts, params)
    rates = _rates(class_name, splits, params)
    return ClassForecast(
        class_name=class_name,
        counts=counts,
        splits=splits,
        rates=rates,
        problems=tuple(_problems(splits)),
        notes=tuple(_notes(splits, rates, params)),
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


def _rates(class_name: str, splits: SplitSizes, params: Params) -> tuple[PromisedRate, ...]:
    own = class_name in params.classes and params.classes[class_name].target_fpr is not None
    key = f"classes.{class_name}.target_fpr" if own else "calibration.target_fpr"
    return (
        PromisedRate(key, params.promise(class_name), splits.calibrating),
        PromisedRate("identification.unknown_share", params.identification.unknown_share, splits.val),
        PromisedRate("legacy.target_fpr", params.legacy.target_fpr, splits.val),
    )


def _problems(splits: SplitSizes) -> Iterator[str]:
    sizes = (splits.train, splits.val, splits.test_normal, splits.test_anomalous)
    for ((split, label), needed), number in zip(USABLE.items(), sizes, strict=True):
        if number < needed:
            yield f"{number} {label} images in {split}, needs at least {needed}"


def _notes(splits: SplitSizes, rates: Iterable[PromisedRate], params: Params) -> Iterator[str]:
    if splits.train < params.validation.min_normal:
        yield f"{splits.train} normal training images, validation.min_normal asks for {params.validation.min_normal}"
    if splits.val >= USABLE[Split.VAL, Label.NORMAL]:
        yield from (rate.note for rate in rates if not rate.is_kept)


def _fewest_normals(class_name: str, counts: ClassCounts, params: Params, *, with_notes: bool) -> int | None:
    """The fewest normals without problems, or also without notes; searched, so that it follows whatever splits do."""
    for normals in range(counts.val + counts.test, _MOST_NORMALS):
        splits = split_sizes(class_name, counts.with_normals(normals), params)
        if any(_problems(splits)):
            continue
        if with_notes or not any(_notes(splits, _rates(class_name, splits, params), params)):
            return normals
    return None
