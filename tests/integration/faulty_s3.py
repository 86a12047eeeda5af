"""A door to an S3 server that fails as networks and stores do: by a seed, and counted.

with FaultyS3(server, seed=7) as door:           # door.address is what a client is given
    door.faults = Faults(failing=0.3, cutting=0.1)
    door.close_for(5.0)                          # seconds from the next call on, in which every connection is reset
    door.counts                                  # calls, failed, cut, refused, retried, passed

What happens to a call follows from the seed, the call and how often it was made, not from the order of threads. A call
is failed (500, 503 SlowDown, 429), cut while it is sent (the store gets half a body), or cut while it is answered (the
store has done it; the caller gets half a body).
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_ERRORS = {500: "InternalError", 503: "SlowDown", 429: "TooManyRequestsException"}
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"})
_TAILS = ("partNumber", "uploads", "list-type", "delete")  # of a query, what tells one call from another


@dataclass(frozen=True)
class Faults:
    """Shares of all calls, 0…1."""

    failing: float = 0.0
    cutting: float = 0.0
    errors: tuple[int, ...] = tuple(_ERRORS)  # what a call that fails is answered with
    delay_s: float = 0.0  # of every call
    denied: bool = False  # every call is answered 403
    only: str = ""  # a word that the path and query of a call must hold to be failed or cut


@dataclass(frozen=True)
class Counts:
    calls: int = 0  # connections that were reset while the door was closed among them
    failed: int = 0
    cut_sending: int = 0
    cut_answering: int = 0
    refused: int = 0  # while the door was closed
    retried: int = 0  # calls made again after one of the above
    passed: int = 0


class FaultyS3:
    """`faults` and `close_for` hold from the next call on."""

    def __init__(self, target: str, seed: int) -> None:
        self.target, self.seed, self.faults = urlsplit(target), seed, Faults()
        self._closing_for: float | None = None
        self._closed_until = 0.0
        self._counts, self._seen, self._owed = Counts(), Counter[str](), Counter[str]()
        self._counting = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Call", (_Call,), {"door": self}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def counts(self) -> Counts:
        with self._counting:
            return self._counts

    def close_for(self, seconds: float) -> None:
        self._closing_for = seconds

    def is_closed(self) -> bool:
        """Of this call."""
        with self._counting:
            if self._closing_for is not None:
                self._closed_until = time.monotonic() + self._closing_for
                self._closing_for = None
        return time.monotonic() < self._closed_until

    def count(self, **more: int) -> None:
        with self._counting:
            self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})

    def draws(self, name: str) -> tuple[float, float]:
        """Two numbers in [0, 1) for this call, which is one more of its name."""
        with self._counting:
            self._seen[name] += 1
            digest = hashlib.sha256(f"{self.seed} {name} {self._seen[name]}".encode()).digest()
        return tuple(int.from_bytes(part, "big") / 2**32 for part in (digest[:4], digest[4:8]))  # type: ignore[return-value]

    def settle(self, name: str, is_fault: bool) -> None:
        """Note whether a call follows one of its name that came to nothing."""
        with self._counting:
            is_again = self._owed[name] > 0
            self._owed[name] += is_fault - is_again
        self.count(calls=1, retried=int(is_again))


class _Call(BaseHTTPRequestHandler):
    """One connection with its calls."""

    door: FaultyS3
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        name = self._name()
        if self.door.is_closed():
            self.door.settle(name, is_fault=True)
            self._reset(refused=1)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.door.faults.delay_s)
        chance, which = self.door.draws(name)
        faults = self.door.faults if self.door.faults.only in self.path else Faults()
        is_failed, is_cut = chance < faults.failing, chance >= 1 - faults.cutting
        self.door.settle(name, is_failed or is_cut or faults.denied)
        if faults.denied:
            self._answer(403, _error("AccessDenied"))
        elif is_failed:
            code = faults.errors[int(which * len(faults.errors))]
            self.door.count(failed=1)
            self._answer(code, _error(_ERRORS[code]))
        elif is_cut and which < 0.5:
            self._send_half(body)
        else:
            self._hand_on(body, is_cut)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

    def _name(self) -> str:
        """The call without what differs from one try to the next."""
        parts = urlsplit(self.path)
        query = [f"{key}={value}" for key, value in parse_qsl(parts.query, keep_blank_values=True) if key in _TAILS]
        return " ".join([self.command, parts.path, *query, self.headers.get("Range", "")])

    def _hand_on(self, body: bytes, is_cut: bool) -> None:
        answer, content = self._ask(body)
        if is_cut:
            if len(content) > 1:
                self._begin(answer, len(content))
                self.wfile.write(content[: len(content) // 2])
            self._reset(cut_answering=1)
            return
        self.door.count(passed=1)
        size = int(answer.headers.get("Content-Length") or 0) if self.command == "HEAD" else len(content)
        self._begin(answer, size)
        self.wfile.write(content)

    def _ask(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        upstream = HTTPConnection(self.door.target.hostname or "", self.door.target.port, timeout=60)
        upstream.request(self.command, self.path, body=body, headers=self._headers())
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return answer, content

    def _send_half(self, body: bytes) -> None:
        """The store gets the head of the call with the length of the whole, half of it, and then the end."""
        upstream = socket.create_connection((self.door.target.hostname or "", self.door.target.port or 80))
        head = "".join(f"{key}: {value}\r\n" for key, value in self._headers().items())
        upstream.sendall(f"{self.command} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body[: len(body) // 2])
        _close_hard(upstream)
        self._reset(cut_sending=1)

    def _headers(self) -> dict[str, str]:
        return {key: value for key, value in self.headers.items() if key.lower() not in _HOP}

    def _begin(self, answer: HTTPResponse, size: int) -> None:
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            if key.lower() not in (*_HOP, "content-length", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else content)

    def _reset(self, **counted: int) -> None:
        self.door.count(**counted)
        with suppress(OSError):
            self.wfile.flush()
        _close_hard(self.connection)
        self.close_connection = True

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the caller, or this side, has gone
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        pass


def _error(word: str) -> bytes:
    return f"<Error><Code>{word}</Code><Message>made up</Message></Error>".encode()


def _close_hard(connection: socket.socket) -> None:
    """End with a reset in place of a farewell."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
