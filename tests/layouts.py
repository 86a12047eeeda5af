"""`make layouts`: replicas of public data sets and odd folders, from `shadowline init` to a judged model.

    python tests/layouts.py                      # all; writes docs/layouts.json
    python tests/layouts.py "MVTec AD" BTAD      # some; prints and writes nothing

Classes and numbers of images are the published ones, or a share of them. The pictures are tiny, the networks small and
random: what is tried is that a folder is understood and that every stage can work with what is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import track

from fixtures.replicas import REPLICAS, picture, save_mask
from fixtures.tiny_project import QUICK, Project, write_weights

ROOT = Path(__file__).parents[1]
SCALES = {"VisA": 0.25, "Real-IAD": 0.25, "BTAD": 0.5}  # of the published numbers; 1 for all others
_SIZE = 32  # pixels

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    layout: str
    share: float  # of the published number of images
    classes: int
    normals: int
    defects: int
    masks: int
    blocking: int  # what `shadowline check` says must be mended first
    stages: int  # that have ended
    verdict: str
    seconds: float
    error: str = ""


# --- odd folders ----------------------------------------------------------------------------------------------------


def as_grey(pixels: Pixels, number: int) -> Image.Image:
    return Image.fromarray(pixels).convert("L")


def as_rgba(pixels: Pixels, number: int) -> Image.Image:
    return Image.fromarray(pixels).convert("RGBA")


def with_12_bits(pixels: Pixels, number: int) -> Image.Image:
    return Image.fromarray(pixels[..., 0].astype(np.uint16) * 16 + number % 16)


def with_16_bits(pixels: Pixels, number: int) -> Image.Image:
    return Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + number % 256)


def of_two_sizes(pixels: Pixels, number: int) -> Image.Image:
    side = (_SIZE, 2 * _SIZE)[number % 2]
    return Image.fromarray(pixels).resize((side, side))


def in_colour(pixels: Pixels, number: int) -> Image.Image:
    return Image.fromarray(pixels)


def part(
    root: Path,
    train: int = 160,
    test: int = 40,
    defects: int = 20,
    suffix: str = "png",
    convert: Callable[[Pixels, int], Image.Image] = in_colour,
) -> None:
    """One class in MVTec AD's folders."""
    number = 0
    for place, count in (("train/good", train), ("test/good", test), ("test/scratch", defects)):
        for index in range(count):
            number += 1
            path = root / "part" / place / f"{index:03}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            convert(picture("part", number, defect=place == "test/scratch"), number).save(path)
    for index in range(defects):
        size = _SIZE * (1 + (train + test + index + 1) % 2) if convert is of_two_sizes else _SIZE
        save_mask(root / f"part/ground_truth/scratch/{index:03}_mask.png", size=size)


ODD: dict[str, Callable[[Path], None]] = {
    "one class": part,
    "grey images": partial(part, convert=as_grey),
    "grey images, no defects": partial(part, convert=as_grey, defects=0),
    "12 bits in 16-bit TIFFs": partial(part, convert=with_12_bits, suffix="tif"),
    "16-bit PNGs": partial(part, convert=with_16_bits),
    "RGBA": partial(part, convert=as_rgba),
    "two sizes": partial(part, convert=of_two_sizes),
    "60 normals": partial(part, train=50, test=10),
    "no defects": partial(part, defects=0),
    "no normals for testing": partial(part, train=200, test=0),
}


# --- trying them ----------------------------------------------------------------------------------------------------


def attempt(name: str) -> Outcome:
    """From the folder to the verdict, in a temporary folder."""
    share = SCALES.get(name, 1.0)
    with tempfile.TemporaryDirectory(prefix="layout-") as folder:
        root, images = Path(folder) / "project", Path(folder) / "images"
        if name in ODD:
            ODD[name](images)
        else:
            REPLICAS[name](images, share)
        started = time.monotonic()
        found = _run("init", str(root), "--images", str(images), "--no-download", "--json", folder=Path(folder))
        if found.returncode:
            return Outcome(name, share, 0, 0, 0, 0, 0, 0, "none", _since(started), _reason(found))
        classes = json.loads(found.stdout)["classes"]
        project = Project(root)
        write_weights(root)
        project.edit_params(**QUICK)
        project.commit("Small random networks")
        checked = json.loads(_run("check", "--json", folder=root).stdout)
        run = _run("retrain", folder=root)
        return Outcome(
            layout=name,
            share=share,
            classes=len(classes),
            normals=sum(cls["num_normal"] + cls["num_test_normal"] for cls in classes),
            defects=sum(sum(cls["defects"].values()) for cls in classes),
            masks=sum(cls["num_masks"] for cls in classes),
            blocking=len([finding for finding in checked["findings"] if finding["severity"] == "critical"]),
            stages=len(project.lock()) if (root / "dvc.lock").is_file() else 0,
            verdict={0: "passed", 1: "failed"}.get(run.returncode, "none"),
            seconds=_since(started),
            error=_reason(run) if run.returncode else "",
        )


def _run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "SHADOWLINE_DEVICE": "cpu",
        "SHADOWLINE_AUDIT_KEYS": f"{folder.parent}/keys",
    }
    command = ["shadowline", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _reason(run: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or ["no output"])[-1]


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def main(names: list[str]) -> int:
    outcomes = []
    for name in track(names or [*REPLICAS, *ODD], description="layouts"):
        outcomes.append(attempt(name))
        print(outcomes[-1], flush=True)
    if not names:
        git = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit,
            "layouts": [asdict(outcome) for outcome in outcomes],
        }
        (ROOT / "docs/layouts.json").write_text(
            json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return 0 if all(outcome.verdict != "none" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
