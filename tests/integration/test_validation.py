"""Great Expectations at work: each check fails from real rows and names them, and nothing else fails with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from fixtures.learning import ROOT
from shadowline.core.layout import Layout
from shadowline.core.params import ClassParams, Params, Severity, load_params
from shadowline.data.manifest import content_id, write_manifest
from tasks.validation.checks import MAX_FAILED_ROWS, ValidationOutcome, main, validate

SIDE = 8  # pixels
CLASS_CHECKS = [
    "enough_images",
    "min_normal",
    "known_labels",
    "consistent_size",
    "consistent_mode",
    "grey_levels",
    "brightness_range",
    "contrast_range",
    "sharpness_range",
    "train_is_normal",
    "masks_match",
]
HOMES = (
    [("train", "normal")] * 12
    + [("val", "normal")] * 4
    + [("test", "normal")] * 4
    + [("test", "anomalous")] * 5
    + [("stream", "unknown")] * 3
    + [("val", "normal")] * 4
)
TRAIN, TEST_NORMAL, ANOMALOUS, STREAM = 0, 16, 20, 25  # the first row of each


def rows_of(class_name: str, homes: list[tuple[str, str]] = HOMES) -> pd.DataFrame:
    """A sound class: a few images per home, and a mask for every anomalous one."""
    return pd.DataFrame(
        [
            {
                "image_id": content_id(f"{class_name}/{number}".encode()),
                "path": f"data/images/{class_name}/{number}.png",
                "class_name": class_name,
                "split": split,
                "label": label,
                "defect_type": "scratch" if label == "anomalous" else "",
                "mask_path": f"data/images/{class_name}/masks/{number}.png" if label == "anomalous" else "",
                "width": SIDE,
                "height": SIDE,
                "mode": "L",
                "brightness": 0.5 + 0.01 * (number % 4),
                "contrast": 0.2 + 0.01 * (number % 5),
                "sharpness": 0.1 + 0.01 * (number % 3),
                "captured_at": pd.Timestamp("2026-01-01", tz="UTC"),
                "source": f"generated:{number}.png",
            }
            for number, (split, label) in enumerate(homes)
        ]
    )


def draw_images(rows: pd.DataFrame, root: Path) -> None:
    """Training images of 64 grey values, and the masks."""
    for path in rows.loc[rows["split"] == "train", "path"]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)).save(root / path)
    draw_masks(rows, root)


def draw_masks(rows: pd.DataFrame, root: Path) -> None:
    for mask_path in filter(None, rows["mask_path"]):
        (root / mask_path).parent.mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", (SIDE, SIDE))
        mask.putpixel((1, 2), 255)
        mask.save(root / mask_path)


def params_for(classes: list[str], **validation: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    return params.model_copy(
        update={
            "classes": {name: ClassParams(source="folder", location=name) for name in classes},
            "validation": params.validation.model_copy(update={"min_normal": 10, **validation}),
        }
    )


def write_slices(layout: Layout, *slices: pd.DataFrame) -> list[str]:
    """Write a slice and masks for each; the names of the classes."""
    for rows in slices:
        draw_images(rows, layout.root)
        write_manifest(rows, layout.manifest(rows["class_name"].iloc[0]))
    return [rows["class_name"].iloc[0] for rows in slices]


def read(layout: Layout, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((layout.checks / f"{name}.json").read_text(encoding="utf-8"))
    return found


def failed(found: dict[str, Any]) -> dict[str, Any]:
    return {check["name"]: check for check in found["checks"] if not check["passed"]}


# --- one run over a class for each way to break the manifest -----------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """How one class breaks one check: the cells that are set, and the values that the result must name."""

    check: str
    cells: dict[tuple[int, str], Any]
    values: dict[int, Any]  # row → value

    def apply(self, rows: pd.DataFrame) -> pd.DataFrame:
        for (number, column), value in self.cells.items():
            rows[column] = rows[column].astype(object)
            rows.loc[number, column] = value
        return rows


FAULTS = {
    "few": Fault("min_normal", {(TRAIN + number, "split"): "stream" for number in range(3)}, {}),
    "odd_label": Fault("known_labels", {(STREAM, "label"): "scratched"}, {STREAM: "scratched"}),
    "no_label": Fault("known_labels", {(STREAM, "label"): None}, {STREAM: None}),
    "odd_split": Fault("known_labels", {(STREAM, "split"): "holdout"}, {STREAM: "holdout"}),
    "stray_class": Fault("known_labels", {(STREAM, "class_name"): "nut"}, {STREAM: "nut"}),
    "odd_width": Fault("consistent_size", {(TEST_NORMAL, "width"): 9}, {TEST_NORMAL: "9×8"}),
    "no_height": Fault("consistent_size", {(TEST_NORMAL, "height"): None}, {TEST_NORMAL: None}),
    "odd_mode": Fault("consistent_mode", {(TRAIN, "mode"): "RGB"}, {TRAIN: "RGB"}),
    "bright": Fault("brightness_range", {(STREAM, "brightness"): 0.99}, {STREAM: 0.99}),
    "unmeasured": Fault("brightness_range", {(STREAM, "brightness"): None}, {STREAM: None}),
    "flat": Fault("contrast_range", {(TEST_NORMAL, "contrast"): 0.0}, {TEST_NORMAL: 0.0}),
    "blurred": Fault("sharpness_range", {(TRAIN, "sharpness"): -1.0}, {TRAIN: -1.0}),
    "endless": Fault("sharpness_range", {(STREAM, "sharpness"): float("inf")}, {STREAM: "inf"}),
    "tainted": Fault("train_is_normal", {(TRAIN, "label"): "unknown"}, {TRAIN: "unknown"}),
    "maskless_row": Fault("masks_match", {(ANOMALOUS, "mask_path"): ""}, {ANOMALOUS: "no mask"}),
}
CRITICAL = {"known_labels", "train_is_normal", "masks_match"}


@dataclass(frozen=True)
class Run:
    layout: Layout
    outcome: ValidationOutcome
    temporary: Path  # where a tool that writes temporary files would have written them


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The sound classes, one class for each fault, one whose mask files are broken, and one with many failed rows."""
    layout, temporary = Layout(tmp_path_factory.mktemp("project")), tmp_path_factory.mktemp("temporary")
    maskless = rows_of("maskless").assign(mask_path="")
    many = rows_of("many", HOMES + [("stream", "unknown")] * 26)
    many.loc[len(HOMES) :, "mode"] = "RGB"
    names = write_slices(layout, rows_of("sound"), maskless, rows_of("torn"), many)
    break_mask_files(layout.root)
    for name, fault in FAULTS.items():
        sound = rows_of(name)
        draw_images(sound, layout.root)
        write_manifest(fault.apply(sound), layout.manifest(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        outcome = validate(params_for([*names, *FAULTS]), layout)
    return Run(layout, outcome, temporary)


def break_mask_files(root: Path) -> None:
    masks = root / "data/images/torn/masks"
    (masks / f"{ANOMALOUS}.png").unlink()
    (masks / f"{ANOMALOUS + 1}.png").write_bytes(b"no image")
    Image.new("L", (SIDE, SIDE + 1), 255).save(masks / f"{ANOMALOUS + 2}.png")
    Image.new("L", (SIDE, SIDE), 0).save(masks / f"{ANOMALOUS + 3}.png")


@pytest.mark.parametrize("name", ["sound", "maskless"])
def test_a_sound_class_passes_every_check(run: Run, name: str) -> None:
    found = read(run.layout, name)
    assert found["class_name"] == name
    assert found["passed"]
    assert [check["name"] for check in found["checks"]] == CLASS_CHECKS
    assert all(check["passed"] and check["failed_rows"] == [] for check in found["checks"])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_own_check_alone_and_names_its_rows(run: Run, name: str) -> None:
    fault, found = FAULTS[name], read(run.layout, name)
    (check,) = failed(found).values()
    assert check["name"] == fault.check
    assert check["num_failed_rows"] == len(fault.values)
    expected = [
        {
            "image_id": content_id(f"{name}/{number}".encode()),
            "path": f"data/images/{name}/{number}.png",
            "value": value,
        }
        for number, value in fault.values.items()
    ]
    assert check["failed_rows"] == expected


@pytest.mark.parametrize("name", FAULTS)
def test_the_severity_of_a_fault_decides_over_its_class(run: Run, name: str) -> None:
    fault, found = FAULTS[name], read(run.layout, name)
    critical = fault.check in CRITICAL
    assert failed(found)[fault.check]["severity"] == ("critical" if critical else "advisory")
    assert found["passed"] is not critical
    assert (f"{name}.{fault.check}" in run.outcome.critical_failures) is critical
    assert (f"{name}.{fault.check}" in run.outcome.advisory_failures) is not critical


def test_every_broken_mask_file_is_named(run: Run) -> None:
    (check,) = failed(read(run.layout, "torn")).values()
    assert check["name"] == "masks_match"
    values = {Path(row["path"]).stem: row["value"] for row in check["failed_rows"]}
    assert sorted(values) == ["20", "21", "22", "23"]
    assert "cannot be read" in values["20"]
    assert "no readable image header" in values["21"]
    assert values["22"] == "mask of 8×9 pixels on an image of 8×8"
    assert values["23"] == "mask without a marked pixel"


def test_a_count_says_what_was_measured(run: Run) -> None:
    check = failed(read(run.layout, "few"))["min_normal"]
    assert (check["observed"], check["expected"]) == ("9", "at least 10 normal training images")


def test_rows_beyond_the_bound_are_counted_and_not_listed(run: Run) -> None:
    check = failed(read(run.layout, "many"))["consistent_mode"]
    assert check["num_failed_rows"] == 26
    assert len(check["failed_rows"]) == MAX_FAILED_ROWS
    assert check["observed"] == "32 of 58 rows as expected"
    lines = [line for line in run.outcome.lines if "many" in line]
    assert len(lines) == MAX_FAILED_ROWS + 1
    assert "6 more rows" in lines[-1]


def test_a_line_names_file_value_bound_and_way_out(run: Run) -> None:
    (bright,) = [line for line in run.outcome.lines if "images/bright/" in line]
    assert bright.startswith("advisory: 25.png (data/images/bright/25.png): brightness_range: 0.99, expected ")
    assert bright.endswith("; look at the image and leave it out, or raise validation.robust_range")
    (few,) = [line for line in run.outcome.lines if "'few'" in line]
    assert few == (
        "advisory: class 'few': min_normal: 9, expected at least 10 normal training images; "
        "add normal images or lower validation.min_normal"
    )


def test_overall_sums_up_the_classes_and_its_own_checks_pass(run: Run) -> None:
    overall = read(run.layout, "overall")
    assert overall["passed"] is run.outcome.passed is False
    assert tuple(overall["critical_failures"]) == run.outcome.critical_failures
    assert tuple(overall["advisory_failures"]) == run.outcome.advisory_failures
    assert {check["name"]: check["passed"] for check in overall["checks"]} == {
        "unique_across_splits": True,
        "class_balance": True,
    }
    assert overall["balance"]["train_normals"]["few"] == 9
    assert overall["balance"]["ratio"] == pytest.approx(12 / 9)


def test_the_docs_lead_to_every_class(run: Run) -> None:
    index = run.outcome.docs_path.read_text(encoding="utf-8")
    links = dict(re.findall(r'<a href="([^"#]+)">([^<]+)</a>', index))
    assert set(links.values()) == {"sound", "maskless", "torn", "many", "overall", *FAULTS}
    for page in links:
        assert "Expectation" in (run.outcome.docs_path.parent / page).read_text(encoding="utf-8")


def test_the_docs_load_nothing_from_elsewhere(run: Run) -> None:
    pages = list(run.outcome.docs_path.parent.rglob("*.html"))
    assert len(pages) > len(FAULTS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        assert not re.search(r"https?://", text)


def test_nothing_is_written_but_the_results(run: Run) -> None:
    assert list(run.temporary.iterdir()) == []
    assert {path.name for path in run.layout.root.iterdir()} == {"data"}
    assert {path.name for path in run.layout.validation.iterdir()} == {"checks", "docs"}


# --- what crosses classes ---------------------------------------------------------------------------------------


def test_an_image_in_two_homes_is_named_with_both(tmp_path: Path) -> None:
    bolt, nut = rows_of("bolt"), rows_of("nut")
    bolt.at[STREAM, "image_id"] = bolt.at[TRAIN, "image_id"]
    bolt.at[TRAIN + 2, "image_id"] = bolt.at[TRAIN + 1, "image_id"]  # a copy within one home is no leak
    nut.at[TEST_NORMAL, "image_id"] = bolt.at[TEST_NORMAL, "image_id"]
    layout = Layout(tmp_path)
    params = params_for(write_slices(layout, bolt, nut))
    lenient = params.validation.severity.model_copy(update={"unique_across_splits": Severity.ADVISORY})
    outcome = validate(params_for(["bolt", "nut"], severity=lenient), layout)
    assert outcome.passed
    assert outcome.critical_failures == ()
    assert outcome.advisory_failures == ("overall.unique_across_splits",)
    (check,) = failed(read(layout, "overall")).values()
    assert sorted((Path(row["path"]).stem, row["value"]) for row in check["failed_rows"]) == [
        ("0", "bolt/train"),
        ("16", "bolt/test"),
        ("16", "nut/test"),
        ("25", "bolt/stream"),
    ]
    assert failed(read(layout, "bolt")) == failed(read(layout, "nut")) == {}


def test_classes_out_of_balance_are_reported_with_the_ratio(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    classes = write_slices(layout, rows_of("bolt", HOMES + [("train", "normal")] * 18), rows_of("nut"))
    outcome = validate(params_for(classes, max_balance_ratio=2.0), layout)
    assert outcome.passed
    assert outcome.advisory_failures == ("overall.class_balance",)
    (check,) = failed(read(layout, "overall")).values()
    assert (check["observed"], check["num_failed_rows"]) == ("2.5", 0)
    assert read(layout, "overall")["balance"] == {"ratio": 2.5, "train_normals": {"bolt": 30, "nut": 12}}
    assert outcome.lines[0].endswith("add normal images to class 'nut' or raise validation.max_balance_ratio")


@pytest.mark.parametrize("others", [["nut"], []])
def test_an_empty_class_fails_closed(tmp_path: Path, others: list[str]) -> None:
    layout = Layout(tmp_path)
    write_manifest(rows_of("bolt").iloc[:0], layout.manifest("bolt"))
    write_slices(layout, *map(rows_of, others))
    outcome = validate(params_for(["bolt", *others]), layout)
    assert outcome.critical_failures == ("bolt.enough_images",)
    assert set(outcome.advisory_failures) == {
        "bolt.min_normal",
        "bolt.grey_levels",
        "bolt.brightness_range",
        "bolt.contrast_range",
        "bolt.sharpness_range",
        "overall.class_balance",
    }
    assert read(layout, "overall")["balance"]["ratio"] is None


# --- bytes ------------------------------------------------------------------------------------------------------


def test_a_new_class_and_a_second_run_leave_every_byte_as_it_was(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    odd = FAULTS["bright"].apply(rows_of("bolt"))
    write_slices(layout, odd, rows_of("nut"))
    validate(params_for(["bolt"]), layout)
    alone = (layout.checks / "bolt.json").read_bytes()
    validate(params_for(["nut", "bolt"]), layout)
    assert (layout.checks / "bolt.json").read_bytes() == alone
    first = {path.name: path.read_bytes() for path in layout.checks.glob("*.json")}
    validate(params_for(["nut", "bolt"]), layout)
    assert {path.name: path.read_bytes() for path in layout.checks.glob("*.json")} == first
    assert set(first) == {"bolt.json", "nut.json", "overall.json"}


# --- the command ------------------------------------------------------------------------------------------------


def write_project(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> None:
    """A project of one class, with params.yaml, that `change` may break."""
    rows = rows_of("bolt")
    draw_images(rows, root)
    write_manifest(change(rows), Layout(root).manifest("bolt"))
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["classes"] = {"bolt": {"source": "folder", "location": "bolt"}}
    raw["train"]["classes"] = ["bolt"]
    raw["validation"]["min_normal"] = 10
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


def test_an_advisory_failure_is_printed_and_exits_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(tmp_path, FAULTS["bright"].apply)
    monkeypatch.chdir(tmp_path)
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in lines[:-1]] == [["advisory", "25.png (data/images/bolt/25.png)"]]
    assert lines[-1] == "validation passed; see data/validation/docs/index.html"


def test_a_critical_failure_exits_1_after_writing_everything(tmp_path: Path) -> None:
    write_project(tmp_path, FAULTS["tainted"].apply)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.validation"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "critical: 0.png (data/images/bolt/0.png): train_is_normal: unknown, expected label normal in train and val; "
        "move the image to test or stream, or correct its label",
        "validation failed: bolt.train_is_normal; see data/validation/docs/index.html",
    ]
    assert read(Layout(tmp_path), "overall")["critical_failures"] == ["bolt.train_is_normal"]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "params.yaml"}
    assert (tmp_path / "data/validation/docs/index.html").is_file()


def test_a_class_that_was_not_imported_is_a_critical_failure_whatever_the_severities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zero rows break no rule on rows: alone, an import that failed would count as sound."""
    write_project(tmp_path)
    raw = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    raw["classes"]["nut"] = {"source": "folder", "location": "nut"}
    raw["validation"]["severity"] = dict.fromkeys(raw["validation"]["severity"], "advisory")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "critical: class 'nut': enough_images: 0, 0, 0, 0, expected at least 1 normal in train, 8 normal in val, "
        "1 normal in test, 1 anomalous in test; nothing was imported; run `dvc repro import@nut`"
    )
    assert lines[-1] == "validation failed: nut.enough_images; see data/validation/docs/index.html"
    assert read(Layout(tmp_path), "nut")["passed"] is False
    assert read(Layout(tmp_path), "bolt")["passed"] is True


@pytest.mark.parametrize(
    ("missing", "message"),
    [("params.yaml", "no such file")],
)
def test_unusable_input_exits_2_and_says_the_way_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    message: str,
) -> None:
    write_project(tmp_path)
    (tmp_path / missing).unlink()
    monkeypatch.chdir(tmp_path)
    assert main() == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data/validation").exists()


def test_a_class_named_like_the_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class 'overall': .* rename the class"):
        validate(params_for(["overall"]), Layout(tmp_path))
