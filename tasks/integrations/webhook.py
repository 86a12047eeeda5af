"""Notifications: to the Prefect log always, and to a webhook where SHADOWLINE_NOTIFY_URL names one."""

from __future__ import annotations

import httpx
from prefect import get_run_logger, task

from shadowline.core.settings import Settings

_TIMEOUT_S = 5.0


@task(retries=2, retry_delay_seconds=[1, 5])
def notify(subject: str, text: str) -> None:
    """POST {"subject": …, "text": …} to the webhook; raises httpx.HTTPError where that fails."""
    get_run_logger().warning("%s: %s", subject, text)
    url = Settings().notify_url
    if url is not None:
        answer = httpx.post(url.get_secret_value(), json={"subject": subject, "text": text}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
