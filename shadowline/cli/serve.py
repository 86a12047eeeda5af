"""`shadowline serve`: run the gateway until it is stopped."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.settings import Settings

_APP = "shadowline.gateway.app:create_app"
_HEALTH_S = 30  # a worker that loads models may be slow to answer the health check


def serve(
    host: Annotated[
        str, typer.Option(help="Address; other than loopback asks for SHADOWLINE_GATEWAY_KEYS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds all models in memory.")] = 1,
) -> None:
    """Answer inspections over HTTP, each by the model that is live for its class.

    Example: `SHADOWLINE_GATEWAY_KEYS=… shadowline serve --host 0.0.0.0 --port 8080 --workers 2`
    """
    from shadowline.gateway.auth import check_exposure, keys_of
    from shadowline.gateway.metrics import shared_directory
    from shadowline.records.database import open_database

    settings, params = Settings(), load_params(Layout().params)
    check_exposure(host, keys_of(settings))
    _require_free(host, port)
    open_database(settings.database_url).dispose()  # raises before any worker starts
    with shared_directory() if workers > 1 else nullcontext() as shared:
        if shared is not None:
            _prepare_workers(workers, shared)
        _serve(host, port, workers, params)


def _require_free(host: str, port: int) -> None:
    """Raises ValueError where the gateway could not listen; the models, which take long, are loaded after this."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn binds
            listener.bind(address)
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: {error.strerror}; name another, or stop what listens there"
        ) from None


def _prepare_workers(workers: int, shared: Path) -> None:
    """Set what the worker processes inherit: a common folder for their metrics, and their share of the processors."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def _serve(host: str, port: int, workers: int, params: Params) -> None:
    import uvicorn

    from shadowline.gateway.connections import server_options

    options = server_options(params.gateway)
    uvicorn.run(
        _APP, factory=True, host=host, port=port, workers=workers, timeout_worker_healthcheck=_HEALTH_S, **options
    )
