"""The Prefect API of a run that a person starts: the server that PREFECT_API_URL names, or one of the run's own.

with prefect_api(root):
    from flows.retrain import retrain

    retrain(root)

The run's own server ends with the run's process, however that ends. It has a process group of its own, so that Ctrl-C
in a terminal reaches the run alone, which can still tell the server that it was stopped. The server's process is
`python -m tasks.integrations.prefect_api PORT`.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from shadowline.core.layout import Layout
from shadowline.core.network import free_port, why_unreachable
from shadowline.core.secrets import mask
from shadowline.core.settings import prepare_environment

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

_CONSOLE = "tasks.integrations.prefect_console.ConsoleHandler"
_EPHEMERAL = {  # as Prefect starts the temporary servers of its own
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
_START_S = 120  # on a slow machine that makes a new database
_POLL_S = 0.1
_GRACE_S = 5  # for a server that is asked to end
_STOPPED = "Stopped by a person; the next run goes on where it was."


@contextmanager
def prefect_api(root: Path) -> Iterator[str]:
    """A Prefect API for the flows of this process; its address. Raises ValueError where PREFECT_API_URL does not
    answer."""
    prepare_prefect(root)
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

    named = PREFECT_API_URL.value()
    if named:
        require_server(named)
        yield named
        return
    address = own_server(Layout(root).scratch.resolve() / "prefect")
    with temporary_settings({PREFECT_API_URL: address, PREFECT_UI_URL: ""}):  # it has no page to look at
        yield address


def prepare_prefect(root: Path) -> None:
    """Set the variables that Prefect reads when it is imported."""
    prepare_environment()
    os.environ.update(home_of(root))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS", _CONSOLE)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def home_of(root: Path) -> dict[str, str]:
    """Prefect's files in the project, so that neither its version nor its database is that of another project.

    Profiles stay those of the user: they may name a server.
    """
    if "PREFECT_HOME" in os.environ:
        return {}
    variables = {"PREFECT_HOME": str((Layout(root).scratch / "prefect").resolve())}
    profiles = Path("~/.prefect/profiles.toml").expanduser()
    if profiles.is_file() and "PREFECT_PROFILES_PATH" not in os.environ:
        variables["PREFECT_PROFILES_PATH"] = str(profiles)
    return variables


def require_named_server() -> None:
    """Raises ValueError where PREFECT_API_URL, or the user's Prefect profile, names a server that does not answer."""
    prepare_environment()
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        require_server(PREFECT_API_URL.value())


def require_server(url: str) -> None:
    """Raises ValueError where nobody listens at the address of a Prefect server."""
    why = why_unreachable(url)
    if why:
        raise ValueError(
            f"PREFECT_API_URL {mask(url)}: no server answers ({why}); start it with `prefect server start`, or unset "
            "PREFECT_API_URL, and the run has a server of its own"
        )


@cache
def own_server(home: Path) -> str:
    """Start a server on a free port of the loopback; its address. It lives as long as this process.

    No shorter: Prefect delivers the last events and log lines of a run when the process ends.
    """
    home.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks.integrations.prefect_api", str(port)],
            env={**os.environ, **_EPHEMERAL},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    address = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(process, address, log)
    except BaseException:
        process.kill()  # its database is whole at any moment
        process.wait()
        raise
    assert process.stdin is not None
    atexit.register(process.stdin.close)  # at which it ends
    return address


def cancel_interrupted(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Hook of a flow that ended by no error of its own: where a person has stopped it, it counts as cancelled."""
    from prefect import get_client
    from prefect.states import Cancelled

    if isinstance(sys.exc_info()[1], KeyboardInterrupt):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message=_STOPPED), force=True)


def _wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    import httpx

    end = time.monotonic() + _START_S
    with httpx.Client(trust_env=False) as client:
        while process.poll() is None and time.monotonic() < end:
            try:
                if client.get(f"{address}/health").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:  # it does not listen yet
                time.sleep(_POLL_S)
    how = "does not answer" if process.poll() is None else f"ended with code {process.returncode}"
    raise ValueError(f"Prefect's server on {address} {how}; {log} says why, and without {log.parent} it begins anew")


# --- the server's process ---------------------------------------------------------------------------------------------


def _serve(port: int) -> None:
    """Serve until the standard input ends, as it does when the process that started this one is gone."""
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error"
    )
    server = uvicorn.Server(config)

    def end() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        time.sleep(_GRACE_S - 1)
        os._exit(0)  # what it still waits for has no caller any more

    Thread(target=end, daemon=True).start()
    server.run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
