"""A real S3 protocol server on the loopback, in a process of its own, and the credentials for it.

with s3_server("plant") as address: …            # one empty bucket; the environment has credentials as long as it runs
give_credentials(monkeypatch)                    # for what asks before the server is there
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import boto3
import pytest

_CREDENTIALS = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
_SERVE = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()  # until the test closes it, or ends in whatever way
"""


@contextmanager
def s3_server(bucket: str, port: int = 0) -> Iterator[str]:
    """Its address. The server is empty but for the bucket, and an error says so where it died before the test ended."""
    with tempfile.TemporaryFile("w+") as log, _server_process(port, log) as process:
        assert process.stdout is not None and process.stdin is not None
        address = process.stdout.readline().strip()
        assert address, f"the S3 server did not start:\n{_read(log)}"
        with pytest.MonkeyPatch.context() as patch:
            give_credentials(patch)
            boto3.client("s3", endpoint_url=address).create_bucket(Bucket=bucket)
            try:
                yield address
            finally:
                ended = process.poll()
                process.stdin.close()
        assert ended is None, f"the S3 server died with exit code {ended}:\n{_read(log)}"


@contextmanager
def _server_process(port: int, log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _SERVE, str(port)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    with subprocess.Popen(command, text=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-4000:]


def give_credentials(patch: pytest.MonkeyPatch) -> None:
    for name, value in _CREDENTIALS.items():
        patch.setenv(f"AWS_{name}", value)
    patch.setenv("NO_PROXY", "127.0.0.1")
