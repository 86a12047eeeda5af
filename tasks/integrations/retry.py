"""Retries for an S3 store that is away, but not for one that refuses a request.

    call_with_retry(lambda: client.head_object(…), patience_s=150)     # asked again for that long, with growing waits

Below this, botocore repeats single requests by itself; here a whole operation is repeated, such as a download whose
body was cut again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import task
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

_MAX_WAIT_S = 15
# Throttled, too slow, cut in transit, or an upload that an earlier request ended, whose answer was lost.
_PASSING = frozenset({"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "NoSuchUpload"})

T = TypeVar("T")

retried_task = task(retries=3, retry_delay_seconds=[2.0, 10.0, 30.0])  # a server may be away for a moment


def call_with_retry(request: Callable[[], T], patience_s: float) -> T:
    """The request's result; raises its last error where that is permanent, or lasts longer than `patience_s`."""
    again = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_delay(patience_s),
        wait=wait_random_exponential(max=_MAX_WAIT_S),
        reraise=True,
    )
    return again(request)


def configure_dvc_retries() -> None:
    """Make DVC's S3 client retry on `is_transient` as well: else a HEAD that is answered 429 would end a push.

    Connection errors are left out: botocore has waited for a minute already, and five times as long would not help.
    """
    from botocore.exceptions import ConnectionError
    from s3fs.core import set_custom_error_handler

    set_custom_error_handler(lambda error: is_transient(error) and not isinstance(error, ConnectionError))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later, also where the host cannot be found."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import ConnectionError, FlexibleChecksumError, HTTPClientError, IncompleteReadError

    away = (RetriesExceededError, ConnectionError, FlexibleChecksumError, HTTPClientError, IncompleteReadError)
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, away) or status >= 500 or status == 429 or code_of(error) in _PASSING


def code_of(error: BaseException) -> str:
    """The store's code of the error, e.g. NoSuchBucket; empty where there was no answer."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _answer(error: BaseException) -> dict[str, Any]:
    """The store's answer, also where boto3 has wrapped the error."""
    response: dict[str, Any] = getattr(error, "response", None) or getattr(error.__context__, "response", None) or {}
    return response
