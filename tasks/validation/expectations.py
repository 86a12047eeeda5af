"""What the manifest must fulfil, as named checks in plain data: nothing here runs them.

    table = class_table(rows, root, params.data)
    checks = class_checks(table, "bolt", params.validation)

`class_checks` looks at one class's slice and at nothing else, `overall_checks` at all slices together;
tasks/validation/checks.py hands both to Great Expectations. Its column expectations skip empty cells, so every clause
on values comes with a clause that refuses empty cells: a missing measurement must not pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shadowline.core.params import DataParams, ValidationParams
from shadowline.core.robust import robust_sigma
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.data.class_forecast import USABLE
from shadowline.data.images import RefusedImage, open_within, read_mask
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import ADDED, class_bit_depth
from shadowline.data.synthetic_defects import PREFIX

_NUM_LOOKED_AT = 8  # training images of which the grey values are counted
GREY_STEP = 1 / 255  # one step of an 8-bit image, in grey values 0…1


@dataclass(frozen=True)
class Expectation:
    """One expectation of Great Expectations: its class, its arguments, and the rows that it looks at."""

    kind: str
    arguments: Mapping[str, Any]
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column → values; empty: all rows


@dataclass(frozen=True)
class DataCheck:
    """Clauses that pass or fail under one name; `expected` and `way_out` are the texts of its failure message."""

    name: str  # a field of params.validation.severity, unless always critical
    expected: str
    way_out: str
    clauses: tuple[Expectation, ...]
    always_critical: bool = False  # without it no later stage can work, whatever params.yaml says


@dataclass(frozen=True)
class Limits:
    """A closed range of one image statistic."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassBalance:
    """Normal training images per class, and largest / smallest: infinite where a class has none."""

    train_normals: Mapping[str, int]

    @property
    def ratio(self) -> float:
        smallest = min(self.train_normals.values())
        return max(self.train_normals.values()) / smallest if smallest else math.inf

    @property
    def smallest(self) -> str:
        return min(self.train_normals, key=lambda name: self.train_normals[name])


def class_table(rows: pd.DataFrame, root: Path, bounds: DataParams) -> pd.DataFrame:
    """One class's rows with `home` (class/split), `size` (width×height), `mask_problem` (None: no problem) and
    `grey_levels` (of a typical training image, the same in all rows).

    Reads the masks and some images, below `root` and within `bounds`.
    """
    sizes = [_size(width, height) for width, height in zip(rows["width"], rows["height"], strict=True)]
    return rows.assign(
        home=rows["class_name"] + "/" + rows["split"],
        size=pd.Series(sizes, index=rows.index, dtype=object),
        mask_problem=pd.Series(mask_problems(rows, root, bounds), index=rows.index, dtype=object),
        grey_levels=grey_levels(rows, root, bounds),
    )


def overall_table(slices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per image and home: an image with two homes has two rows. `balance_ratio` is the same in all rows."""
    rows = pd.concat([rows.assign(class_name=name) for name, rows in slices.items()], ignore_index=True)
    homes = rows.drop_duplicates(["image_id", "class_name", "split"]).reset_index(drop=True)
    return homes.assign(home=homes["class_name"] + "/" + homes["split"], balance_ratio=balance(slices).ratio)


def class_checks(table: pd.DataFrame, class_name: str, params: ValidationParams) -> tuple[DataCheck, ...]:
    """The checks of one class, from its own `class_table` only."""
    return (
        _enough_images(table, class_name),
        _min_normal(params.min_normal),
        _known_labels(class_name),
        _consistent(table, "size", "crop or resize the image to it"),
        _consistent_mode(table),
        _grey_levels(class_name, params.min_grey_levels),
        _in_range(table, "brightness", params.robust_range),
        _in_range(table, "contrast", params.robust_range),
        _in_range(table, "sharpness", params.robust_range),
        _train_is_normal(),
        _masks_match(),
    )


def overall_checks(slices: Mapping[str, pd.DataFrame], params: ValidationParams) -> tuple[DataCheck, ...]:
    """The checks that cross classes, for `overall_table`."""
    return _unique_across_splits(), _class_balance(balance(slices), params.max_balance_ratio)


def balance(slices: Mapping[str, pd.DataFrame]) -> ClassBalance:
    """Count the normal training images of each class."""
    return ClassBalance({name: int(_train_normal(rows).sum()) for name, rows in slices.items()})


def robust_limits(values: pd.Series, robust_range: float) -> Limits | None:
    """Median ± `robust_range` robust sigmas of the finite values; None where there are none.

    1. The values spread: a sigma is 1.4826 · MAD.
    2. More than half of them are equal (MAD = 0): the standard deviation.
    3. All are equal: one step of an 8-bit image.
    """
    finite = values[np.isfinite(values)]
    if finite.empty:
        return None
    median = float(finite.median())
    sigma = robust_sigma(finite)
    if finite.nunique() == 1:
        sigma = GREY_STEP
    elif sigma == 0:
        sigma = float(finite.std(ddof=0))
    return Limits(median - robust_range * sigma, median + robust_range * sigma)


def mask_problems(rows: pd.DataFrame, root: Path, bounds: DataParams) -> list[str | None]:
    """The problem of each row's mask; None where the mask is right, or where it is missing and not due.

    A mask is due for the anomalous test images of a class that has masks at all, except for those that were added after
    the class's source: production draws no masks.
    """
    masks = rows["mask_path"].fillna("")
    due = (rows["label"] == Label.ANOMALOUS) & (rows["split"] == Split.TEST) & bool((masks != "").any())
    due &= ~rows["source"].str.startswith(f"{ADDED}:")
    columns = zip(masks, due, rows["width"], rows["height"], strict=True)
    return [
        _mask_problem(root, mask, _size(width, height), bounds) if mask else ("no mask" if is_due else None)
        for mask, is_due, width, height in columns
    ]


def grey_levels(rows: pd.DataFrame, root: Path, bounds: DataParams) -> float:
    """The median number of different grey values (1…256) of some normal training images, as the models see them.

    NaN without such images; 0 for an image that is not what was imported any more.
    """
    depth = class_bit_depth(rows) or FULL_DEPTH
    paths = rows[_train_normal(rows)].sort_values("image_id")["path"].head(_NUM_LOOKED_AT)
    return float(np.median([_num_levels(root / path, bounds, depth) for path in paths])) if len(paths) else math.nan


def _num_levels(path: Path, bounds: DataParams, bit_depth: int) -> int:
    try:
        histogram = open_within(path, bounds, bit_depth).convert("L").histogram()
    except RefusedImage:
        return 0
    return sum(count > 0 for count in histogram)


def _mask_problem(root: Path, mask_path: str, image_size: str | None, bounds: DataParams) -> str | None:
    try:
        mask_HW = read_mask(root / mask_path, bounds)
    except RefusedImage as refusal:
        return f"mask {refusal}"
    mask_size = _size(mask_HW.shape[1], mask_HW.shape[0])
    if mask_size != image_size:
        return f"mask of {mask_size} pixels on an image of {image_size or 'unknown size'}"
    return None if mask_HW.any() else "mask without a marked pixel"


def _size(width: float, height: float) -> str | None:
    return None if pd.isna(width) or pd.isna(height) else f"{int(width)}×{int(height)}"


def _train_normal(rows: pd.DataFrame) -> pd.Series:
    return (rows["split"] == Split.TRAIN) & (rows["label"] == Label.NORMAL)


def _one_of(column: str, values: list[str], where: Mapping[str, tuple[str, ...]] | None = None) -> Expectation:
    return Expectation("ExpectColumnValuesToBeInSet", {"column": column, "value_set": values}, where or {})


def _not_empty(column: str) -> Expectation:
    return Expectation("ExpectColumnValuesToNotBeNull", {"column": column})


def _enough_images(table: pd.DataFrame, class_name: str) -> DataCheck:
    """What the later stages cannot do without; a class that was not imported has nothing."""
    clauses = tuple(
        Expectation(
            "ExpectTableRowCountToBeBetween", {"min_value": bound}, {"split": (str(split),), "label": (str(label),)}
        )
        for (split, label), bound in USABLE.items()
    )
    wanted = ", ".join(f"{bound} {label} in {split}" for (split, label), bound in USABLE.items())
    way_out = "add images; `shadowline data list` says how many are needed"
    if table.empty:
        way_out = f"nothing was imported; run `dvc repro import@{class_name}`"
    return DataCheck("enough_images", f"at least {wanted}", way_out, clauses, always_critical=True)


def _min_normal(bound: int) -> DataCheck:
    where = {"split": (Split.TRAIN.value,), "label": (Label.NORMAL.value,)}
    return DataCheck(
        "min_normal",
        f"at least {bound} normal training images",
        "add normal images or lower validation.min_normal",
        (Expectation("ExpectTableRowCountToBeBetween", {"min_value": bound}, where),),
    )


def _known_labels(class_name: str) -> DataCheck:
    legal = {"label": [*map(str, Label)], "split": [*map(str, Split)], "class_name": [class_name]}
    return DataCheck(
        "known_labels",
        ", ".join(f"{column} {' | '.join(values)}" for column, values in legal.items()),
        "correct the row's source and import the class again",
        tuple(clause for column, values in legal.items() for clause in (_not_empty(column), _one_of(column, values))),
    )


def _consistent(table: pd.DataFrame, column: str, cure: str) -> DataCheck:
    common = [str(value) for value in table[column].mode()[:1]]
    return DataCheck(
        f"consistent_{column}",
        f"{column} {common[0] if common else 'known'} in all rows",
        f"{cure}, or make a class of its own for it",
        (_not_empty(column), _one_of(column, common)),
    )


def _consistent_mode(table: pd.DataFrame) -> DataCheck:
    """Of the images that came with the class: what was injected is written as the program likes."""
    is_own = ~table["defect_type"].fillna("").str.startswith(PREFIX)
    check = _consistent(table[is_own], "mode", "convert the image to it")
    if is_own.all():
        return check
    own = {"defect_type": tuple(sorted(table.loc[is_own, "defect_type"].fillna("").unique()))}
    return replace(check, clauses=tuple(replace(clause, where=own) for clause in check.clauses))


def _grey_levels(class_name: str, bound: int) -> DataCheck:
    return DataCheck(
        "grey_levels",
        f"at least {bound} different grey values in a typical training image",
        f"set classes.{class_name}.bit_depth where files have 16 bits, or save them again with all bits of the camera",
        (Expectation("ExpectColumnMinToBeBetween", {"column": "grey_levels", "min_value": bound}),),
    )


def _in_range(table: pd.DataFrame, column: str, robust_range: float) -> DataCheck:
    limits = robust_limits(table.loc[table["split"] == Split.TRAIN, column], robust_range)
    way_out = "look at the image and leave it out, or raise validation.robust_range"
    if limits is None:
        some_train = Expectation("ExpectTableRowCountToBeBetween", {"min_value": 1}, {"split": (Split.TRAIN.value,)})
        expected = f"{column} within the range of the training rows, of which none has a value"
        return DataCheck(f"{column}_range", expected, "add training images", (some_train, _not_empty(column)))
    between = {"column": column, "min_value": limits.low, "max_value": limits.high}
    return DataCheck(
        f"{column}_range",
        f"{column} {limits.low:.4g} … {limits.high:.4g}",
        way_out,
        (_not_empty(column), Expectation("ExpectColumnValuesToBeBetween", between)),
    )


def _train_is_normal() -> DataCheck:
    return DataCheck(
        "train_is_normal",
        "label normal in train and val",
        "move the image to test or stream, or correct its label",
        (_one_of("label", [Label.NORMAL.value], {"split": (Split.TRAIN.value, Split.VAL.value)}),),
    )


def _masks_match() -> DataCheck:
    return DataCheck(
        "masks_match",
        "a readable mask of the image's size with at least one marked pixel",
        "correct the mask and import the class again",
        (Expectation("ExpectColumnValuesToBeNull", {"column": "mask_problem"}),),
    )


def _unique_across_splits() -> DataCheck:
    return DataCheck(
        "unique_across_splits",
        "each image in one split of one class",
        "keep one of the copies",
        (_not_empty("image_id"), Expectation("ExpectColumnValuesToBeUnique", {"column": "image_id"})),
    )


def _class_balance(counts: ClassBalance, max_ratio: float) -> DataCheck:
    return DataCheck(
        "class_balance",
        f"largest class at most {max_ratio:g} times the smallest, in normal training images",
        f"add normal images to class '{counts.smallest}' or raise validation.max_balance_ratio",
        (Expectation("ExpectColumnMaxToBeBetween", {"column": "balance_ratio", "max_value": max_ratio}),),
    )
