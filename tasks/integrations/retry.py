"""Retries for an S3 store that is away, but not for one that refuses a request.

    call_with_retry(lambda: client.head_object(…), patience_s=150)     # asked again for that long, with growing waits

Below this, botocore repeats single requests by itself; here a whole operation is repeated, such as a download whose
body was cut again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shadowline.core.secrets import mask

_MAX_WAIT_S = 15
# Throttled, too slow, cut in transit, or an upload that an earlier request ended, whose answer was lost.
_PASSING = frozenset({"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "NoSuchUpload"})

T = TypeVar("T")
P = ParamSpec("P")


def retried_task(work: Callable[P, T]) -> Task[P, T]:
    """A task that is tried again, since a server may be away for a moment; its errors hold no secrets."""

    @wraps(work)
    def masked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            mask_error(error)
            raise

    return task(retries=3, retry_delay_seconds=[2.0, 10.0, 30.0])(masked)


def mask_error(error: BaseException | None) -> None:
    """Mask the texts of an error and of what caused it, in place: Prefect keeps them with the run."""
    while error is not None:
        error.args = tuple(mask(arg) if isinstance(arg, str) else arg for arg in error.args)
        if isinstance(message := getattr(error, "message", None), str):  # of MLflow's
            error.message = mask(message)  # type: ignore[attr-defined]
        error = error.__cause__ or error.__context__


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
