"""Object storage for archives: a folder, or an S3 bucket; both verify by sha256 what they store and return.

    storage = open_storage()                        # what SHADOWLINE_ARCHIVE_URL names
    stored = storage.put(path, "legacy/bolt/3f….zip")
    storage.get("legacy/bolt/3f….zip", target)      # ValueError where the bytes are not those that were put

    file://data/archive     relative to the working directory; file:///mnt/archive is absolute
    s3://bucket/prefix             credentials as AWS tools find them; SHADOWLINE_S3_ENDPOINT: another store

S3 is asked through botocore, whose "adaptive" retry mode waits longer after each of at most `_ATTEMPTS` attempts of one
request, and sends fewer requests where the store throttles. Longer outages are waited for
(tasks/integrations/retry.py, docs/decisions/0033), permanent errors fail at once. Large files go in parts, each with a
SHA-256 that the store itself verifies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shadowline.core.atomic_files import read_json, replace_file, write_json
from shadowline.core.hashing import file_sha256
from shadowline.core.secrets import mask
from shadowline.core.settings import Settings
from shadowline.models.archive import is_inside
from tasks.integrations.retry import T, call_with_retry, code_of, is_transient

_ATTEMPTS = 5  # of one request, the first included
_TIDYING_S = 15.0  # patience for the removal of parts, in addition to that for the file
_PART_BYTES = 8 << 20  # files above this go in parts of this size
_SHA256 = "sha256"  # name of the metadata
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_CHECK = "check SHADOWLINE_ARCHIVE_URL"


@dataclass(frozen=True)
class StoredObject:
    """An object under one key."""

    uri: str
    sha256: str
    num_bytes: int


class ObjectStore(Protocol):
    """Keys are relative paths with `/`; ValueError for a key that would leave the root."""

    def put(self, path: Path, key: str) -> StoredObject:
        """Store a file; an earlier object under the key is replaced in one step."""

    def get(self, key: str, target: Path) -> StoredObject:
        """Write the object to `target`; raises FileNotFoundError, or ValueError where its bytes have changed."""

    def find(self, key: str) -> StoredObject | None:
        """The object under the key by its metadata, without reading its bytes; None for no such object."""

    def list(self, prefix: str = "") -> list[str]:
        """Keys that begin with `prefix`, sorted."""


@dataclass(frozen=True)
class FolderStorage:
    """Files below one folder, each beside a small file with its sha256."""

    root: Path

    def put(self, path: Path, key: str) -> StoredObject:
        target = self._path(key)
        with replace_file(target) as temporary:
            shutil.copyfile(path, temporary)
            sha256 = file_sha256(temporary)
            write_json(_note(target), {_SHA256: sha256})
        return StoredObject(target.as_uri(), sha256, target.stat().st_size)

    def get(self, key: str, target: Path) -> StoredObject:
        stored = self.find(key)
        if stored is None:
            raise FileNotFoundError(f"{self._path(key)}: nothing is archived there; check SHADOWLINE_ARCHIVE_URL")
        with replace_file(target) as temporary:
            shutil.copyfile(self._path(key), temporary)
            _verify(temporary, stored)
        return stored

    def find(self, key: str) -> StoredObject | None:
        path = self._path(key)
        if not (path.is_file() and _note(path).is_file()):
            return None
        sha256 = read_json(_note(path))[_SHA256]
        return StoredObject(path.as_uri(), sha256, path.stat().st_size)

    def list(self, prefix: str = "") -> list[str]:
        kept = (path for path in self.root.rglob("*") if path.is_file() and _note(path).is_file())
        keys = (path.relative_to(self.root).as_posix() for path in kept)
        return sorted(key for key in keys if key.startswith(prefix))

    def _path(self, key: str) -> Path:
        path = (self.root / _checked(key)).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"key {key!r}: leads out of {self.root}; a link lies in the way")
        return path


@dataclass(frozen=True)
class S3Storage:
    """Objects below one prefix of a bucket."""

    bucket: str
    prefix: str  # empty, or ends with /
    client: Any
    encryption: str  # of the server, "" for the bucket's own
    patience_s: float = 150.0  # for a store that is away; the last attempt begins before it is over

    def put(self, path: Path, key: str) -> StoredObject:
        """Leaves no parts behind, unless the store is away. Two processes must not put the same key at once."""
        sha256, name = file_sha256(path), self._name(key)
        more = {"ChecksumAlgorithm": "SHA256", "Metadata": {_SHA256: sha256}}
        more |= {"ServerSideEncryption": self.encryption} if self.encryption else {}
        try:
            self._ask(key, lambda: self.client.upload_file(str(path), self.bucket, name, more, Config=_in_parts()))
        finally:
            if path.stat().st_size >= _PART_BYTES:
                self._abort_uploads(name)
        return StoredObject(self._uri(key), sha256, path.stat().st_size)

    def get(self, key: str, target: Path) -> StoredObject:
        stored = self.find(key)
        if stored is None:
            raise FileNotFoundError(f"{self._uri(key)}: nothing is archived there; check SHADOWLINE_ARCHIVE_URL")
        with replace_file(target) as temporary:
            self._download(key, temporary)
            if file_sha256(temporary) != stored.sha256:  # damaged in transit, perhaps: download once more
                self._download(key, temporary)
            _verify(temporary, stored)
        return stored

    def find(self, key: str) -> StoredObject | None:
        from botocore.exceptions import ClientError

        name = self._name(key)
        try:
            head = self._ask(key, lambda: self.client.head_object(Bucket=self.bucket, Key=name))
        except ClientError:
            return None
        return StoredObject(self._uri(key), head["Metadata"].get(_SHA256, ""), head["ContentLength"])

    def list(self, prefix: str = "") -> list[str]:
        return sorted(entry["Key"].removeprefix(self.prefix) for entry in self._objects(prefix))

    def mirror(self, folder: Path, suffixes: frozenset[str], *, drop_gone: bool = False) -> None:
        """Copy the objects with these suffixes to `folder`. Others may have put them, so there is no sha256 to verify.

        A copy gets the time of its object, so that it is the same on every machine; an existing copy stays.
        `drop_gone`: remove copies whose object is gone. A key that leads out of `folder` raises ValueError before
        anything is changed.
        """
        entries = [entry for entry in self._objects("") if Path(entry["Key"]).suffix.lower() in suffixes]
        listed = {folder / self._inside(entry["Key"].removeprefix(self.prefix)): entry for entry in entries}
        if drop_gone:
            for path in set(_copies(folder, suffixes)) - listed.keys():
                path.unlink(missing_ok=True)
        for path, entry in listed.items():
            changed_at = entry["LastModified"].timestamp()
            if not _is_copy(path, changed_at, entry["Size"]):
                with replace_file(path) as temporary:
                    self._download(entry["Key"].removeprefix(self.prefix), temporary)
                    os.utime(temporary, (changed_at, changed_at))

    def _objects(self, prefix: str) -> Sequence[dict[str, Any]]:
        """The store's listing of the objects whose key begins with `prefix`."""

        def look() -> Sequence[dict[str, Any]]:
            paginator = self.client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}{prefix}")
            return [entry for page in pages for entry in page.get("Contents", ())]

        return self._ask(prefix, look)

    def _download(self, key: str, path: Path) -> None:
        name = f"{self.prefix}{key}"
        self._ask(key, lambda: self.client.download_file(self.bucket, name, str(path), Config=_in_parts()))

    def _abort_uploads(self, name: str) -> None:
        """Abort unfinished uploads under a name: of failed attempts, and of requests whose answer was lost."""

        def abort() -> None:
            begun = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=name).get("Uploads", ())
            for upload in (upload for upload in begun if upload["Key"] == name):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=upload["UploadId"])

        with suppress(*_errors()):
            call_with_retry(abort, min(self.patience_s, _TIDYING_S))

    def _inside(self, key: str) -> str:
        """Require that a listed key is a path below a folder. It may hold ':' as in times, unlike our own keys."""
        if "\\" in key or "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise ValueError(
                f"s3://{self.bucket}/{self.prefix}: key {key!r}: need a relative path without '//', '.', '..' or '\\'; "
                "rename the object"
            )
        return key

    def _name(self, key: str) -> str:
        return f"{self.prefix}{_checked(key)}"

    def _uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._name(key)}"

    def _ask(self, key: str, request: Callable[[], T]) -> T:
        """The store's answer, with retries; an error becomes a ValueError of one line.

        For a missing key botocore's own error is raised.
        """
        try:
            return call_with_retry(request, self.patience_s)
        except _errors() as error:
            if code_of(error) in _MISSING:
                raise
            advice = f"away for {self.patience_s:g} s; run again when it is back" if is_transient(error) else _CHECK
            raise ValueError(f"s3://{self.bucket}/{self.prefix}{key}: {mask(str(error))}; {advice}") from None


def open_storage(url: str | None = None) -> FolderStorage | S3Storage:
    """The storage of `url`, or the one that SHADOWLINE_ARCHIVE_URL names; raises ValueError for another scheme."""
    settings = Settings()
    location = url or settings.archive_url
    scheme, _, rest = location.partition("://")
    if scheme == "file" and rest:
        return FolderStorage(Path(rest))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"archive {location!r}: need file://FOLDER or s3://BUCKET/PREFIX; set SHADOWLINE_ARCHIVE_URL")
    prefix = f"{_checked(prefix.strip('/'))}/" if prefix.strip("/") else ""
    return S3Storage(bucket, prefix, _client(settings.s3_endpoint), settings.s3_encryption)


def _client(endpoint: str | None) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ValueError("archive in S3: boto3 is not installed; run `pip install 'shadowline[s3]'`") from None
    retries = Config(connect_timeout=10, retries={"total_max_attempts": _ATTEMPTS, "mode": "adaptive"})
    return boto3.client("s3", endpoint_url=endpoint, config=retries)


def _errors() -> tuple[type[Exception], ...]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError


def _in_parts() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)


def local_copy(location: str, scratch: Path, suffixes: frozenset[str], *, drop_gone: bool = False) -> Path:
    """A folder itself; for an s3:// prefix its copy below `scratch`, brought up to date.

    `drop_gone`: remove copies of files that are gone from S3; else they stay, for records that name them.
    """
    if not location.startswith("s3://"):
        return Path(location)
    folder = scratch / location.removeprefix("s3://")
    storage = open_storage(location)
    assert isinstance(storage, S3Storage)
    storage.mirror(folder, suffixes, drop_gone=drop_gone)
    return folder


def folders_of(location: str) -> list[str]:
    """Names of the folders right below a folder or an s3:// prefix, sorted.

    Raises ValueError for a missing folder.
    """
    if not location.startswith("s3://"):
        if not Path(location).is_dir():
            raise ValueError(f"{location}: no such folder; need a folder with a folder per class, or an s3:// prefix")
        return sorted(path.name for path in Path(location).iterdir() if path.is_dir())
    keys = (key.lstrip("/") for key in open_storage(location).list())
    return sorted({key.partition("/")[0] for key in keys if "/" in key})


def _checked(key: str) -> str:
    if not is_inside(key):
        raise ValueError(f"key {key!r}: need a relative path without '..', e.g. legacy/bolt/model.zip")
    return key


def _copies(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Complete copies; a file that is being fetched ends with .tmp."""
    return (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def _is_copy(path: Path, changed_at: float, num_bytes: int) -> bool:
    """Compare time and size; a file system may change the time by a microsecond."""
    return path.is_file() and abs(path.stat().st_mtime - changed_at) < 1e-3 and path.stat().st_size == num_bytes


def _verify(path: Path, stored: StoredObject) -> None:
    actual = file_sha256(path)
    if actual != stored.sha256:
        raise ValueError(f"{stored.uri}: sha256 {actual[:12]}…, but {stored.sha256[:12]}… was put; archive it again")


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256.json")
