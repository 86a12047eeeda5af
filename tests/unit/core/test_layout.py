"""A class that leaves takes all its files with it, those that a kill left half written among them."""

from __future__ import annotations

from pathlib import Path

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
