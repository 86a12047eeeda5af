"""Notifications: to the Prefect log always, and to a webhook where SHADOWLINE_NOTIFY_URL names one."""

from __future__ import annotations

import httpx
from prefect import get_run_logger, task

from shadowline.core.secrets import mask
from shadowline.core.settings import Settings

_TIMEOUT_S = 5.0


class WebhookError(OSError):
    """The webhook did not take a notification; the message holds neither its login nor its token."""


@task(retries=2, retry_delay_seconds=[1, 5])
def notify(subject: str, text: str) -> None:
    """POST {"subject": …, "text": …} to the webhook; raises WebhookError where that fails."""
    get_run_logger().warning("%s: %s", subject, text)
    url = Settings().notify_url
    if url is not None:
        post(url.get_secret_value(), {"subject": subject, "text": text})


def post(url: str, body: dict[str, str]) -> None:
    """POST JSON. Raises WebhookError for anything but an answer of success."""
    try:
        answer = httpx.post(url, json=body, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WebhookError(
            f"webhook: {type(error).__name__}: {mask(str(error))}; check SHADOWLINE_NOTIFY_URL"
        ) from None
    if not answer.is_success:
        raise WebhookError(f"webhook: answered {answer.status_code}; check SHADOWLINE_NOTIFY_URL")
