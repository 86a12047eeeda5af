"""A folder of images: each is found with its own overlay, and the file of results has a row for every one of them."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from shadowline.cli.inspect import CSV_COLUMNS, _expand, write_csv


def _png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_a_folder_stands_for_its_images_and_equal_names_stay_apart(tmp_path: Path) -> None:
    images = [_png(tmp_path / name) for name in ("good/000.png", "hole/000.png")]
    single = _png(tmp_path.with_name(f"{tmp_path.name}-single") / "part.png")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    found = _expand([tmp_path, single])
    assert found == [(images[0], Path("good/000.png")), (images[1], Path("hole/000.png")), (single, Path("part.png"))]


def test_the_file_of_results_has_a_row_for_judged_and_refused_images(tmp_path: Path) -> None:
    judged = {"class_name": "bolt", "score": 0.5, "threshold": 1.0, "decision": "normal", "stop": False}
    unknown = {"class_name": None, "nearest_class": "bolt", "score": None, "decision": None, "stop": True}
    target = tmp_path / "out/results.csv"
    write_csv(
        target,
        [(Path("a, b.png"), judged), (Path("c.png"), unknown)],
        [(Path("d.png"), "not an image")],
    )
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["image"], row["decision"], row["stop"], row["error"]) for row in rows] == [
        ("a, b.png", "normal", "False", ""),
        ("c.png", "", "True", ""),
        ("d.png", "", "True", "not an image"),
    ]
