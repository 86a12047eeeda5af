"""Waiting for an S3 store that is away, and not for one that refuses.

    call_with_retry(lambda: client.head_object(…), patience_s=150)     # asked again for that long, with growing waits

Below this, botocore repeats single requests by itself; here a whole operation is begun anew, such as a download whose
body was cut again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import task
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

_MAX_WAIT_S = 15
# Throttled, too slow, cut on the way, or an upload that was ended by a request whose answer was lost.
_PASSING = frozenset({"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "NoSuchUpload"})

T = TypeVar("T")

retried_task = task(retries=3, retry_delay_seconds=[2.0, 10.0, 30.0])  # its server may be away for a moment


def call_with_retry(request: Callable[[], T], patience_s: float) -> T:
    """What the request returns; its last error where it fails for good, or for longer than `patience_s`."""
    again = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_delay(patience_s),
        wait=wait_random_exponential(max=_MAX_WAIT_S),
        reraise=True,
    )
    return again(request)


def configure_dvc_retries() -> None:
    """DVC's own way to S3 repeats a request on fewer grounds: a HEAD that is answered 429 would end a push.

    Where nobody answers at all, botocore has waited for a minute already, and five times as long tells no more.
    """
    from botocore.exceptions import ConnectionError
    from s3fs.core import set_custom_error_handler

    set_custom_error_handler(lambda error: is_transient(error) and not isinstance(error, ConnectionError))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed in a while. A host that cannot be found may, too."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import ConnectionError, FlexibleChecksumError, HTTPClientError, IncompleteReadError

    away = (RetriesExceededError, ConnectionError, FlexibleChecksumError, HTTPClientError, IncompleteReadError)
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, away) or status >= 500 or status == 429 or code_of(error) in _PASSING


def code_of(error: BaseException) -> str:
    """What the store calls it, e.g. NoSuchBucket; empty where it said nothing."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _answer(error: BaseException) -> dict[str, Any]:
    """What the store said, also where boto3 has wrapped it."""
    said: dict[str, Any] = getattr(error, "response", None) or getattr(error.__context__, "response", None) or {}
    return said
