"""From a source to checked files and a manifest, also when somebody pulls the plug."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fixtures.heard import Heard
from fixtures.learning import ROOT
from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.progress import Progress, Task
from shadowline.data.images import Refusal, RefusedImage
from shadowline.data.manifest import COLUMNS, content_id, read_manifest
from shadowline.data.synthetic_defects import injected_defects
from shadowline.stages.import_class import ImportReport, run
from tasks.validation.expectations import class_checks, class_table


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def picture(seed: int, kind: str = "PNG") -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8), kind)


def place(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = root / "source/bolt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def normals(count: int, first: int = 0) -> dict[str, bytes]:
    return {f"train/good/{n:03d}.png": picture(n) for n in range(first, first + count)}


def params_for(source: str, select: str = "", **data: float) -> Params:
    raw = load_params(ROOT / "params.yaml").model_dump()
    location = "source" if not source.endswith("whl") else source
    raw["classes"] = {"bolt": {"source": source, "location": location, "select": select}}
    raw["train"]["classes"] = ["bolt"]
    raw["data"].update({"injected_test": 0, "min_val": 0, **data})
    return Params.model_validate(raw)


def imported(root: Path, source: str = "folder", **data: float) -> tuple[ImportReport, pd.DataFrame]:
    report = run("bolt", params_for(source, **data), Layout(root), Progress())
    return report, read_manifest([Layout(root).manifest("bolt")])


def mask_of(root: Path, row: pd.Series) -> np.ndarray:
    return np.asarray(Image.open(root / row["mask_path"]))


def tree(root: Path) -> dict[str, str]:
    """Hash of every file below data/, by its path: images, masks, manifest, report and whatever should not be there."""
    files = sorted(path for path in (root / "data").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_row_names_a_file_with_the_sources_bytes(tmp_path: Path) -> None:
    crack = np.zeros((12, 16), np.uint8)
    crack[3:5, 2:9] = 255
    place(
        tmp_path,
        **normals(20),
        **{"test/good/0.png": picture(50), "test/crack/0.png": picture(60)},
        **{"ground_truth/crack/0_mask.png": encode(crack)},
    )
    report, rows = imported(tmp_path, "mvtec", val_share=0.2)
    assert tuple(rows.columns) == COLUMNS and rows["image_id"].is_monotonic_increasing
    for _, row in rows.iterrows():
        original = tmp_path / "source" / row["source"].removeprefix("mvtec:")
        stored = (tmp_path / row["path"]).read_bytes()
        assert stored == original.read_bytes() and content_id(stored) == row["image_id"]
        assert row["path"] == f"data/images/bolt/{row['image_id']}.png"
    assert rows["captured_at"].isna().all() and str(rows["captured_at"].dtype.tz) == "UTC"
    assert set(rows["class_name"]) == {"bolt"}
    assert set(rows[["width", "height", "mode"]].itertuples(index=False, name=None)) == {(16, 12, "L")}
    assert rows[["brightness", "contrast", "sharpness"]].to_numpy().min() > 0.1
    defect = rows[rows["label"] == "anomalous"].iloc[0]
    assert (defect["defect_type"], defect["split"]) == ("crack", "test")
    assert np.array_equal(mask_of(tmp_path, defect), crack)
    assert (rows["mask_path"] == "").sum() == 21
    assert (report.num_found, report.num_imported, report.refused, report.duplicates) == (22, 22, (), ())
    assert report.splits == {"train": 16, "val": 4, "tune": 0, "test": 2, "stream": 0}
    assert report.labels == {"normal": 21, "anomalous": 1, "unknown": 0}


def test_several_masks_of_an_image_become_one(tmp_path: Path) -> None:
    left, right = np.zeros((12, 16), np.uint8), np.zeros((12, 16), np.uint8)
    left[:, :3], right[:2, 10:] = 1, 7  # the values stand for kinds of defects
    place(
        tmp_path,
        **normals(10),
        **{"test/logical_anomalies/000.png": picture(60)},
        **{"ground_truth/logical_anomalies/000/000.png": encode(left)},
        **{"ground_truth/logical_anomalies/000/001.png": encode(right)},
    )
    _, rows = imported(tmp_path, "loco")
    mask = mask_of(tmp_path, rows[rows["mask_path"] != ""].iloc[0])
    assert np.array_equal(mask, np.where((left > 0) | (right > 0), 255, 0))


def test_a_mask_of_another_size_is_kept_for_validation_to_judge(tmp_path: Path) -> None:
    place(
        tmp_path,
        **normals(10),
        **{"test/crack/0.png": picture(60), "ground_truth/crack/0.png": encode(np.ones((5, 7), np.uint8))},
    )
    _, rows = imported(tmp_path)
    assert mask_of(tmp_path, rows[rows["mask_path"] != ""].iloc[0]).tolist() == [[255] * 7] * 5


def test_the_suffix_follows_the_content_not_the_name(tmp_path: Path) -> None:
    place(tmp_path, **{"train/good/a.png": picture(1, "JPEG"), "train/good/b.jpeg": picture(2, "BMP")})
    _, rows = imported(tmp_path)
    assert sorted(Path(path).suffix for path in rows["path"]) == [".bmp", ".jpg"]


def test_bad_files_are_refused_by_name_counted_and_left_out(tmp_path: Path) -> None:
    animated = BytesIO()
    Image.new("L", (4, 4)).save(animated, "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    place(
        tmp_path,
        **normals(20),
        **{
            "train/good/cut.png": picture(90)[:-60],
            "train/good/empty.png": b"",
            "train/good/large.png": encode(np.zeros((60, 60), np.uint8)),
            "train/good/heavy.bmp": encode(np.zeros((20, 20, 3), np.uint8), "BMP"),
            "train/good/moving.gif": animated.getvalue(),
            "train/good/notes.txt": b"the light was changed on monday",
            "train/good/float.tif": encode(np.ones((9, 9), np.float32), "TIFF"),
            "test/crack/0.png": picture(60),
            "ground_truth/crack/0.png": b"no mask",
        },
    )
    (tmp_path / "source/bolt/train/good/link.png").symlink_to(ROOT / "params.yaml")
    report, rows = imported(tmp_path, max_refused_share=0.5, max_pixels=2000, max_file_bytes=1000)
    reasons = {Path(file.name).name: file.reason for file in report.refused}
    assert reasons == {
        "cut.png": Refusal.TRUNCATED,
        "empty.png": Refusal.EMPTY,
        "large.png": Refusal.DECOMPRESSION_BOMB,
        "heavy.bmp": Refusal.TOO_LARGE_FILE,
        "moving.gif": Refusal.ANIMATED,
        "notes.txt": Refusal.NOT_AN_IMAGE,
        "float.tif": Refusal.UNSUPPORTED_MODE,
        "0.png": Refusal.BAD_MASK,
        "link.png": Refusal.OUTSIDE_SOURCE,
    }
    assert all(Path(file.name).name in file.message for file in report.refused)
    assert report.reasons == {reason.value: 1 for reason in reasons.values()}
    assert report.num_found == report.num_imported + len(report.refused) == 29
    assert len(list((tmp_path / "data/images/bolt").glob("*.*"))) == len(rows) == 20


def test_masks_of_one_image_must_have_one_size(tmp_path: Path) -> None:
    place(
        tmp_path,
        **normals(20),
        **{"test/logical_anomalies/000.png": picture(60)},
        **{"ground_truth/logical_anomalies/000/000.png": encode(np.ones((5, 7), np.uint8))},
        **{"ground_truth/logical_anomalies/000/001.png": encode(np.ones((5, 8), np.uint8))},
    )
    report, _ = imported(tmp_path, "loco")
    assert report.refused[0].reason == Refusal.BAD_MASK
    assert "7 × 5, 8 × 5" in report.refused[0].message


def test_the_report_on_disk_is_the_report(tmp_path: Path) -> None:
    place(tmp_path, **normals(30), **{"train/good/x.png": b"", "train/good/y.png": picture(3)})
    report, _ = imported(tmp_path)
    path = Layout(tmp_path).import_report("bolt")
    assert path.read_bytes() == (ROOT / "tests/unit/report/golden/import_report.json").read_bytes()
    assert ImportReport.read(path) == report
    on_disk = json.loads(path.read_text())
    assert on_disk["refused"] == [
        {"name": "bolt/train/good/x.png", "reason": "empty", "message": report.refused[0].message}
    ]
    assert on_disk["duplicates"] == [["bolt/train/good/y.png", "bolt/train/good/003.png"]]
    assert (on_disk["num_found"], on_disk["num_imported"], on_disk["splits"]) == (32, 30, report.splits)


def test_too_many_refused_files_fail_the_import_after_the_report_and_leave_the_manifest(tmp_path: Path) -> None:
    place(tmp_path, **normals(18))
    _, before = imported(tmp_path)
    place(tmp_path, **{"train/good/x.png": b"", "train/good/y.png": b"text"})
    imported(tmp_path, max_refused_share=0.1)  # 2 of 20: exactly at the bound
    with pytest.raises(ValueError, match=r"class 'bolt': 2 of 20 files refused, at most 9%[\s\S]*x\.png[\s\S]*y\.png"):
        imported(tmp_path, max_refused_share=0.09)
    report = json.loads(Layout(tmp_path).import_report("bolt").read_text())
    assert [file["name"] for file in report["refused"]] == ["bolt/train/good/x.png", "bolt/train/good/y.png"]
    assert read_manifest([Layout(tmp_path).manifest("bolt")]).equals(before)
    assert all((tmp_path / path).is_file() for path in before["path"])


def test_a_class_of_which_nothing_is_left_fails_whatever_share_is_allowed(tmp_path: Path) -> None:
    place(tmp_path, **{"train/good/x.png": b""})
    with pytest.raises(ValueError, match="1 of 1 files refused"):
        imported(tmp_path, max_refused_share=1.0)
    assert not Layout(tmp_path).manifest("bolt").exists()


def test_equal_content_is_imported_once_with_the_mask_it_came_with_first(tmp_path: Path) -> None:
    first, second = np.zeros((12, 16), np.uint8), np.full((12, 16), 255, np.uint8)
    place(
        tmp_path,
        **normals(10),
        **{"test/crack/a.png": picture(60), "test/crack/b.png": picture(60), "train/good/z.png": picture(4)},
        **{"ground_truth/crack/a.png": encode(first), "ground_truth/crack/b.png": encode(second)},
    )
    report, rows = imported(tmp_path)
    assert sorted(report.duplicates) == [
        ("bolt/test/crack/b.png", "bolt/test/crack/a.png"),
        ("bolt/train/good/z.png", "bolt/train/good/004.png"),
    ]
    assert rows["image_id"].is_unique and len(rows) == report.num_imported == 11
    assert np.array_equal(mask_of(tmp_path, rows[rows["mask_path"] != ""].iloc[0]), first)


def test_equal_content_under_two_labels_is_refused_under_both(tmp_path: Path) -> None:
    place(tmp_path, **normals(50), **{"test/crack/a.png": picture(3), "train/good/copy.png": picture(3)})
    report, rows = imported(tmp_path, max_refused_share=0.1)
    assert {file.name for file in report.refused} == {
        "bolt/train/good/003.png",
        "bolt/train/good/copy.png",
        "bolt/test/crack/a.png",
    }
    assert {file.reason for file in report.refused} == {Refusal.CONTRADICTORY_LABELS}
    assert "bolt/test/crack/a.png (anomalous)" in report.refused[0].message
    assert content_id(picture(3)) not in set(rows["image_id"])
    assert not list((tmp_path / "data/images/bolt").glob(f"{content_id(picture(3))}*"))


def test_unknown_classes_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown class 'bolts'; did you mean bolt"):
        run("bolts", params_for("folder"), Layout(tmp_path), Progress())


def test_progress_counts_every_listed_file(tmp_path: Path) -> None:
    place(tmp_path, **normals(30), **{"train/good/x.png": b""})
    seen: list[int] = []

    class Counting(Progress):
        @contextmanager
        def task(self, description: str, total: int) -> Iterator[Task]:
            assert (description, total) == ("import bolt", 31)
            yield self  # type: ignore[misc]

        def advance(self, amount: int = 1, note: str = "") -> None:
            seen.append(amount)

    run("bolt", params_for("folder"), Layout(tmp_path), Counting())
    assert sum(seen) == 31


def test_a_second_import_touches_no_image_and_gives_the_same_bytes(tmp_path: Path) -> None:
    place(tmp_path, **normals(20))
    imported(tmp_path)
    images = sorted((tmp_path / "data/images/bolt").glob("*.png"))
    before, stamps = tree(tmp_path), [(path.stat().st_ino, path.stat().st_mtime_ns) for path in images]
    imported(tmp_path)
    assert tree(tmp_path) == before
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in images] == stamps


def left_by_a_kill(path: Path) -> Path:
    """Where `replace_file` writes before it moves the file to `path`."""
    with pytest.raises(InterruptedError), replace_file(path) as temporary:
        raise InterruptedError
    return temporary


def test_a_damaged_copy_is_mended_and_what_the_source_dropped_is_removed(tmp_path: Path) -> None:
    place(tmp_path, **normals(20))
    _, rows = imported(tmp_path)
    damaged = tmp_path / rows["path"][0]
    damaged.write_bytes(bytes(damaged.stat().st_size))
    layout = Layout(tmp_path)
    written = (layout.images("bolt") / "a.png", layout.manifest("bolt"), layout.import_report("bolt"))
    for leftover in map(left_by_a_kill, written):
        leftover.write_bytes(b"half")
    (tmp_path / "source/bolt/train/good/000.png").unlink()
    imported(tmp_path)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(tmp_path / "source", undisturbed / "source")
    imported(undisturbed)
    assert tree(tmp_path) == tree(undisturbed)


CHILD = """
import sys
from contextlib import contextmanager
from pathlib import Path
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.stages.import_class import run

class InStep(Progress):
    '''One image for each line on stdin.'''
    @contextmanager
    def task(self, description, total):
        yield self
    def advance(self, amount=1, note=""):
        print("image", flush=True)
        sys.stdin.readline()

run("bolt", Params.model_validate_json(Path(sys.argv[1]).read_text()), Layout(Path(sys.argv[2])), InStep())
"""


def start_and_kill(root: Path, params: Path, num_images: int, delay_s: float) -> int:
    """Import `num_images`, let the next step begin, SIGKILL after `delay_s`; the exit status, -9 if it was busy."""
    command = [sys.executable, "-c", CHILD, str(params), str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        for _ in range(num_images):
            assert child.stdout.readline() == "image\n"
            child.stdin.write("\n")
            child.stdin.flush()
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        return child.wait()


def test_after_any_number_of_kills_a_run_ends_in_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    defects = {f"test/crack/{n:03d}.png": picture(1000 + n) for n in range(30)}
    masks = {name.replace("test", "ground_truth"): encode(np.eye(12, 16, dtype=np.uint8)) for name in defects}
    place(tmp_path / "clean", **normals(220), **defects, **masks, **{"train/good/bad.png": b"bad"})
    shutil.copytree(tmp_path / "clean/source", tmp_path / "killed/source")
    params = tmp_path / "params.json"
    params.write_text(params_for("folder").model_dump_json())
    imported(tmp_path / "clean")
    expected = tree(tmp_path / "clean")

    num_listed = 251
    for num_images, delay_s in ((1, 0.0), (80, 0.0005), (160, 0.001), (240, 0.002)):
        assert start_and_kill(tmp_path / "killed", params, num_images, delay_s) == -signal.SIGKILL
        found = {k: v for k, v in tree(tmp_path / "killed").items() if not k.endswith(".tmp")}
        assert found.items() <= expected.items()  # whole files only
        assert num_images - 1 <= sum("/masks/" not in name for name in found) < num_listed
    for delay_s in (0.002, 0.01):  # while manifest and report are written, or already after
        status = start_and_kill(tmp_path / "killed", params, num_listed, delay_s)
        assert status in (-signal.SIGKILL, 0)
        found = {k: v for k, v in tree(tmp_path / "killed").items() if not k.endswith(".tmp")}
        assert found.items() <= expected.items()
    imported(tmp_path / "killed")
    assert tree(tmp_path / "killed") == expected


def test_a_class_without_defects_gets_injected_ones_in_its_test_normals_alone(tmp_path: Path) -> None:
    place(tmp_path, **{f"train/good/{n:03d}.png": encode(smooth(n)) for n in range(40)})
    report, rows = imported(tmp_path, injected_test=3)
    injected = rows[rows["label"] == "anomalous"]
    kinds = load_params(ROOT / "params.yaml").calibration.injected
    assert dict(injected["defect_type"].value_counts()) == {f"injected_{kind}": 3 for kind in kinds}
    assert set(injected["split"]) == {"test"} and (injected["mask_path"] != "").all()
    bases = {name.split("/")[-1].removesuffix(".png") for name in injected["source"]}
    test_normals = rows[(rows["split"] == "test") & (rows["label"] == "normal")]["image_id"]
    assert bases == set(sorted(test_normals)[:3])
    assert report.num_injected == len(injected) == report.num_imported - report.num_found
    for _, row in injected.iterrows():
        assert mask_of(tmp_path, row).any()
    first = tree(tmp_path)
    imported(tmp_path, injected_test=3)
    assert tree(tmp_path) == first


def test_a_class_with_a_single_real_defect_gets_no_injected_one(tmp_path: Path) -> None:
    place(tmp_path, **normals(40), **{"test/crack/0.png": picture(60)})
    report, rows = imported(tmp_path, injected_test=3)
    assert report.num_injected == 0 and list(rows[rows["label"] == "anomalous"]["defect_type"]) == ["crack"]


def smooth(seed: int) -> np.ndarray:
    """64 × 64, with a texture of its own: large enough for every kind of injected defect."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    wave = np.sin(x / random.uniform(2, 6)) + np.cos(y / random.uniform(2, 6))
    return np.clip(120 + 40 * wave + random.normal(0, 3, (64, 64)), 0, 255).astype(np.uint8)


@pytest.mark.demo
def test_a_demo_class_is_imported_whole(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    wheel = ROOT / params.classes["solar_mono"].location
    if not wheel.is_file():
        pytest.skip(f"{params.classes['solar_mono'].location} is not there; run `shadowline data fetch`")
    (tmp_path / "data/downloads").mkdir(parents=True)
    (tmp_path / "data/downloads" / wheel.name).symlink_to(wheel)
    report = run("solar_mono", params, Layout(tmp_path), Progress())
    rows = read_manifest([Layout(tmp_path).manifest("solar_mono")])
    assert (report.num_imported, report.refused, report.duplicates) == (1074, (), ())
    assert report.splits == {"train": 200, "val": 88, "tune": 48, "test": 160, "stream": 578}
    assert set(rows["mode"]) == {"L"} and rows["source"].str.startswith("elpv:images/cell").all()


def test_the_import_says_what_the_images_are_too_few_for(tmp_path: Path) -> None:
    """Before anything is computed: the stages that need the images come minutes later."""

    heard = Heard()
    place(tmp_path, **normals(10))
    run("bolt", params_for("folder", min_val=51, injected_test=2), Layout(tmp_path), heard)
    assert heard.lines[:3] == [
        "class 'bolt': 3 normal images in val, needs at least 8; 21 normal images would do",
        "class 'bolt': 4 normal training images, validation.min_normal asks for 100; 201 normal "
        "images would do for all",
        "class 'bolt': 2 normal images promise a rate of 0.333, not of calibration.target_fpr 0.05, which needs 19; "
        "201 normal images would do for all",
    ]
    assert len(heard.lines) == 5  # two more rates


# --- what cameras and shares leave in a folder --------------------------------------------------------------------


def deep_picture(seed: int, white: int) -> bytes:
    """Grey of 16 bits a value, of which the camera uses the values to `white`."""
    return encode(np.random.default_rng(seed).integers(0, white + 1, (12, 16), dtype=np.uint16), "TIFF")


def test_the_bit_depth_of_a_class_is_that_of_its_brightest_image(tmp_path: Path) -> None:
    place(tmp_path, **{f"train/good/{n:03d}.tif": deep_picture(n, 900 if n else 4000) for n in range(20)})
    _, rows = imported(tmp_path)
    assert set(rows["mode"]) == {"I;12"}
    dark = rows.sort_values("brightness").iloc[0]
    values = np.asarray(Image.open(tmp_path / dark["path"]))
    assert dark["brightness"] == pytest.approx(values.mean() / 4095, abs=0.002)


def test_a_declared_bit_depth_stands_in_the_place_of_the_found_one(tmp_path: Path) -> None:
    place(tmp_path, **{f"train/good/{n:03d}.tif": deep_picture(n, 900) for n in range(20)})
    assert set(imported(tmp_path)[1]["mode"]) == {"I;10"}
    params = params_for("folder")
    declared = params.model_copy(
        update={"classes": {"bolt": params.classes["bolt"].model_copy(update={"bit_depth": 14})}}
    )
    run("bolt", declared, Layout(tmp_path), Progress())
    assert set(read_manifest([Layout(tmp_path).manifest("bolt")])["mode"]) == {"I;14"}


@pytest.mark.parametrize(
    ("mode", "listed"), [("L", "L"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("LA", "LA"), ("I;16", "I;12")]
)
def test_injected_defects_have_the_mode_of_their_class(tmp_path: Path, mode: str, listed: str) -> None:
    def normal(seed: int) -> bytes:
        if mode == "I;16":
            return deep_picture(seed, 4000)
        colours = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(colours).convert(mode).save(buffer, "PNG")
        return buffer.getvalue()

    place(tmp_path, **{f"train/good/{n:03d}.img": normal(n) for n in range(20)})
    report, rows = imported(tmp_path, injected_test=2)
    assert report.num_injected == 8 and set(rows["mode"]) == {listed}
    assert (rows.loc[rows["label"] == "anomalous", "mask_path"] != "").all()
    table = class_table(rows, tmp_path, params_for("folder").data)
    assert (table["mask_problem"].isna()).all()


def test_the_mode_of_what_the_program_has_injected_is_no_subject_of_a_check(tmp_path: Path) -> None:
    place(tmp_path, **{f"train/good/{n:03d}.png": encode_palette(n) for n in range(20)})
    _, rows = imported(tmp_path, injected_test=2)
    assert set(rows["mode"]) == {"P", "RGB"}
    params = params_for("folder")
    checks = class_checks(class_table(rows, tmp_path, params.data), "bolt", params.validation)
    (check,) = [check for check in checks if check.name == "consistent_mode"]
    assert "mode P in all rows" in check.expected
    assert all(clause.where == {"defect_type": ("",)} for clause in check.clauses)


def encode_palette(seed: int) -> bytes:
    buffer = BytesIO()
    colours = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(colours).convert("P").save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_no_file_is_refused_by_name_and_the_rest_is_imported(tmp_path: Path) -> None:
    place(tmp_path, **normals(20), **{"test/crack/x.png": picture(60), "test/crack/y.png": picture(61)})
    good, truth = tmp_path / "source/bolt/train/good", tmp_path / "source/bolt/ground_truth/crack"
    truth.mkdir(parents=True)
    os.mkfifo(good / "pipe.png")
    os.mkfifo(truth / "x_mask.png")
    (truth / "y_mask.png").symlink_to("nowhere.png")
    (good / "behind.png").symlink_to("pipe.png")
    (good / "a.png").symlink_to("b.png")
    (good / "b.png").symlink_to("a.png")
    (good / "gone.png").symlink_to("nowhere.png")
    (good / "folder.png").symlink_to(".")
    report, rows = imported(tmp_path, max_refused_share=0.5)
    refused = {Path(file.name).name: file.reason for file in report.refused}
    names = ("pipe.png", "behind.png", "a.png", "b.png", "gone.png", "folder.png")
    assert refused == dict.fromkeys(names, Refusal.UNREADABLE) | dict.fromkeys(("x.png", "y.png"), Refusal.BAD_MASK)
    assert all(Path(file.name).name in file.message for file in report.refused)
    assert len(rows) == 20 and report.num_found == 28


def test_files_with_names_that_are_hard_to_write_are_imported_under_readable_ones(tmp_path: Path) -> None:
    place(tmp_path, **normals(17))
    good = os.fsencode(tmp_path / "source/bolt/train/good")
    names = [b"M\xfcller_001.png", b"two\nlines.png", b"x" * 251 + b".png"]
    for number, name in enumerate(names):
        Path(os.fsdecode(good + b"/" + name)).write_bytes(picture(100 + number))
    place(tmp_path, **{f"test/crack/{'y' * 251}.png": picture(200)})  # with _mask it is too long to exist
    (tmp_path / "source/bolt/ground_truth/crack").mkdir(parents=True)
    report, rows = imported(tmp_path)
    assert (report.num_imported, report.refused) == (21, ())
    sources = set(rows["source"].str.removeprefix("folder:bolt/train/good/"))
    assert {"M\\xfcller_001.png", "two\\nlines.png", "x" * 251 + ".png"} <= sources


def test_a_folder_without_permission_is_named_and_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, **normals(20), **{"train/good/locked/0.png": picture(90)})
    locked, listdir = tmp_path / "source/bolt/train/good/locked", os.listdir

    def denied(path: object) -> object:  # root, who runs tests in containers, is denied nothing
        if str(path) == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", denied)
        report, rows = imported(tmp_path, max_refused_share=0.5)
    assert [file.name for file in report.refused] == ["bolt/train/good/locked"] and len(rows) == 20


def test_injected_files_are_made_when_they_are_read(tmp_path: Path) -> None:
    place(tmp_path, **normals(40))
    _, rows = imported(tmp_path)
    listed = injected_defects(rows, params_for("folder", injected_test=4), Layout(tmp_path))
    shutil.rmtree(tmp_path / "data/images/bolt")
    assert len(listed) == 16
    with pytest.raises(RefusedImage, match="cannot be read"):
        listed[0].read(1_000_000)
