"""Shadow mode from an S3 prefix: a real server on the loopback, real models, and objects that other tools put there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest

from fixtures.s3 import s3_server
from fixtures.tiny_project import CLASSES, Project, picture
from shadowline.records.stores import open_records

BUCKET, PREFIX = "plant", "line1/today"
LOCATION = f"s3://{BUCKET}/{PREFIX}"
NAMES = ("cam1/001.png", "cam1/002.png", "cam2/001.png", "cam2/002.PNG")

Command = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Camera:
    """Puts objects where the batch looks, as any tool does: bytes and nothing else."""

    client: Any

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=content)

    def times(self) -> set[datetime]:
        """When the objects were put."""
        return {entry["LastModified"] for entry in self.client.list_objects_v2(Bucket=BUCKET)["Contents"]}


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[Camera]:
    """An S3 server with the first images of the day in its one bucket."""
    with s3_server(BUCKET) as address:
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", address)
        camera = Camera(boto3.client("s3", endpoint_url=address))
        for number, name in enumerate(NAMES):
            camera.put(name, png(number))
        yield camera


def png(number: int) -> bytes:
    buffer = BytesIO()
    picture("dots", "today", number).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> Any:
    """Every pair of the class on record."""
    records = open_records()
    one = records.rollout.state().of("dots")
    return records.pairs.table("dots", one.candidate, one.legacy)


def test_a_pair_is_stored_once_for_every_object_wherever_the_next_run_is(
    planned: Project, prefect_server: str, camera: Camera
) -> None:
    """The second run finds its copies, the third is on a machine that has none; then one object is replaced."""
    from flows.shadow import shadow

    first = shadow("dots", LOCATION)
    assert (first.num_new, first.num_known, first.refused) == (len(NAMES), 0, ())
    assert set(rows()["captured_at"].dt.to_pydatetime()) == camera.times()
    before = rows()
    for copies_are_lost in (False, True):
        if copies_are_lost:
            shutil.rmtree(planned.layout.scratch / "shadow")
        again = shadow("dots", LOCATION)
        assert (again.num_new, again.num_known) == (0, len(NAMES))
        assert rows().equals(before)
    camera.put(NAMES[0], png(99))
    replaced = shadow("dots", LOCATION)
    assert (replaced.num_new, replaced.num_known) == (1, len(NAMES) - 1)
    assert len(rows()) == len(NAMES) + 1


def test_an_object_that_is_no_image_is_refused_by_name_and_the_others_are_judged(
    planned: Project, camera: Camera, command: Command
) -> None:
    camera.put("cam1/broken.png", b"no image at all")
    camera.put("cam1/cut.png", png(50)[:200])
    camera.put("notes.txt", b"the light was changed at noon")
    code, out, err = command("shadow", "run", "dots", LOCATION, "--json")
    assert code == 2
    done = json.loads(out)
    assert (done["num_new"], done["num_known"], len(done["refused"])) == (len(NAMES), 0, 2)
    for name in ("cam1/broken.png", "cam1/cut.png"):
        assert f"{PREFIX}/{name}: " in err
    assert {Path(path).name for path in rows()["image_path"]} == {Path(name).name for name in NAMES}
    camera.put("cam1/broken.png", png(51))
    code, out, _ = command("shadow", "run", "dots", LOCATION, "--json")
    assert (code, json.loads(out)["num_new"], json.loads(out)["num_known"]) == (2, 1, len(NAMES))


def test_a_prefix_without_images_and_a_bucket_that_is_not_there_are_named(
    planned: Project, camera: Camera, command: Command
) -> None:
    for location, words in (
        (f"s3://{BUCKET}/yesterday", "no images; expected"),
        ("s3://nowhere/today", "s3://nowhere/today"),
    ):
        code, _, err = command("shadow", "run", CLASSES[0], location)
        assert code == 2
        assert words in err
