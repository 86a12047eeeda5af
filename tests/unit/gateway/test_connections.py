"""A connection costs little: too many are refused, and one without a request in work ends soon. A real server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from fixtures.waiting import wait_for
from shadowline.core.params import Params
from shadowline.gateway.connections import server_options

HEAD = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body of /slow to its end, and answers anything else at once."""
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serving(params: Params, **changes: float) -> Iterator[int]:
    """The port of a server in a thread."""
    options = server_options(params.gateway.model_copy(update=changes))
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="critical", **options))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def read_answer(connection: socket.socket) -> None:
    """Read on until the answer of `app` is complete."""
    answer = b""
    while not answer.endswith(b"ok"):
        received = connection.recv(65_536)
        assert received, answer
        answer += received


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-Slow: "])
def test_unfinished_headers_are_given_up(params: Params, sent: bytes) -> None:
    with serving(params, header_timeout_ms=50) as port, connect(port) as connection:
        connection.sendall(sent)
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error":"the headers took too long; send them at once"}')


def test_the_second_request_of_a_connection_has_no_more_time_than_the_first(params: Params) -> None:
    with serving(params, header_timeout_ms=50) as port, connect(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        read_answer(connection)
        connection.sendall(HEAD)
        assert rest_of(connection).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_goes_on_after_the_answer_ends_the_connection(params: Params) -> None:
    with serving(params, header_timeout_ms=50) as port, connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        read_answer(connection)
        connection.sendall(b"x")
        assert rest_of(connection) == b""


def test_an_upload_takes_longer_than_headers_may(params: Params) -> None:
    with serving(params, header_timeout_ms=50) as port, connect(port) as connection:
        connection.sendall(b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        connection.sendall(b"ab")
        read_answer(connection)


def test_too_many_connections_are_refused_and_the_others_served(params: Params) -> None:
    with serving(params, max_connections=2) as port, connect(port) as first, connect(port) as second:
        second.sendall(HEAD)
        with connect(port) as third:
            answer = rest_of(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        second.sendall(b"\r\n")
        read_answer(second)
        first.close()
        wait_for(lambda: _answers(port))


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False
