"""A second place for the heads of the chain, which whoever administers the database cannot change: a share, or S3.

    place = open_heads("/mnt/evidence/heads")          # or s3://bucket/prefix; SHADOWLINE_AUDIT_WITNESS
    place.keep(ChainHead(1204, "9f…"))
    place.heads()                                      # every head that was ever kept

Each head is an object of its own, named by its number and hash, and is never overwritten. Further protection is up to
the place: a share on which the service may only create files, S3 object lock of the bucket. A place that is unreachable
or hangs delays its callers by a few seconds at most.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar

from shadowline.core.secrets import mask
from shadowline.core.settings import Settings
from shadowline.records.audit_log.keys import ChainHead

_PATIENCE_S = 5.0  # to write one head
_LISTING_S = 60.0  # to list all of them
_NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.json")
T = TypeVar("T")


class AwayError(ValueError):
    """The place does not answer, or refuses."""


class Store(Protocol):
    """A store of objects; raises OSError or botocore's errors."""

    def create(self, name: str, content: bytes) -> None:
        """Write a new object; an existing object of that name stays as it is."""

    def names(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class HeadPlace:
    """Heads in one place; every method raises AwayError."""

    location: str  # as the user gave it
    store: Store

    def keep(self, head: ChainHead) -> None:
        name = f"{head.number:012d}-{head.hash}.json"
        content = json.dumps(asdict(head)).encode()
        self._ask(lambda: self.store.create(name, content), _PATIENCE_S)

    def heads(self) -> list[ChainHead]:
        """All heads, in order of their numbers."""
        names = self._ask(lambda: sorted(self.store.names()), _LISTING_S)
        matches = [match for name in names if (match := _NAME.fullmatch(name))]
        return [ChainHead(int(match[1]), match[2]) for match in matches]

    def _ask(self, work: Callable[[], T], patience_s: float) -> T:
        """Run `work` in a thread of its own, since an unreachable file share lets its callers hang."""
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except _errors() as error:
                errors.append(error)

        thread = Thread(target=run, daemon=True)
        thread.start()
        thread.join(patience_s)
        if results:
            return results[0]
        reason = " ".join(str(errors[0]).split()) if errors else f"no answer within {patience_s:g} s"
        raise AwayError(f"{mask(self.location)}: {mask(reason)}; check SHADOWLINE_AUDIT_WITNESS")


@dataclass(frozen=True)
class _Folder:
    """A folder that has to exist: an empty mount point must not be taken for the share."""

    path: Path

    def create(self, name: str, content: bytes) -> None:
        with suppress(FileExistsError), (self.path / name).open("xb") as file:
            file.write(content)

    def names(self) -> list[str]:
        return [path.name for path in self.path.iterdir()]


@dataclass(frozen=True)
class _Bucket:
    bucket: str
    prefix: str  # empty, or ends with /

    @cached_property
    def client(self) -> Any:
        """A client with one attempt and short timeouts: the next head makes up for a lost one."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise ValueError("boto3 is not installed; run `pip install 'shadowline[s3]'`") from None
        config = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 1})
        return boto3.client("s3", endpoint_url=Settings().s3_endpoint, config=config)

    def create(self, name: str, content: bytes) -> None:
        from botocore.exceptions import ClientError

        encryption = Settings().s3_encryption
        more = {"ServerSideEncryption": encryption} if encryption else {}
        key = f"{self.prefix}{name}"
        try:
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=content, IfNoneMatch="*", ChecksumAlgorithm="SHA256", **more
            )
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"PreconditionFailed", "412"}:
                raise

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return [item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", ())]


def open_heads(location: str) -> HeadPlace | None:
    """None where no place is named. Raises ValueError for s3:// without a bucket."""
    if not location:
        return None
    scheme, _, rest = location.partition("://")
    if scheme != "s3":
        return HeadPlace(location, _Folder(Path(location.removeprefix("file://"))))
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise ValueError(f"{location}: need a folder or s3://BUCKET/PREFIX; set SHADOWLINE_AUDIT_WITNESS")
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    return HeadPlace(location, _Bucket(bucket, prefix))


def _errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return OSError, ValueError
    return OSError, ValueError, BotoCoreError, ClientError
