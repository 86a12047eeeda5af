"""What the cache and the checkpoints promise: nothing that they save or survive can be seen in the result.

Processes are killed for real (SIGKILL, no clean-up) at named moments: before the n-th call of a function that marks
one. One helper process imports everything, then forks a victim per moment; each victim works in a folder of its own.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fixtures.learning import SPEC, assert_same_state, fake_data, picture, stub_encoder, train_params
from shadowline.core.progress import Progress
from shadowline.features import backbones
from shadowline.features.cache import CacheUpdate, FeatureCache, FeatureFile, FeatureKey
from shadowline.features.encoder import Encoder
from shadowline.models.dinomaly.model import save_decoder
from shadowline.models.dinomaly.optimizer import StableAdamW
from shadowline.models.dinomaly.training import Trainer
from shadowline.models.dinomaly.training_data import ClassData

pytestmark = pytest.mark.usefixtures("one_thread")
KEYS = [
    FeatureKey(f"{i:012x}", view) for i in range(35) for view in ("original", "hflip")
]  # three shards of at most 32


def read(key: FeatureKey) -> Image.Image:
    return picture(zlib.crc32(str(key).encode()))


# --- the cache is exact ---------------------------------------------------------------------------------------------


@dataclass
class EncoderSource:
    """The encoder in the training loop: images are encoded whenever a step asks for them."""

    encoder: Encoder
    num_images: int = 0

    @property
    def fingerprint(self) -> str:
        return self.encoder.config.fingerprint

    def fetch(self, keys: Sequence[FeatureKey]) -> Tensor:
        self.num_images += len(keys)
        return self.encoder.encode([read(key) for key in keys])


def cached(folder: Path, dtype: torch.dtype) -> FeatureFile:
    path = folder / f"{dtype}.safetensors"
    FeatureCache(stub_encoder(), folder / "scratch", dtype).update(path, KEYS, read, Progress())
    return FeatureFile(path)


def trained(source: EncoderSource | FeatureFile) -> Trainer:
    data = {
        "bolt": ClassData(source, tuple(KEYS[:24]), tuple(KEYS[24:30])),
        "cap": ClassData(source, tuple(KEYS[30:60]), tuple(KEYS[60:])),
    }
    trainer = Trainer(data, train_params(steps=20, eval_every=7), SPEC, seed=7)
    trainer.run(Progress())
    return trainer


def test_training_on_the_cache_equals_training_with_the_encoder_in_the_loop(tmp_path):
    """Weights, optimiser and history bit for bit, with the cache in float32; the loop encodes an image many times."""
    source = EncoderSource(stub_encoder())
    in_the_loop, on_the_cache = trained(source), trained(cached(tmp_path, torch.float32))
    assert_same_state(in_the_loop, on_the_cache)
    assert source.num_images > len(KEYS)


def test_half_precision_is_all_that_the_cache_costs(tmp_path):
    """The comparison above can see one rounding; and that rounding is small."""
    exact, halved = (trained(cached(tmp_path, dtype)) for dtype in (torch.float32, torch.float16))
    losses = [[step.loss for step in trainer.history.steps] for trainer in (exact, halved)]
    assert losses[0] != losses[1]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0, atol=2e-3)


# --- killed ---------------------------------------------------------------------------------------------------------

MOMENTS: dict[str, tuple[object, str]] = {
    "encode": (Encoder, "_encode_batch"),
    "rename": (Path, "replace"),  # the temporary file is whole, its name is not yet the real one
    "clean": (shutil, "rmtree"),
    "step": (StableAdamW, "step"),
    "evaluate": (Trainer, "_evaluate"),
}
CACHE_KILLS = {  # moment and call → how many images a resumed run finds encoded
    ("encode", 0): 0,
    ("encode", 5): 0,
    ("encode", 12): 32,
    ("encode", 17): 64,
    ("rename", 0): 0,
    ("rename", 1): 32,
    ("rename", 3): 70,  # all shards are there, the file is not
    ("clean", 0): 70,  # the file is there, and so are the shards
}
TRAINING_KILLS = {  # moment and call → the step that a resumed run goes on from
    ("step", 0): 0,
    ("step", 4): 0,
    ("step", 5): 5,
    ("step", 11): 10,
    ("evaluate", 0): 0,
    ("evaluate", 1): 5,
    ("rename", 0): 0,
    ("rename", 1): 5,
}


def fill_cache(folder: Path) -> CacheUpdate:
    return FeatureCache(stub_encoder(), folder / "scratch").update(folder / "bolt", KEYS, read, Progress())


def train_decoder(folder: Path) -> Trainer:
    trainer = Trainer(fake_data("bolt", "cap"), train_params(), SPEC, seed=7)
    result = trainer.run(Progress(), folder / "checkpoint")
    save_decoder(result.decoder, SPEC, folder / "decoder")
    return trainer


JOBS: dict[str, Callable[[Path], object]] = {"cache": fill_cache, "training": train_decoder}


def folder_of(root: Path, job: str, moment: str, call: int) -> Path:
    return root / f"{job}-{moment}-{call}"


def die_before(moment: str, call: int) -> None:
    """Arm this process: it kills itself when the call with that number (from 0) is about to happen."""
    owner, name = MOMENTS[moment]
    original, calls = getattr(owner, name), itertools.count()

    def deadly(*args: object, **options: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, name, deadly)


def fork_victims(root: Path) -> None:
    """Body of the helper process: one victim per moment, and how each of them ended."""
    torch.set_num_threads(1)  # a fork takes no other threads along
    backbones.timm()  # slow to import
    codes = {}
    for job, kills in (("cache", CACHE_KILLS), ("training", TRAINING_KILLS)):
        for moment, call in kills:
            folder = folder_of(root, job, moment, call)
            victim = os.fork()
            if victim == 0:
                die_before(moment, call)
                JOBS[job](folder)
                os._exit(0)
            codes[folder.name] = os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1])
    (root / "codes.json").write_text(json.dumps(codes), encoding="utf-8")


@pytest.fixture(scope="module")
def victims(tmp_path_factory) -> Path:
    """Folders as the killed processes left them."""
    root = tmp_path_factory.mktemp("victims")
    helper = multiprocessing.get_context("spawn").Process(target=fork_victims, args=(root,))
    helper.start()
    helper.join(timeout=300)
    helper.kill()  # if it hangs; one that has ended stays as it is
    assert helper.exitcode == 0
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Both jobs, never killed."""
    root = tmp_path_factory.mktemp("undisturbed")
    for job in JOBS.values():
        job(root)
    return root


def test_every_victim_died_by_the_kill(victims):
    codes = json.loads((victims / "codes.json").read_text(encoding="utf-8"))
    assert len(codes) == len(CACHE_KILLS) + len(TRAINING_KILLS)
    assert set(codes.values()) == {-signal.SIGKILL}


@pytest.mark.parametrize(("moment", "call"), CACHE_KILLS)
def test_a_cache_that_was_killed_ends_as_the_undisturbed_one_byte_for_byte(moment, call, victims, undisturbed):
    folder, reused = folder_of(victims, "cache", moment, call), CACHE_KILLS[moment, call]
    assert fill_cache(folder) == CacheUpdate(num_computed=len(KEYS) - reused, num_reused=reused)
    assert (folder / "bolt").read_bytes() == (undisturbed / "bolt").read_bytes()
    assert not list((folder / "scratch").rglob("*.safetensors"))


@pytest.mark.parametrize(("moment", "call"), TRAINING_KILLS)
def test_a_training_that_was_killed_ends_with_the_same_decoder(moment, call, victims, undisturbed):
    folder, start = folder_of(victims, "training", moment, call), TRAINING_KILLS[moment, call]
    assert (folder / "checkpoint").is_file() == (start > 0)
    if start:
        probe = Trainer(fake_data("bolt", "cap"), train_params(), SPEC, seed=7)
        probe.load(folder / "checkpoint")
        assert probe.step == start
    resumed = train_decoder(folder)
    assert (folder / "decoder").read_bytes() == (undisturbed / "decoder").read_bytes()
    assert len(resumed.history.steps) == resumed.params.steps


def test_another_encoder_s_shards_are_not_taken_over(victims, tmp_path):
    """The scratch folder of a killed run, an encoder with other weights: nothing is reused."""
    folder = tmp_path / "copy"
    shutil.copytree(folder_of(victims, "cache", "encode", 17), folder)
    other = stub_encoder(seed=1)
    update = FeatureCache(other, folder / "scratch").update(folder / "bolt", KEYS, read, Progress())
    assert update.num_reused == 0
    expected = other.encode([read(KEYS[0])]).half().float()
    assert torch.equal(FeatureFile(folder / "bolt").fetch(KEYS[:1]), expected)


def test_another_encoder_s_checkpoint_is_not_taken_over(victims):
    """Equal images, shapes and parameters, other weights behind the features."""
    data = {
        name: replace(class_data, source=replace(class_data.source, fingerprint="other"))
        for name, class_data in fake_data("bolt", "cap").items()
    }
    trainer = Trainer(data, train_params(), SPEC, seed=7)
    trainer.load(folder_of(victims, "training", "step", 11) / "checkpoint")
    assert trainer.step == 0
