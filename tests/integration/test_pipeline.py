"""dvc.yaml on a tiny project: what one changed class, a new class and a changed file make run again."""

from __future__ import annotations

import json
import re
import sys

import pandas as pd
import yaml

from integration.tiny_project import CLASSES, EXTRA_CLASS, Project, class_entry, picture, save


def test_an_image_more_in_one_class_runs_that_class_only(project: Project) -> None:
    before = project.lock()
    save(picture("dots", "train", 40), project.root / "factory/dots/train/good/040.png")
    ran = _stages_run(project.repro("bank", "legacy"))
    after = project.lock()
    assert ran == ["import@dots", "validate", "features@dots", "bank@dots", "legacy@dots"]
    for name in ("import", "features", "bank", "legacy"):
        assert after[f"{name}@stripes"] == before[f"{name}@stripes"]
        assert _hashes(after, f"{name}@dots") != _hashes(before, f"{name}@dots")
    stale = _stale(project)
    assert {"training_set", "calibrate@dots", "evaluate@dots"} <= stale
    assert not {"import@stripes", "features@stripes", "bank@stripes", "calibrate@stripes", "legacy@stripes"} & stale


def test_enrolling_a_class_skips_training_and_moves_no_other_bank(project: Project) -> None:
    before = project.lock()
    values = yaml.safe_load(project.layout.params.read_text(encoding="utf-8"))
    values["classes"][EXTRA_CLASS] = class_entry(EXTRA_CLASS)
    project.layout.params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    ran = _stages_run(project.repro("train", "bank", "calibrate"))
    after = project.lock()
    assert ran == [
        f"import@{EXTRA_CLASS}",
        "validate",
        f"features@{EXTRA_CLASS}",
        "training_set",
        f"bank@{EXTRA_CLASS}",
        f"calibrate@{EXTRA_CLASS}",
    ]
    assert _hashes(after, "training_set") == _hashes(before, "training_set")
    for name in ("train", *(f"{stage}@{one}" for stage in ("features", "bank", "calibrate") for one in CLASSES)):
        assert after[name] == before[name]
    assert project.layout.calibration(EXTRA_CLASS).is_file()


def test_a_row_moved_to_another_split_makes_everything_that_reads_splits_stale(project: Project) -> None:
    path = project.layout.manifest("dots")
    rows = pd.read_parquet(path)
    rows.loc[rows.index[rows["split"] == "val"][0], "split"] = "train"
    rows.to_parquet(path)
    readers = {"training_set", *(f"{stage}@dots" for stage in ("features", "bank", "calibrate", "legacy", "evaluate"))}
    assert readers | {"validate", "summary"} <= _stale(project)
    assert not [name for name in _stale(project) if name.endswith("@stripes")]


def test_a_changed_mask_makes_the_evaluation_stale_and_no_bank(project: Project) -> None:
    mask = next((project.layout.images("dots") / "masks").glob("*.png"))
    mask.write_bytes(next((project.layout.images("stripes") / "masks").glob("*.png")).read_bytes())
    assert "evaluate@dots" in _stale(project)
    assert "bank@dots" not in _stale(project)


def _stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE)


def _stale(project: Project) -> set[str]:
    status = project.run(sys.executable, "-m", "dvc", "status", "--json", check=True).stdout
    return set(json.loads(status))


def _hashes(lock: dict, stage: str) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in lock[stage]["outs"]}
