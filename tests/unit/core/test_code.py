"""Which files a stage's code consists of: what its module imports, and nothing else."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml

from fixtures.learning import ROOT
from shadowline.core.code import SourceTree
from shadowline.core.layout import Layout
from shadowline.stages.code import write_code_hashes
from shadowline.stages.pipeline import PER_CLASS, STAGE_MODULES

COMPUTED = [stage for stage in STAGE_MODULES if stage != "code"]  # the stages that have a hash


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the packages that the stage reads in the place of the installed ones."""
    for package in ("shadowline", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("shadowline.stages.code.SourceTree", partial(SourceTree, tmp_path))
    return tmp_path


def changed_stages(copy: Path, file: str, tmp_path: Path, line: str = "# another line\n") -> set[str]:
    """The stages whose hash is another one after a line was added to a file."""
    layout = Layout(tmp_path / "project")
    before = _hashes(layout)
    with (copy / file).open("a", encoding="utf-8") as opened:
        opened.write(line)
    after = _hashes(layout)
    return {stage for stage in COMPUTED if before[stage] != after[stage]}


def _hashes(layout: Layout) -> dict[str, str]:
    write_code_hashes(layout)
    return {stage: json.loads((layout.code / f"{stage}.json").read_text())["sha256"] for stage in COMPUTED}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("shadowline/stages/summary.py", {"summary"}),
        ("shadowline/evaluation/gates.py", {"summary"}),
        ("shadowline/models/dinomaly/loss.py", {"train"}),
        ("shadowline/models/dinomaly/model.py", {"train", "calibrate", "evaluate", "package", "cost"}),
        ("shadowline/models/patchcore/coreset.py", {"legacy", "cost"}),
        ("tasks/validation/expectations.py", {"validate"}),
        ("shadowline/gateway/app.py", set()),
        ("shadowline/rollout/engine.py", set()),
        ("shadowline/records/tables.py", set()),
        ("shadowline/report/build.py", set()),
        ("shadowline/cli/app.py", set()),
        ("shadowline/core/params/operation.py", set()),
        ("tasks/integrations/mlflow_registry.py", set()),
        ("shadowline/data/images.py", {"import", "validate", "features", "legacy", "evaluate", "package", "cost"}),
        ("shadowline/core/atomic_files.py", set(COMPUTED)),
    ],
)
def test_a_changed_line_changes_the_hash_of_the_stages_that_stand_on_it(
    copy: Path, tmp_path: Path, file: str, expected: set[str]
) -> None:
    assert changed_stages(copy, file, tmp_path) == expected


def test_a_new_import_brings_its_file_in(copy: Path, tmp_path: Path) -> None:
    line = "def f():\n    from shadowline.gateway import app\n"
    assert changed_stages(copy, "shadowline/stages/summary.py", tmp_path, line) == {"summary"}
    assert changed_stages(copy, "shadowline/gateway/app.py", tmp_path) == {"summary"}


def test_an_import_for_type_checkers_alone_does_not(copy: Path, tmp_path: Path) -> None:
    line = "if TYPE_CHECKING:\n    from shadowline.gateway import app\n"
    changed_stages(copy, "shadowline/stages/summary.py", tmp_path, line)
    assert changed_stages(copy, "shadowline/gateway/app.py", tmp_path) == set()


def test_a_module_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match="torch"):
        SourceTree().files("torch")


def test_every_stage_of_dvc_yaml_depends_on_its_own_code() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = {name: set(stage.get("do", stage).get("deps", ())) for name, stage in stages.items() if name != "code"}
    assert found.keys() == set(COMPUTED)
    assert list(stages) == list(STAGE_MODULES)
    assert {name for name, stage in stages.items() if "do" in stage} == PER_CLASS
    for name, dependencies in found.items():
        assert {path for path in dependencies if path.startswith("data/code")} == {f"data/code/{name}.json"}
