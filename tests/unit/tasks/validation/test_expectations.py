"""The checks as plain data: limits, masks, tables, and what every clause must stand beside."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fixtures.learning import ROOT
from shadowline.core.params import SeverityParams, load_params
from tasks.validation.expectations import (
    GREY_STEP,
    DataCheck,
    Limits,
    balance,
    class_checks,
    class_table,
    mask_problems,
    overall_checks,
    overall_table,
    robust_limits,
)

PARAMS = load_params(ROOT / "params.yaml")
MAX_SIDE = 8  # pixels, of the generated masks


def rows(**columns: Sequence[object]) -> pd.DataFrame:
    """As many rows as the longest column, whatever is not given being sound and the same in all."""
    num_rows = max((len(values) for values in columns.values()), default=1)
    numbers = range(num_rows)
    sound: dict[str, Sequence[object]] = {
        "image_id": [f"id{number}" for number in numbers],
        "path": [f"{number}.png" for number in numbers],
        "class_name": ["bolt"] * num_rows,
        "split": ["train"] * num_rows,
        "label": ["normal"] * num_rows,
        "defect_type": [""] * num_rows,
        "mask_path": [""] * num_rows,
        "source": [f"folder:{number}.png" for number in numbers],
        "width": [MAX_SIDE] * num_rows,
        "height": [MAX_SIDE] * num_rows,
        "mode": ["L"] * num_rows,
        "brightness": [0.5 + 0.01 * number for number in numbers],
        "contrast": [0.2 + 0.01 * number for number in numbers],
        "sharpness": [0.1 + 0.01 * number for number in numbers],
    }
    return pd.DataFrame(sound | columns)


def checks_of(table: pd.DataFrame) -> dict[str, DataCheck]:
    return {check.name: check for check in class_checks(table, "bolt", PARAMS.validation)}


def draw_mask(path: Path, size: tuple[int, int] = (MAX_SIDE, MAX_SIDE), marked: int = 1) -> str:
    mask = Image.new("L", size)
    mask.putpixel((0, 0), marked)
    mask.save(path)
    return path.name


def test_limits_are_robust_sigmas_around_the_median() -> None:
    limits = robust_limits(pd.Series([1.0, 2.0, 3.0, 4.0, 1000.0]), 2.0)
    assert limits == Limits(3.0 - 2 * 1.4826, 3.0 + 2 * 1.4826)


def test_limits_of_mostly_equal_values_fall_back_to_the_standard_deviation() -> None:
    limits = robust_limits(pd.Series([0.5] * 9 + [0.6]), 2.0)
    assert limits is not None
    assert limits.low == pytest.approx(0.5 - 2 * 0.03)
    assert limits.high == pytest.approx(0.5 + 2 * 0.03)


def test_limits_of_equal_values_are_grey_steps_wide() -> None:
    limits = robust_limits(pd.Series([0.1] * 7), 3.0)
    assert limits == Limits(0.1 - 3 * GREY_STEP, 0.1 + 3 * GREY_STEP)


def test_values_that_are_not_finite_do_not_move_the_limits() -> None:
    sound = pd.Series([0.1, 0.2, 0.4])
    assert robust_limits(pd.concat([sound, pd.Series([math.nan, math.inf])]), 8.0) == robust_limits(sound, 8.0)


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_nothing_finite_gives_no_limits(values: list[float]) -> None:
    assert robust_limits(pd.Series(values, dtype=float), 8.0) is None


def test_limits_come_from_the_training_rows_only() -> None:
    bright_test = rows(split=["train"] * 5 + ["test"] * 5, brightness=[0.1, 0.2, 0.3, 0.4, 0.5] + [0.9] * 5)
    (_, between) = checks_of(class_table(bright_test, Path(), PARAMS.data))["brightness_range"].clauses
    train_limits = robust_limits(pd.Series([0.1, 0.2, 0.3, 0.4, 0.5]), PARAMS.validation.robust_range)
    assert train_limits == Limits(between.arguments["min_value"], between.arguments["max_value"])


def test_a_range_without_training_rows_asks_for_some() -> None:
    check = checks_of(class_table(rows(split=["test", "test"]), Path(), PARAMS.data))["contrast_range"]
    assert [clause.kind for clause in check.clauses] == [
        "ExpectTableRowCountToBeBetween",
        "ExpectColumnValuesToNotBeNull",
    ]
    assert check.clauses[0].arguments == {"min_value": 1}
    assert check.clauses[0].where == {"split": ("train",)}


def test_each_fault_of_a_mask_has_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    masks = [
        draw_mask(tmp_path / "sound.png"),
        draw_mask(tmp_path / "blank.png", marked=0),
        draw_mask(tmp_path / "large.png", size=(MAX_SIDE, MAX_SIDE + 1)),
        "torn.png",
        "absent.png",
        "",
    ]
    table = rows(mask_path=masks, label=["anomalous"] * 6, split=["test"] * 6)
    sound, blank, large, torn, absent, none = mask_problems(table, tmp_path, PARAMS.data)
    assert sound is None
    assert blank == "mask without a marked pixel"
    assert large == "mask of 8×9 pixels on an image of 8×8"
    assert torn is not None and torn.startswith("mask torn.png: ")
    assert absent is not None and "absent.png: cannot be read" in absent
    assert none == "no mask"


@pytest.mark.parametrize(
    ("label", "split", "due"),
    [("anomalous", "test", True), ("anomalous", "stream", False), ("normal", "test", False)],
)
def test_a_mask_is_due_for_anomalous_test_images_only(tmp_path: Path, label: str, split: str, due: bool) -> None:
    masks = [draw_mask(tmp_path / "sound.png"), ""]
    table = rows(mask_path=masks, label=["anomalous", label], split=["test", split])
    assert mask_problems(table, tmp_path, PARAMS.data) == [None, "no mask" if due else None]


def test_no_mask_is_due_for_a_defect_that_came_after_the_source(tmp_path: Path) -> None:
    sources = ["folder:0.png", "addition:13ba33f5da75/1.png", "folder:2.png"]
    masks = [draw_mask(tmp_path / "sound.png"), "", ""]
    table = rows(mask_path=masks, label=["anomalous"] * 3, split=["test"] * 3, source=sources)
    assert mask_problems(table, tmp_path, PARAMS.data) == [None, None, "no mask"]


def test_no_mask_is_due_in_a_class_without_masks() -> None:
    table = rows(mask_path=["", None], label=["anomalous"] * 2, split=["test"] * 2)
    assert mask_problems(table, Path(), PARAMS.data) == [None, None]


def test_a_mask_beyond_the_bound_on_pixels_is_a_problem_and_not_an_error(tmp_path: Path) -> None:
    bounds = PARAMS.data.model_copy(update={"max_pixels": MAX_SIDE})
    (problem,) = mask_problems(rows(mask_path=[draw_mask(tmp_path / "sound.png")]), tmp_path, bounds)
    assert problem is not None and "at most 8 in all" in problem


def test_the_common_size_is_the_most_frequent_one() -> None:
    table = class_table(rows(width=[8, 9, 8], height=[4, 4, 4]), Path(), PARAMS.data)
    assert list(table["size"]) == ["8×4", "9×4", "8×4"]
    (_, in_set) = checks_of(table)["consistent_size"].clauses
    assert in_set.arguments["value_set"] == ["8×4"]


def test_balance_counts_normal_training_rows() -> None:
    found = balance(
        {
            "bolt": rows(split=["train"] * 6 + ["val"], label=["normal"] * 7),
            "nut": rows(split=["train"] * 3, label=["normal", "normal", "anomalous"]),
        }
    )
    assert found.train_normals == {"bolt": 6, "nut": 2}
    assert (found.ratio, found.smallest) == (3.0, "nut")


def test_balance_with_a_class_without_normals_is_infinite() -> None:
    assert balance({"bolt": rows(), "nut": rows(label=["unknown"])}).ratio == math.inf


def test_copies_within_one_home_are_one_row_and_across_homes_two() -> None:
    slices = {
        "bolt": rows(image_id=["a", "a", "b", "b"], split=["train", "train", "train", "test"]),
        "nut": rows(image_id=["c"]),
    }
    homes = overall_table(slices)[["image_id", "home"]].to_numpy().tolist()
    assert homes == [["a", "bolt/train"], ["b", "bolt/train"], ["b", "bolt/test"], ["c", "nut/train"]]


def test_every_severity_has_its_check() -> None:
    per_class = class_checks(class_table(rows(), Path(), PARAMS.data), "bolt", PARAMS.validation)
    overall = overall_checks({"bolt": rows()}, PARAMS.validation)
    chosen = [check.name for check in (*per_class, *overall) if not check.always_critical]
    assert sorted(chosen) == sorted(SeverityParams.model_fields)


def test_clauses_that_skip_empty_cells_stand_beside_one_that_refuses_them() -> None:
    checks = checks_of(class_table(rows(), Path(), PARAMS.data)).values()
    refused = {
        clause.arguments["column"]
        for check in checks
        for clause in check.clauses
        if clause.kind == "ExpectColumnValuesToNotBeNull"
    }
    skipping = {
        clause.arguments["column"]
        for check in checks
        for clause in check.clauses
        if clause.kind in ("ExpectColumnValuesToBeInSet", "ExpectColumnValuesToBeBetween")
    }
    assert skipping == refused


def test_importing_the_checks_and_their_runner_does_not_import_great_expectations() -> None:
    imported = "tasks.validation.expectations, tasks.validation.checks"
    code = f"import sys, {imported}; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
