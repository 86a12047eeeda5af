"""A whole project in small: generated images, random weights of the true shapes, and the pipeline of the repository.

    project = build_project(folder)          # committed and clean; nothing has run yet
    project.shadowline("retrain", "--json")  # a process of its own, as a user would start it

dvc.yaml and .gitignore are the repository's own files, and params.yaml is the repository's but for what makes it small.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from shadowline.core.layout import Layout
from shadowline.features import backbones
from shadowline.features.encoder import build_network

if TYPE_CHECKING:
    from prefect.states import State

    from flows.retrain import RetrainResult

ROOT = Path(__file__).parents[2]
CLASSES = ("dots", "stripes")
EXTRA_CLASS = "waves"  # its images are there, but params.yaml does not name it
LAYERS = [0, 1, 2, 3]
CROP, SIDE, LEGACY_SIDE = 56, 64, 64  # pixels
MODEL = "inspector"
_COPIED = ("dvc.yaml", "prompts/default.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
_ENCODER, _LEGACY = "data/downloads/encoder.safetensors", "data/downloads/legacy.safetensors"
OPEN_GUARDS: dict[str, dict[str, Any]] = {  # of `rollout`: what random models do on a dozen pairs trips none
    "agreement": {"bound": 0.0, "severity": "hard"},
    "drift": {"bound": 1.0, "severity": "hard"},
    "false_alarms": {"bound": 1.0, "severity": "hard"},
    "misses": {"bound": 1.0, "severity": "hard"},
    "lost_defects": {"bound": 1.0, "severity": "hard"},
    "errors": {"bound": 0.5, "severity": "hard"},
    "alarm_rate": {"bound": 1.0, "severity": "soft"},
    "latency": {"bound": 60_000, "severity": "soft"},
    "dropped": {"bound": 0.5, "severity": "soft"},
}
_CHANGES: dict[str, dict[str, Any]] = {
    "validation": {"min_normal": 20, "robust_range": 30.0},
    "encoder": {"weights": "file", "location": _ENCODER, "resize": SIDE, "crop": CROP, "layers": LAYERS},
    "train": {
        "classes": list(CLASSES),
        "decoder_blocks": 2,
        "steps": 6,
        "batch_size": 4,
        "warmup_steps": 2,
        "hard_ramp_steps": 4,
        "eval_every": 3,
        "checkpoint_every": 2,
    },
    "calibration": {
        "target_fpr": 0.2,
        "injected": ["cutpaste", "perlin"],
        "injected_images": 2,
    },
    "identification": {"unknown_share": 0.2},
    "enrolment": {"bank_images": 40, "few_shot_images": 6, "min_deploy": 0.0, "min_few_shot": 0.0},
    "evaluation": {"bootstrap": 20, "robustness_images": 4, "robustness_views": ["brightness-30", "noise"]},
    "legacy": {"location": _LEGACY, "input_size": LEGACY_SIDE, "target_fpr": 0.2},
    "gates": {  # what is judged here is the plumbing, not random weights
        "min_mean_auroc": 0.01,
        "max_drop": 1.0,
        "max_mean_drop": 1.0,
        "max_latency_ms": 60_000,
        "min_separation": -1000.0,
        "max_flip_share": 1.0,
        "max_saturation": 1.0,
        "advisory": [],
    },
}


@dataclass(frozen=True)
class Project:
    """A project's root, and how a user works in it."""

    root: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This process works in the project, as a command started there would."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.root)
            yield

    def retrain(self) -> State[RetrainResult]:
        """The real flow, in this process; failed or completed, its final state."""
        from flows.retrain import retrain

        with self.inside():
            return retrain(return_state=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of every process in the project: its own model store, and this interpreter's commands first."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "SHADOWLINE_DEVICE": "cpu",
            "SHADOWLINE_AUDIT_KEYS": f"{self.root}/data/audit/keys",
            "SHADOWLINE_TRACKING_URI": f"sqlite:///{self.root}/mlflow.db",
            "COLUMNS": "200",
        }

    def copy(self, folder: Path) -> Project:
        """The same project elsewhere, with all results; its model store is a copy as well."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Project(folder)

    def run(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert not check or answer.returncode == 0, f"{command}: {answer.stdout}\n{answer.stderr}"
        return answer

    def shadowline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("shadowline", *arguments)

    def repro(self, *stages: str) -> str:
        """Bring stages and what they need up to date, without a flow; returns DVC's output."""
        return self.run(sys.executable, "-m", "dvc", "repro", *stages, check=True).stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments, check=True).stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A process at the head of a group of its own, so that `kill` ends it with all its children."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def edit_params(self, **changes: dict[str, Any]) -> None:
        """Merge `changes` into the sections of params.yaml; None removes a key."""
        values = yaml.safe_load(self.layout.params.read_text(encoding="utf-8"))
        for section, fields in changes.items():
            merged = {**values[section], **fields}
            values[section] = {name: value for name, value in merged.items() if value is not None}
        self.layout.params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock, by name."""
        stages: dict[str, Any] = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return stages

    def outputs(self) -> dict[str, str]:
        """Path → hash of every output in dvc.lock, but for those that hold measured times."""
        found = {out["path"]: str(out["md5"]) for stage in self.lock().values() for out in stage.get("outs", ())}
        return {path: md5 for path, md5 in found.items() if path not in ("data/cost.json", "data/summary.json")}


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process and all its children, as when the power goes."""
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout and not process.stdout.closed:  # closed where `wait_until` has read it to its end
        process.communicate()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Look every few milliseconds whether it happened; fails with the output of a process that ended before."""
    end = time.monotonic() + seconds
    while not happened():
        if process.poll() is not None:
            raise AssertionError(f"{process.args} ended with {process.returncode} before:\n{process.communicate()[0]}")
        assert time.monotonic() < end, f"{process.args}: nothing happened within {seconds} s"
        time.sleep(0.005)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_project(root: Path) -> Project:
    """Everything that a run needs, committed; the same bytes every time."""
    for name in _COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    project = Project(root)
    shutil.copyfile(ROOT / "params.yaml", project.layout.params)
    project.edit_params(**_CHANGES)
    values = yaml.safe_load(project.layout.params.read_text(encoding="utf-8"))
    values["classes"] = {name: class_entry(name) for name in CLASSES}
    project.layout.params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    for name in (*CLASSES, EXTRA_CLASS):
        write_class(root / "factory" / name, name)
    write_weights(root)
    project.git("init", "--quiet")
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@localhost")
    project.commit("A tiny project")
    return project


def class_entry(name: str) -> dict[str, str]:
    """What params.classes says of a class."""
    return {"source": "folder", "location": f"factory/{name}", "select": "."}


def write_class(folder: Path, name: str) -> None:
    """40 normals to train on; 12 normals and 8 with a hole to test on, the holes with masks."""
    for split, count in (("train", 40), ("test", 12)):
        for number in range(count):
            save(picture(name, split, number), folder / split / "good" / f"{number:03d}.png")
    for number in range(8):
        image, mask = with_hole(picture(name, "hole", number), number)
        save(image, folder / "test/hole" / f"{number:03d}.png")
        save(mask, folder / "ground_truth/hole" / f"{number:03d}_mask.png")


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def picture(name: str, split: str, number: int) -> Image.Image:
    """The class's own pattern and colour with a little seeded noise; another split or number, another picture."""
    seed = int.from_bytes(hashlib.sha256(f"{name}/{split}/{number}".encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    phase = random.uniform(0, 2 * np.pi)
    wave_HW, colour = {
        "stripes": (np.sin(x_HW / 2.5 + phase), (200, 80, 60)),
        "dots": (np.sin(x_HW / 2 + phase) * np.sin(y_HW / 2 + phase), (60, 180, 90)),
        "waves": (np.sin((x_HW + y_HW) / 6 + phase), (70, 90, 200)),
    }[name]
    pixels = np.asarray(colour) * (0.7 + 0.25 * wave_HW[..., None]) + random.normal(0, 4, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def with_hole(image: Image.Image, number: int) -> tuple[Image.Image, Image.Image]:
    """A white disc with a black rim in the image, and its mask."""
    corner = 10 + 2 * number
    box = (corner, corner, corner + 20, corner + 20)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    damaged = image.copy()
    ImageDraw.Draw(damaged).ellipse(box, fill="white", outline="black", width=3)
    return damaged, mask


def write_weights(root: Path) -> None:
    """Seeded random weights for the encoder and the legacy network; below data/, so git ignores them."""
    (root / _ENCODER).parent.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = build_network("vit_small_patch14_dinov2", CROP, depth=len(LAYERS))
        legacy = backbones.build("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3))
    save_file(encoder.state_dict(), root / _ENCODER)
    save_file(legacy.state_dict(), root / _LEGACY)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
