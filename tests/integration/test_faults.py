"""When the store fails, throttles, cuts and goes away: nothing half, nothing lost, nothing asked for ever.

SHADOWLINE_FAULT_SECONDS=60 pytest tests/integration/test_faults.py      # a store that is down for a whole minute

test_restarts.py does the same to PostgreSQL, test_artifacts_s3.py to what MLflow and DVC keep in S3.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from fixtures.faulty_s3 import Faults, FaultyS3
from fixtures.s3 import s3_server
from tasks.integrations.object_storage import S3Storage, open_storage

BUCKET, KEY = "store", "legacy/bolt/model.zip"
DOWN_S = float(os.environ.get("SHADOWLINE_FAULT_SECONDS", "4"))
STORMY = Faults(failing=0.3, cutting=0.15)
LARGE = 21 << 20  # bytes: three parts


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The address of an S3 server."""
    with s3_server(BUCKET) as address:
        yield address


@pytest.fixture
def door(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """What the settings name as the store."""
    with FaultyS3(moto, seed=7) as door:
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", door.address)
        yield door


@pytest.fixture
def behind(moto: str) -> Iterator[Any]:
    """A client that no fault reaches, and an empty bucket."""
    client = boto3.client("s3", endpoint_url=moto)
    yield client
    for upload in unfinished(client):
        client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    for key in objects(client):
        client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def storage(door: FaultyS3, behind: Any) -> S3Storage:
    found = open_storage(f"s3://{BUCKET}/kept")
    assert isinstance(found, S3Storage)
    return found


def make_file(path: Path, num_bytes: int, seed: int = 0) -> Path:
    block = hashlib.sha256(f"{path.name} {seed}".encode()).digest()
    path.write_bytes((block * (num_bytes // len(block) + 1))[:num_bytes])
    return path


def unfinished(behind: Any) -> list[Any]:
    return list(behind.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))


def objects(behind: Any) -> dict[str, str]:
    """Key → sha256 of what the bucket really holds."""
    found = behind.list_objects_v2(Bucket=BUCKET).get("Contents", ())
    bodies = {entry["Key"]: behind.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read() for entry in found}
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}


def test_what_is_kept_through_failing_and_cut_calls_is_whole(
    storage: S3Storage, door: FaultyS3, behind: Any, tmp_path: Path
) -> None:
    door.faults = STORMY
    files = {f"{n}.zip": make_file(tmp_path / f"{n}.zip", LARGE if n < 2 else 1 + 40_000 * n, n) for n in range(8)}
    put = {key: storage.put(path, key) for key, path in files.items()}
    assert storage.list() == sorted(files)
    for key, path in files.items():
        assert storage.find(key) == put[key] == storage.get(key, tmp_path / "back" / key)
        assert (tmp_path / "back" / key).read_bytes() == path.read_bytes()
    storage.mirror(tmp_path / "mirror", frozenset({".zip"}))
    assert {path.name: path.read_bytes() for path in (tmp_path / "mirror").iterdir()} == {
        key: path.read_bytes() for key, path in files.items()
    }
    assert objects(behind) == {f"kept/{key}": stored.sha256 for key, stored in put.items()}
    assert unfinished(behind) == []
    counts = door.counts
    print(counts)
    assert min(counts.failed, counts.cut_sending, counts.cut_answering, counts.retried) > 0
    assert counts.failed + counts.cut_sending + counts.cut_answering == counts.retried  # nothing was given up


def test_a_store_that_is_down_for_a_while_is_waited_for(
    storage: S3Storage, door: FaultyS3, behind: Any, tmp_path: Path
) -> None:
    path = make_file(tmp_path / "model.zip", LARGE)
    door.close_for(DOWN_S)
    put = storage.put(path, KEY)
    door.close_for(DOWN_S)
    storage.get(KEY, tmp_path / "back.zip")
    door.close_for(DOWN_S)
    assert storage.list() == [KEY]
    assert objects(behind) == {f"kept/{KEY}": put.sha256}
    assert (tmp_path / "back.zip").read_bytes() == path.read_bytes()
    print(door.counts)
    assert door.counts.refused > 0


def test_a_store_that_goes_away_in_the_middle_of_an_upload_keeps_no_parts(
    storage: S3Storage, door: FaultyS3, behind: Any, tmp_path: Path
) -> None:
    path = make_file(tmp_path / "model.zip", LARGE)
    impatient = replace(storage, patience_s=0.0)
    door.faults = Faults(failing=1.0, only="partNumber=2")
    with pytest.raises(ValueError, match=rf"s3://{BUCKET}/kept/{KEY}: .*away for 0 s; run again when it is back"):
        impatient.put(path, KEY)
    assert (unfinished(behind), objects(behind)) == ([], {})
    assert impatient.find(KEY) is None
    with pytest.raises(FileNotFoundError, match="nothing is archived there"):
        impatient.get(KEY, tmp_path / "back.zip")


def test_parts_that_could_not_be_removed_at_once_are_removed_by_the_next_attempt(
    storage: S3Storage, door: FaultyS3, behind: Any, tmp_path: Path
) -> None:
    """All calls with an upload's id fail: its parts, its end, and its removal."""
    path = make_file(tmp_path / "model.zip", LARGE)
    door.faults = Faults(failing=1.0, only="uploadId=")
    impatient = replace(storage, patience_s=0.0)
    with pytest.raises(ValueError, match="away for 0 s"):
        impatient.put(path, KEY)
    assert len(unfinished(behind)) == 1
    door.faults = Faults(cutting=1.0, only="partNumber=3")
    with pytest.raises(ValueError, match="away for 0 s"):
        impatient.put(path, KEY)
    assert unfinished(behind) == []
    door.faults = Faults()
    assert objects(behind) == {}
    storage.put(path, KEY)
    storage.get(KEY, tmp_path / "back.zip")
    assert (tmp_path / "back.zip").read_bytes() == path.read_bytes()


def test_a_put_that_is_cut_leaves_what_was_kept_before(
    storage: S3Storage, door: FaultyS3, behind: Any, tmp_path: Path
) -> None:
    path = make_file(tmp_path / "model.zip", 50_000)
    before = storage.put(path, KEY)
    make_file(path, 70_000, seed=1)
    door.faults = Faults(cutting=1.0)
    with pytest.raises(ValueError, match=KEY):
        replace(storage, patience_s=0.0).put(path, KEY)
    door.faults = Faults()
    found = storage.get(KEY, tmp_path / "back.zip")
    assert found.sha256 in (before.sha256, hashlib.sha256(path.read_bytes()).hexdigest())  # the old or the new, whole


def test_what_is_wrong_for_good_fails_at_once_in_one_line(storage: S3Storage, door: FaultyS3, tmp_path: Path) -> None:
    path = make_file(tmp_path / "model.zip", 1000)
    nowhere = replace(storage, bucket="nowhere")
    for use in (lambda: nowhere.put(path, KEY), nowhere.list, lambda: nowhere.mirror(tmp_path, frozenset({".zip"}))):
        with pytest.raises(ValueError, match=r"s3://nowhere/.*NoSuchBucket.*check SHADOWLINE_ARCHIVE_URL") as found:
            use()
        assert "\n" not in str(found.value)
    door.faults = Faults(denied=True)
    for ask in (lambda: storage.put(path, KEY), storage.list, lambda: storage.find(KEY)):
        with pytest.raises(ValueError, match=rf"s3://{BUCKET}/kept/.*check SHADOWLINE_ARCHIVE_URL"):
            ask()
    assert door.counts.retried == 0


def test_a_store_that_does_not_say_what_it_has_takes_nothing_from_a_mirror(
    storage: S3Storage, door: FaultyS3, tmp_path: Path
) -> None:
    storage.put(make_file(tmp_path / "model.zip", 1000), KEY)
    storage.mirror(tmp_path / "mirror", frozenset({".zip"}))
    for faults in (Faults(denied=True), Faults(failing=1.0), Faults(cutting=1.0)):
        door.faults = faults
        with pytest.raises(ValueError, match=rf"s3://{BUCKET}/kept/"):
            replace(storage, patience_s=0.0).mirror(tmp_path / "mirror", frozenset({".zip"}), drop_gone=True)
        assert (tmp_path / "mirror" / KEY).is_file()


def test_an_address_without_a_store_is_named(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", "http://127.0.0.1:9")
    nowhere = replace(open_storage(f"s3://{BUCKET}"), patience_s=0.0)
    with pytest.raises(ValueError, match=r"s3://store/a\.zip: Could not connect.*127\.0\.0\.1:9.*away for 0 s"):
        nowhere.put(make_file(tmp_path / "a.zip", 10), "a.zip")
