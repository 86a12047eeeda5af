"""Checks before a request reaches an endpoint: key, requests at once, size and duration of the upload."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import time
from collections.abc import Sequence

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowline.core.params import Params
from shadowline.core.settings import Settings
from shadowline.gateway.errors import CALLER_GONE, RefusedRequestError
from shadowline.gateway.load_limit import LoadLimiter
from shadowline.gateway.metrics import Metrics

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics"})  # for people and probes: no images, no secrets
UPLOAD_PATH = "/v1/inspect"
INTAKE_PATH = "/v1/classes/"  # and what follows
_SMALL_BODY = 65_536  # bytes; of every request but an upload, and of an upload's other fields


def keys_of(settings: Settings) -> tuple[str, ...]:
    return tuple(key.strip() for key in settings.gateway_keys.get_secret_value().split(",") if key.strip())


def check_exposure(host: str, keys: Sequence[str]) -> None:
    """Raises ValueError for a gateway that the network would reach without a key."""
    if not keys and not _is_loopback(host):
        raise ValueError(f"host {host}: no key is configured; set SHADOWLINE_GATEWAY_KEYS or serve on 127.0.0.1")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AuthMiddleware:
    """ASGI middleware; every answer names the worker that gave it."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], params: Params, traffic: LoadLimiter, metrics: Metrics
    ) -> None:
        self._app, self._traffic, self._metrics = app, traffic, metrics
        self._keys = [key.encode() for key in keys]
        self._gateway = params.gateway
        self._max_upload = params.data.max_file_bytes + _SMALL_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, _naming_worker(send))
        else:
            await self._guarded(scope, receive, _naming_worker(send))

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_caller(scope)
        except RefusedRequestError as refusal:
            self._metrics.refusals.labels(refusal.status_code).inc()
            await JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)(scope, receive, send)
            return
        takes_image = scope["path"] == UPLOAD_PATH or scope["path"].startswith(INTAKE_PATH)
        limit = self._max_upload if takes_image else _SMALL_BODY
        with self._traffic:
            await self._app(scope, _Bounded(receive, limit, self._gateway.upload_timeout_ms / 1000), send)

    def _check_caller(self, scope: Scope) -> None:
        given = Headers(scope=scope).get("x-api-key", "").encode()
        if self._keys:
            # every key is compared, each in constant time, so that the time reveals nothing
            if not max([hmac.compare_digest(given, key) for key in self._keys]):
                raise RefusedRequestError(401, "X-API-Key is missing or wrong")
        elif not _is_loopback((scope.get("client") or ("",))[0]):
            raise RefusedRequestError(403, "no key is configured, so that only this machine is served")
        if (busy := self._traffic.in_flight) >= self._gateway.max_in_flight:
            raise RefusedRequestError(503, f"{busy} requests in work already; try again")


class _Bounded:
    """`receive` that refuses a body of more than `limit` bytes (413), or that takes longer than `limit_s` (408).

    Where the caller hangs up before its end, the request ends as well, counted as a refusal of status 499.
    """

    def __init__(self, receive: Receive, limit: int, limit_s: float) -> None:
        self._receive, self._limit = receive, limit
        self._end = time.monotonic() + limit_s
        self._num_bytes, self._complete = 0, False

    async def __call__(self) -> Message:
        if self._complete:  # from here on the application waits only for the caller to disconnect
            return await self._receive()
        message = await self._next()
        if self._num_bytes > self._limit:
            while not self._complete and self._num_bytes <= 2 * self._limit:
                await self._next()  # read on for a while: a caller that still writes would not see the answer
            raise RefusedRequestError(413, f"more than {self._limit} bytes; send a smaller image")
        return message

    async def _next(self) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._end - time.monotonic()))
        except TimeoutError:
            raise RefusedRequestError(408, "the upload took too long; send it again") from None
        self._num_bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            raise RefusedRequestError(CALLER_GONE, "the caller hung up")
        self._complete = not message.get("more_body", False)
        return message


def _naming_worker(send: Send) -> Send:
    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Worker"] = str(os.getpid())
        await send(message)

    return named
