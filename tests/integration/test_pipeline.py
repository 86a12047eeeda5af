"""dvc.yaml on a tiny project: what one changed class, a new class and a changed file make run again."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from fixtures.tiny_project import CLASSES, EXTRA_CLASS, Project, class_entry, picture, save
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.stages.summary import write_comparison


def test_an_image_more_in_one_class_runs_that_class_only(project: Project) -> None:
    before = project.lock()
    save(picture("dots", "train", 40), project.root / "factory/dots/train/good/040.png")
    ran = _stages_run(project.repro("bank", "identity", "legacy"))
    after = project.lock()
    assert ran == ["import@dots", "validate", "features@dots", "bank@dots", "identity@dots", "legacy@dots"]
    for name in ("import", "features", "bank", "identity", "legacy"):
        assert after[f"{name}@stripes"] == before[f"{name}@stripes"]
        assert _hashes(after, f"{name}@dots") != _hashes(before, f"{name}@dots")
    stale = project.stale()
    assert {"training_set", "calibrate@dots", "evaluate@dots"} <= stale
    assert not {"import@stripes", "features@stripes", "bank@stripes", "calibrate@stripes", "legacy@stripes"} & stale


def test_enrolling_a_class_skips_training_and_moves_no_other_bank(project: Project) -> None:
    before = project.lock()
    values = yaml.safe_load(project.layout.params.read_text(encoding="utf-8"))
    values["classes"][EXTRA_CLASS] = class_entry(EXTRA_CLASS)
    project.layout.params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    ran = _stages_run(project.repro("train", "bank", "identity", "calibrate"))
    after = project.lock()
    assert ran == [
        "classes",
        f"import@{EXTRA_CLASS}",
        "validate",
        f"features@{EXTRA_CLASS}",
        "training_set",
        f"bank@{EXTRA_CLASS}",
        f"identity@{EXTRA_CLASS}",
        f"calibrate@{EXTRA_CLASS}",
    ]
    assert _hashes(after, "training_set") == _hashes(before, "training_set")
    for name in (
        "train",
        *(f"{stage}@{cls}" for stage in ("features", "bank", "identity", "calibrate") for cls in CLASSES),
    ):
        assert after[name] == before[name]
    assert project.layout.calibration(EXTRA_CLASS).is_file()


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"target_fpr": 0.3}, {"calibrate@dots", "evaluate@dots", "package", "cost", "summary"}),
        ({"target_fpr": 0.2}, set()),  # what it had in common with the others
        ({"test_share": 0.3}, {"import@dots"}),  # it has a test split of its own: the same rows
    ],
)
def test_what_is_one_class_s_own_in_params_runs_only_what_reads_it(
    project: Project, own: dict[str, object], expected: set[str]
) -> None:
    _edit_class(project, "dots", own)
    assert set(_stages_run(project.repro())) == {"classes"} | expected
    assert project.stale() == set()


def test_the_common_promise_runs_every_class_but_those_with_one_of_their_own(project: Project) -> None:
    _edit_class(project, "dots", {"target_fpr": 0.2})
    project.edit_params(calibration={"target_fpr": 0.3})
    ran = _stages_run(project.repro("calibrate"))
    assert ran == ["classes", "calibrate@stripes"]


def test_a_declared_view_of_one_class_makes_only_its_own_images_stale(project: Project) -> None:
    _edit_class(project, "dots", {"augment": ["hflip"]})
    assert _stages_run(project.repro("bank", "identity")) == ["classes", "features@dots", "bank@dots", "identity@dots"]


def _edit_class(project: Project, name: str, own: dict[str, object]) -> None:
    values = yaml.safe_load(project.layout.params.read_text(encoding="utf-8"))
    values["classes"][name] |= own
    project.layout.params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def test_a_row_moved_to_another_split_makes_everything_that_reads_splits_stale(project: Project) -> None:
    path = project.layout.manifest("dots")
    rows = pd.read_parquet(path)
    rows.loc[rows.index[rows["split"] == "val"][0], "split"] = "train"
    rows.to_parquet(path)
    stages = ("features", "bank", "identity", "calibrate", "legacy", "evaluate")
    readers = {"training_set", *(f"{stage}@dots" for stage in stages)}
    assert readers | {"validate", "summary"} <= project.stale()
    assert not [name for name in project.stale() if name.endswith("@stripes")]


def test_a_changed_mask_makes_the_evaluation_stale_and_no_bank(project: Project) -> None:
    masks = sorted((project.layout.images("dots") / "masks").glob("*.png"))
    contents = [mask.read_bytes() for mask in masks]
    masks[0].write_bytes(next(content for content in contents if content != contents[0]))
    assert "evaluate@dots" in project.stale()
    assert "bank@dots" not in project.stale()


def test_what_depends_on_a_stage_whose_outputs_dvc_restores_is_brought_up_to_date(
    prefect_server: str, in_project: Project, prefect_log: pytest.LogCaptureFixture
) -> None:
    """A parameter is tried and put back: the bank's first files come out of DVC's memory, and no command runs."""
    from prefect import flow

    from flows.retrain import run_stages
    from tasks.integrations.dvc_pipeline import find_stale

    before = in_project.outputs()
    in_project.edit_params(bank={"shrinkage": "oas"})
    in_project.repro("calibrate@dots")
    assert {"models/banks/dots.safetensors", "models/calibration/dots.json"} <= _changed(before, in_project.outputs())
    in_project.edit_params(bank={"shrinkage": "ledoit_wolf"})
    assert find_stale.fn(in_project.root) & {"bank", "calibrate"} == {"bank"}, "calibrate is asked because bank was"
    runs = flow(run_stages)(in_project.root, run_id="none")
    assert {"bank", "calibrate"} <= {run.name for run in runs if not run.skipped}
    assert "Running stage" not in prefect_log.text
    assert in_project.outputs() == before
    assert in_project.stale() == set()


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path, md5 in after.items() if before[path] != md5}


def _stages_run(output: str) -> list[str]:
    """Without `code`, which DVC runs every time."""
    return [name for name in re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE) if name != "code"]


def _hashes(lock: dict, stage: str) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in lock[stage]["outs"]}


def test_metrics_and_plots_of_two_commits_can_be_compared(in_project: Project) -> None:
    from dvc.repo import Repo

    metrics = ClassMetrics.read(in_project.layout.metrics("dots"))
    worse = metrics.model_copy(update={"decisions": replace(metrics.decisions, fpr=0.75)})
    write_comparison({"dots": worse}, in_project.layout)
    with Repo(str(in_project.root)) as repo:
        repo.commit(target="summary", force=True)
        in_project.commit("One class less, and the other one worse")
        figures = repo.metrics.diff(a_rev="HEAD~1", b_rev="HEAD")["diff"]["data/class_metrics.json"]
        shown = repo.plots.show(revs=["HEAD~1", "HEAD"])
    assert (figures["classes.dots.fpr"]["old"], figures["classes.dots.fpr"]["new"]) == (metrics.decisions.fpr, 0.75)
    assert figures["classes.stripes.auroc"]["old"] and figures["classes.stripes.auroc"]["new"] is None
    before, after = (set(shown[rev]["sources"]["data"]) for rev in ("HEAD~1", "HEAD"))
    assert before - after == {"data/plots/roc/stripes.csv", "data/plots/scores/stripes.csv"}
    assert {"data/plots/training_loss.csv", "data/plots/roc/dots.csv", "data/plots/scores/dots.csv"} <= after
