"""Object storage: a real folder and a real S3 server on the loopback keep the same laws."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from fixtures.s3 import s3_server
from shadowline.core.params import ClassParams, Params
from shadowline.data.labels import Label
from shadowline.data.sources import list_images
from tasks.integrations.object_storage import ObjectStore, S3Storage, local_copy, open_storage
from tasks.training.source_copies import copy_location, update_copies

BUCKET = "archive"
KEY = "legacy/bolt/model.zip"
IMAGES = frozenset({".png"})


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    """The address of an S3 server with an empty bucket."""
    with s3_server(BUCKET) as address:
        yield address


@pytest.fixture
def at(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", s3_address)


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, at: None, tmp_path: Path) -> ObjectStore:
    """Both storages, each empty."""
    prefix = tmp_path.name
    return open_storage(f"file://{tmp_path}/kept" if request.param == "file" else f"s3://{BUCKET}/{prefix}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "model.zip").write_bytes(b"model" * 1000)
    return tmp_path / "model.zip"


def raw_s3(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint)


def test_what_was_put_comes_back_and_says_what_it_is(storage: ObjectStore, path: Path, tmp_path: Path) -> None:
    assert storage.find(KEY) is None
    put = storage.put(path, KEY)
    assert (put.num_bytes, len(put.sha256)) == (5000, 64)
    assert put.uri.endswith(f"/{KEY}")
    assert storage.find(KEY) == put == storage.get(KEY, tmp_path / "back.zip")
    assert (tmp_path / "back.zip").read_bytes() == path.read_bytes()


def test_putting_again_replaces(storage: ObjectStore, path: Path, tmp_path: Path) -> None:
    first = storage.put(path, KEY)
    path.write_bytes(b"another model")
    second = storage.put(path, KEY)
    assert first.sha256 != second.sha256
    storage.get(KEY, tmp_path / "back.zip")
    assert (tmp_path / "back.zip").read_bytes() == b"another model"


def test_keys_are_listed_by_prefix_and_notes_are_no_keys(storage: ObjectStore, path: Path) -> None:
    for key in ("legacy/b/2.zip", "legacy/a/1.zip", "other.zip"):
        storage.put(path, key)
    assert storage.list() == ["legacy/a/1.zip", "legacy/b/2.zip", "other.zip"]
    assert storage.list("legacy/b") == ["legacy/b/2.zip"]
    assert storage.list("none") == []


def test_what_is_not_there_is_named(storage: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{KEY}: nothing is archived there"):
        storage.get(KEY, tmp_path / "back.zip")
    assert not (tmp_path / "back.zip").exists()


@pytest.mark.parametrize(
    "key", ["../outside", "a/../../outside", "/etc/passwd", "a//b", "", ".", "a/./b", "a\\b", "c:/x"]
)
def test_no_key_leaves_its_root(storage: ObjectStore, path: Path, tmp_path: Path, key: str) -> None:
    for use in (lambda: storage.put(path, key), lambda: storage.get(key, tmp_path / "x"), lambda: storage.find(key)):
        with pytest.raises(ValueError, match="need a relative path without"):
            use()
    assert storage.list() == []


def test_a_link_in_the_folder_is_no_way_out(path: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept/legacy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="a link lies in the way"):
        open_storage(f"file://{tmp_path}/kept").put(path, KEY)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_changed_bytes_are_never_given_out(storage: ObjectStore, path: Path, tmp_path: Path, s3_address: str) -> None:
    put = storage.put(path, KEY)
    changed = path.read_bytes()[:-1] + b"?"
    if isinstance(storage, S3Storage):
        metadata = {"sha256": put.sha256}
        raw_s3(s3_address).put_object(Bucket=BUCKET, Key=f"{storage.prefix}{KEY}", Body=changed, Metadata=metadata)
    else:
        Path(put.uri.removeprefix("file://")).write_bytes(changed)
    with pytest.raises(ValueError, match=rf"{KEY}: sha256 .* but {put.sha256[:12]}… was put"):
        storage.get(KEY, tmp_path / "back.zip")
    assert not (tmp_path / "back.zip").exists()


def test_a_large_file_goes_in_parts_that_the_store_verifies(at: None, s3_address: str, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    large.write_bytes(bytes(range(256)) * (80 << 10))  # 20 MiB
    storage = open_storage(f"s3://{BUCKET}/large")
    put = storage.put(large, KEY)
    head = raw_s3(s3_address).head_object(Bucket=BUCKET, Key=f"large/{KEY}", ChecksumMode="ENABLED")
    assert head["ETag"].strip('"').endswith("-3")  # of three parts
    assert head["ChecksumSHA256"]
    assert storage.get(KEY, tmp_path / "back.zip") == put
    assert (tmp_path / "back.zip").read_bytes() == large.read_bytes()


# --- what others put ------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(at: None, tmp_path: Path) -> S3Storage:
    """Storage below a prefix of its own."""
    storage = open_storage(f"s3://{BUCKET}/{tmp_path.name}")
    assert isinstance(storage, S3Storage)
    return storage


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def remove(storage: S3Storage, key: str) -> None:
    storage.client.delete_object(Bucket=BUCKET, Key=storage.prefix + key)


def test_a_mirror_holds_what_is_there_now_and_nothing_that_was_removed(
    bucket: S3Storage, path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    for key in ("good/1.png", "good/2.PNG", "crack/3.png", "notes.txt"):
        bucket.put(path, key)
    bucket.mirror(folder, IMAGES)
    assert held(folder) == {"good/1.png", "good/2.PNG", "crack/3.png"}
    stays = (folder / "good/1.png").stat()
    for key in ("good/2.PNG", "crack/3.png"):
        remove(bucket, key)
    bucket.mirror(folder, IMAGES, drop_gone=True)
    assert held(folder) == {"good/1.png"}
    assert (folder / "good/1.png").stat().st_ino == stays.st_ino  # not fetched again
    remove(bucket, "good/1.png")
    bucket.mirror(folder, IMAGES, drop_gone=True)
    assert held(folder) == set()


def test_a_copy_that_records_may_name_outlives_its_object(bucket: S3Storage, path: Path, tmp_path: Path) -> None:
    location = f"s3://{BUCKET}/{tmp_path.name}"
    for key in ("1.png", "2.png"):
        bucket.put(path, key)
    folder = local_copy(location, tmp_path / "shadow", IMAGES)
    remove(bucket, "1.png")
    assert held(local_copy(location, tmp_path / "shadow", IMAGES)) == {"1.png", "2.png"}
    assert held(local_copy(location, tmp_path / "shadow", IMAGES, drop_gone=True)) == {"2.png"}
    assert local_copy(str(folder), tmp_path / "shadow", IMAGES, drop_gone=True) == folder
    assert held(folder) == {"2.png"}  # a local folder is never changed


def test_a_mirror_removes_no_download_in_progress_no_other_kind_of_file_and_nothing_beside_it(
    bucket: S3Storage, path: Path, tmp_path: Path
) -> None:
    others = {"mirror/good/.1.png.tmp", "mirror/notes.txt", "mirror/a.png/x.txt", "beside.png"}
    for name in (*others, "mirror/gone.png"):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).touch()
    (tmp_path / "files/mirror/link").symlink_to(tmp_path / "files")
    bucket.mirror(tmp_path / "files/mirror", IMAGES, drop_gone=True)
    assert held(tmp_path / "files") == others


def test_a_mirror_takes_a_key_with_a_time_that_no_put_would_take(bucket: S3Storage, path: Path, tmp_path: Path) -> None:
    key = "good/2026-01-05T06:00:00.png"
    bucket.client.put_object(Bucket=BUCKET, Key=bucket.prefix + key, Body=path.read_bytes())
    bucket.mirror(tmp_path / "mirror", IMAGES)
    assert (tmp_path / "mirror" / key).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="need a relative path without"):
        bucket.put(path, key)


@pytest.mark.parametrize("key", ["../x.png", "a/../../x.png", "/x.png", "a//x.png", "./x.png", "a\\x.png", "a\0.png"])
def test_no_key_leads_out_of_a_mirror_and_the_mirror_stays_as_it_was(
    bucket: S3Storage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    bucket.put(path, "1.png")
    bucket.mirror(tmp_path / "mirror", IMAGES)
    monkeypatch.setattr(S3Storage, "_objects", lambda self, prefix: [{"Key": self.prefix + key}])
    with pytest.raises(
        ValueError, match=r"s3://archive/.*/: key .*: need a relative path.*; rename the object"
    ) as found:
        bucket.mirror(tmp_path / "mirror", IMAGES, drop_gone=True)
    assert repr(key) in str(found.value)
    assert held(tmp_path / "mirror") == {"1.png"}


# --- settings and stores --------------------------------------------------------------------------------------------


def test_server_side_encryption_is_asked_for_where_it_is_set(
    at: None, s3_address: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}
    for encryption in ("", "AES256", "aws:kms"):
        monkeypatch.setenv("SHADOWLINE_S3_ENCRYPTION", encryption)
        open_storage(f"s3://{BUCKET}").put(path, KEY)
        asked[encryption] = raw_s3(s3_address).head_object(Bucket=BUCKET, Key=KEY).get("ServerSideEncryption", "")
    assert asked == {"": "", "AES256": "AES256", "aws:kms": "aws:kms"}


@pytest.mark.parametrize(("refusals", "is_kept"), [(2, True), (99, False)])
def test_a_store_that_is_busy_is_asked_again_but_not_for_ever(
    s3_address: str, path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, is_kept: bool
) -> None:
    with BusyStore(s3_address, refusals) as (address, seen):
        monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", address)
        storage = replace(open_storage(f"s3://{BUCKET}/busy{refusals}"), patience_s=0.0)
        if is_kept:
            storage.put(path, KEY)
            assert seen == [503, 503, 200]
        else:
            with pytest.raises(ValueError, match=r"s3://archive/busy99/legacy/bolt/model\.zip: .*reached max retries"):
                storage.put(path, KEY)
            assert seen == [503] * 5
    monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", s3_address)
    assert (open_storage(f"s3://{BUCKET}/busy{refusals}").find(KEY) is not None) is is_kept


def test_a_bucket_that_is_not_there_and_a_place_that_is_none_are_named(at: None, path: Path) -> None:
    with pytest.raises(ValueError, match=r"s3://nowhere/legacy/bolt/model\.zip: .*check SHADOWLINE_ARCHIVE_URL"):
        open_storage("s3://nowhere").put(path, KEY)
    for url in ("ftp://host/x", "s3://", "file://", "legacy"):
        with pytest.raises(ValueError, match="need file://FOLDER or s3://BUCKET/PREFIX"):
            open_storage(url)
    with pytest.raises(ValueError, match="need a relative path"):
        open_storage("s3://bucket/../other")


def test_the_settings_name_the_storage_and_a_folder_is_relative_to_where_one_works(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_ARCHIVE_URL", "file://shelf/archive")
    put = open_storage().put(path, KEY)
    assert put.uri == (tmp_path / "shelf/archive" / KEY).as_uri()
    monkeypatch.delenv("SHADOWLINE_ARCHIVE_URL")
    assert open_storage().put(path, KEY).uri == (tmp_path / "data/archive" / KEY).as_uri()


class BusyStore:
    """A server that answers 503 to the first uploads and hands the rest on; `seen` are its answers."""

    def __init__(self, target: str, refusals: int) -> None:
        seen: list[int] = []
        left = [refusals]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                left[0] -= 1
                if left[0] >= 0:
                    self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
                    return
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                answer = httpx.put(target + self.path, content=body, headers=headers, trust_env=False)
                self._answer(answer.status_code, answer.content)

            def _answer(self, code: int, body: bytes) -> None:
                seen.append(code)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.seen = seen
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> tuple[str, list[int]]:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}", self.seen

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_busy_store_is_asked_less_often() -> None:
    """botocore's own pace, on top of which `outlast` begins whole operations anew (decision 33)."""
    storage = open_storage("s3://bucket")
    assert isinstance(storage, S3Storage)
    assert storage.client.meta.config.retries == {"mode": "adaptive", "total_max_attempts": 5}


def test_the_copy_of_a_classs_images_follows_s3_and_is_what_stages_read(
    bucket: S3Storage, path: Path, tmp_path: Path
) -> None:
    url, names = f"s3://{BUCKET}/{tmp_path.name}", ("good/1.png", "good/@eaDir/1.png", "Kratzer/2.bmp", "a.pdf")
    for key in names:
        bucket.put(path, key)
    location = copy_location(url, Path()).as_posix()
    entry = ClassParams(source="folder", location=location, select=".", copy_of=url)
    params = Params.model_construct(classes={"bolt": entry})
    with pytest.raises(FileNotFoundError, match=rf"class 'bolt': .*: not copied from {url} yet; run"):
        list_images("bolt", entry, tmp_path)
    update_copies.fn(params, tmp_path)
    images = {image.name: image.label for image in list_images("bolt", entry, tmp_path)}
    assert images == {"good/1.png": Label.NORMAL, "Kratzer/2.bmp": Label.ANOMALOUS}
    remove(bucket, "Kratzer/2.bmp")
    update_copies.fn(params, tmp_path)
    assert len(list_images("bolt", entry, tmp_path)) == 1
    for key in ("good/1.png", "good/@eaDir/1.png"):
        remove(bucket, key)
    with pytest.raises(ValueError, match=rf"{url}: no images there; correct copy_of"):
        update_copies.fn(params, tmp_path)
    assert len(list_images("bolt", entry, tmp_path)) == 1
