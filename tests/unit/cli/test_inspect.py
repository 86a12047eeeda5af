"""Missing files are named once, before a model is loaded; a folder of images is judged whole, with a row for each."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from shadowline.cli.app import main
from shadowline.cli.inspect import CSV_COLUMNS, _expand, _say_refused, write_csv


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


def test_missing_files_are_named_once_and_no_model_is_loaded(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["shadowline", "inspect", "nope.png", "cam[left]/1.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "refused nope.png: no such file\nrefused cam[left]/1.png: no such file\n")


def test_a_refusal_says_the_name_once(capsys: pytest.CaptureFixture[str]) -> None:
    _say_refused(Path("today/a.png"), "a.png: no readable image header; save it anew")
    assert capsys.readouterr().err == "refused today/a.png: no readable image header; save it anew\n"
