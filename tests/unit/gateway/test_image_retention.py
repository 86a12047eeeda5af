"""Kept images: the bytes as they came, within the bound, whoever writes beside, and never at a caller's cost."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from fixtures.waiting import wait_for
from shadowline.core.params import ImageRetentionPolicy, Params
from shadowline.gateway.image_retention import ImageRetention, RetainedImages
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.shadow_worker import UploadedImage

ID = "ab" * 32


def file_of(number: int, kind: str = "PNG") -> bytes:
    """A picture of 64 × 64, about 12 kB as PNG."""
    buffer = BytesIO()
    noise = hashlib.shake_256(str(number).encode()).digest(3 * 64 * 64)
    Image.frombytes("RGB", (64, 64), noise).save(buffer, kind)
    return buffer.getvalue()


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sample_of(data: bytes) -> UploadedImage:
    return UploadedImage(
        image=Image.open(BytesIO(data)),
        data=data,
        image_id=id_of(data),
        received_at=datetime.now(UTC),
        captured_at=datetime.now(UTC),
        capture_suspect=False,
        trace_id="trace",
        frame_signature=b"",
        review_share=0.0,
    )


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*/*") if not path.name.startswith(".")}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"shadowline_{name}_total", labels) or 0.0


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp")])
def test_the_very_bytes_are_kept_for_nobody_else(tmp_path: Path, kind: str, suffix: str) -> None:
    data = file_of(1, kind)
    RetainedImages(tmp_path / "inspected", 10**9).keep("bolt", ID, data)
    path = tmp_path / f"inspected/bolt/{ID}.{suffix}"
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["..", "../bolt", "bolt/../..", "/etc", "", "Bolt", "a\x00b"])
def test_a_class_that_is_no_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="class"):
        RetainedImages(tmp_path / "inspected", 10**9).keep(name, ID, file_of(1))
    assert not list(tmp_path.iterdir())


def test_the_oldest_go_first_and_an_image_seen_again_is_new_again(tmp_path: Path) -> None:
    files = [file_of(number) for number in range(12)]
    images = RetainedImages(tmp_path, 10 * len(files[0]))
    for age, data in enumerate(files[:9]):
        images.keep("bolt", id_of(data), data)
        os.utime(tmp_path / f"bolt/{id_of(data)}.png", (1000 + age, 1000 + age))
    images.keep("bolt", id_of(files[0]), files[0])
    removed = sum(images.keep("bolt", id_of(data), data) for data in files[9:])
    assert removed == 2
    assert {id_of(data) for data in files} - kept(tmp_path) == {id_of(data) for data in files[1:3]}


def test_the_bound_holds_for_what_several_processes_write(tmp_path: Path) -> None:
    size = len(file_of(0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _THREE_PROCESSES, __file__, str(tmp_path), str(20 * size)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    found = [path for path in tmp_path.glob("bolt/*") if not path.name.startswith(".")]
    assert 0.8 * 20 * size < sum(path.stat().st_size for path in found) <= 20 * size
    assert {id_of(path.read_bytes()) for path in found} == {path.stem for path in found}


_THREE_PROCESSES = """
import os, pathlib, runpy, sys
keep_many = runpy.run_path(sys.argv[1])["_keep_many"]
children = []
for start in (0, 100, 200):
    children.append(os.fork())
    if not children[-1]:
        keep_many(pathlib.Path(sys.argv[2]), int(sys.argv[3]), start)
        os._exit(0)
sys.exit(any(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def _keep_many(folder: Path, max_bytes: int, start: int) -> None:
    images = RetainedImages(folder, max_bytes)
    for number in range(start, start + 30):
        images.keep("bolt", id_of(file_of(number)), file_of(number))


def test_a_lost_count_is_counted_anew(tmp_path: Path) -> None:
    size = len(file_of(0))
    for number in range(8):
        RetainedImages(tmp_path, 10 * size).keep("bolt", id_of(file_of(number)), file_of(number))
    (tmp_path / ".num_bytes").write_text("nonsense")
    RetainedImages(tmp_path, 5 * size).keep("bolt", id_of(file_of(9)), file_of(9))
    assert id_of(file_of(9)) in kept(tmp_path) and len(kept(tmp_path)) <= 5


@pytest.mark.parametrize(
    ("which", "expected"),
    [(ImageRetentionPolicy.NONE, []), (ImageRetentionPolicy.ALARMS, [1]), (ImageRetentionPolicy.ALL, [0, 1])],
)
def test_what_is_kept_is_what_the_parameter_says(
    tmp_path: Path, params: Params, which: ImageRetentionPolicy, expected: list[int]
) -> None:
    keeper = ImageRetention(tmp_path, params.gateway.model_copy(update={"keep_images": which}), Metrics())
    keeper.start()
    for number in (0, 1):
        keeper.offer(sample_of(file_of(number)), "bolt", flagged=bool(number))
    keeper.close(30)
    assert kept(tmp_path) == {id_of(file_of(number)) for number in expected}


def test_a_disk_that_takes_nothing_is_counted_and_harms_nobody(tmp_path: Path, params: Params) -> None:
    (tmp_path / "inspected").write_text("a file in the place of the folder")
    metrics = Metrics()
    keeper = ImageRetention(tmp_path / "inspected", params.gateway, metrics)
    keeper.start()
    keeper.offer(sample_of(file_of(0)), "bolt", flagged=True)
    keeper.offer(sample_of(file_of(1)), "bolt", flagged=True)
    keeper.close(30)
    assert value(metrics, "images_not_kept", why="disk") == 2
    assert value(metrics, "images_kept") == 0


def test_an_image_that_the_disk_does_not_take_is_tried_again_and_the_gateway_says_so(
    tmp_path: Path, params: Params
) -> None:
    in_the_way = tmp_path / "inspected"
    in_the_way.write_text("a file in the place of the folder")
    keeper = ImageRetention(in_the_way, params.gateway.model_copy(update={"poll_interval_ms": 5}), Metrics())
    keeper.start()
    keeper.offer(sample_of(file_of(0)), "bolt", flagged=True)
    wait_for(lambda: keeper.problem is not None)
    assert "kept images: 1 wait, the disk does not take them" in (keeper.problem or "")
    in_the_way.unlink()
    wait_for(lambda: keeper.problem is None)
    keeper.close(30)
    assert kept(in_the_way) == {id_of(file_of(0))}


_NO_BOUND = {"shadow_queue": 1000, "shadow_queue_mb": 1000.0, "keep_queue": 1000, "keep_queue_mb": 1000.0}


@pytest.mark.parametrize(
    ("bound", "num_kept"),
    [
        ({"keep_queue": 3}, 3),
        ({"keep_queue_mb": 3.5 * len(file_of(0)) / 1e6}, 3),
        ({"shadow_queue": 1}, 5),  # bounds images that wait for a model, not those that wait for the disk
        ({"shadow_queue_mb": 1e-6}, 5),
    ],
)
def test_what_waits_for_the_disk_has_a_bound_of_its_own_in_images_and_in_bytes(
    tmp_path: Path, params: Params, bound: dict[str, float], num_kept: int
) -> None:
    metrics = Metrics()
    gateway = params.gateway.model_copy(update={**_NO_BOUND, **bound})
    keeper = ImageRetention(tmp_path, gateway, metrics)  # not started: nothing leaves
    for number in range(5):
        keeper.offer(sample_of(file_of(number)), "bolt", flagged=True)
    assert value(metrics, "images_not_kept", why="queue") == 5 - num_kept
    keeper.start()
    keeper.close(30)
    assert len(kept(tmp_path)) == num_kept


def test_what_a_hanging_disk_leaves_behind_is_counted_at_the_end(tmp_path: Path, params: Params) -> None:
    metrics = Metrics()
    (tmp_path / "bolt").mkdir()
    with FileLock(tmp_path / ".lock"):
        keeper = ImageRetention(tmp_path, params.gateway, metrics)
        keeper.start()
        keeper.offer(sample_of(file_of(0)), "bolt", flagged=True)
        keeper.close(0.05)
    assert value(metrics, "images_not_kept", why="end") == 1


def test_a_file_counts_as_memory_of_the_shadow_queue() -> None:
    data = file_of(0)
    assert sample_of(data).num_bytes == 3 * 64 * 64 + len(data)
