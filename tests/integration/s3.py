"""A real S3 protocol server on the loopback, and the credentials for it.

with s3_server("plant") as address: …            # one empty bucket; the environment has credentials as long as it runs
give_credentials(monkeypatch)                    # for what asks before the server is there
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

_CREDENTIALS = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server(bucket: str, port: int = 0) -> Iterator[str]:
    """Its address. All servers of a process hold the same objects: what others have left goes first."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        with pytest.MonkeyPatch.context() as patch:
            give_credentials(patch)
            urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()
            boto3.client("s3", endpoint_url=address).create_bucket(Bucket=bucket)
            yield address
    finally:
        server.stop()


def give_credentials(patch: pytest.MonkeyPatch) -> None:
    for name, value in _CREDENTIALS.items():
        patch.setenv(f"AWS_{name}", value)
    patch.setenv("NO_PROXY", "127.0.0.1")
