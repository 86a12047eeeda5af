"""A class that leaves takes all its files with it, those that a kill left half written among them."""

from __future__ import annotations

import ast
from pathlib import Path

from fixtures.learning import ROOT
from shadowline.core.atomic_files import unfinished
from shadowline.core.layout import Layout


def test_forgetting_a_class_leaves_no_file_of_it_and_every_file_of_the_others(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name in ("bolt", "nut"):
        for path in (layout.manifest(name), layout.features(name), layout.bank(name), layout.calibration(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"whole")
            unfinished(path).write_bytes(b"half")
        layout.images(name).mkdir(parents=True)
        (layout.images(name) / "1.png").write_bytes(b"image")
    layout.forget("bolt")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path in left if "bolt" in path]
    assert len(left) == 2 * 4 + 1


DOORS = ("shadowline/cli/", "flows/commands/", "shadowline/gateway/app.py", "tasks/validation/checks.py")


def test_the_current_folder_is_taken_for_the_project_only_where_a_person_or_a_server_comes_in() -> None:
    """Everything below is told the project's root, so that it works on any project from any folder."""
    files = [path for folder in ("shadowline", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")]
    here = {
        path.relative_to(ROOT).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node) == "Layout()"
    }
    assert {name for name in here if not name.startswith(DOORS)} == set()
    assert here  # the names of the doors are still right
