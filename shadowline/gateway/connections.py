"""Connections of the HTTP server: bounded in number, and in the time that one may take without a request in work.

uvicorn.run(app, host=host, port=port, **server_options(params.gateway))
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from shadowline.core.params import GatewayParams

_LATE = "408 Request Timeout", "the headers took too long; send them at once"
_FULL = "503 Service Unavailable", "too many connections already; try again"


def server_options(params: GatewayParams) -> dict[str, Any]:
    """How uvicorn serves, besides the application and its address."""
    protocol = partial(
        BoundedConnection,
        max_connections=params.max_connections,
        header_timeout_s=params.header_timeout_ms / 1000,
    )
    return {
        "http": protocol,
        "ws": "none",  # a web socket would pass by the bounds of requests
        "access_log": False,
        "timeout_graceful_shutdown": math.ceil(params.answer_timeout_ms / 1000),
    }


class BoundedConnection(H11Protocol):
    """One connection. Whoever connects is refused by name where too many are open, and closed where a request's headers
    are not complete in time, or where bytes go on to arrive after the answer."""

    def __init__(self, *args: Any, max_connections: int, header_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections, self._header_timeout_s = max_connections, header_timeout_s
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._refuse(*_FULL)
        else:
            self._limit_time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._unlimit_time()  # from here on the application bounds the upload, see `auth.py`
        elif self._end is None and not self.transport.is_closing():
            self._limit_time()

    def on_response_complete(self) -> None:
        self._unlimit_time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unlimit_time()
        super().connection_lost(exc)

    def _limit_time(self) -> None:
        self._end = self.loop.call_later(self._header_timeout_s, self._refuse, *_LATE)

    def _unlimit_time(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _refuse(self, status: str, why: str) -> None:
        """Say it in the form of every other refusal, unless an answer is out already, and close."""
        body = f'{{"error":"{why}"}}'
        if self.cycle is None or self.conn.trailing_data[0]:
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}retry-after: 1\r\nconnection: close\r\n\r\n{body}".encode())
        self.transport.close()
