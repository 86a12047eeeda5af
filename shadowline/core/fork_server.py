"""A process that imports once and forks for every command, so that a stage starts in a tenth of a second.

with ForkServer(environment) as server:                        # in a flow, while it runs stages
    subprocess.run(command, env={**environment, **server.variables})

code = forward("shadowline.cli.app:main", ["shadowline.stages.bank"])    # in that command: the exit code, or None

The server has one thread and computes nothing, so that a child is in the state of a fresh process after its imports. A
command with another interpreter, other code or another environment than the server's is not answered: `forward` returns
None, and the command runs in its own process, as it does without a server. `multiprocessing` has the same kind of
server for its own children; here the commands are started by DVC, which has to see a process with output and exit code.

Linux only: on other systems, system libraries do not survive a fork.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint
from io import TextIOWrapper
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn

ADDRESS = "SHADOWLINE_FORK_SERVER"
_RUNTIME_PREFIXES = ("SHADOWLINE_", "DVC_")  # variables that no import reads
_SHELL_NAMES = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})
_LENGTH, _EXIT_CODE = struct.Struct("!I"), struct.Struct("!i")
_STANDARD_STREAMS = (0, 1, 2)
_ACCEPTED, _REFUSED = b"y", b"n"
_INTERRUPTED, _KILLED = 130, 137  # as a shell says of a process that ended by SIGINT, by SIGKILL


class ForkServer:
    """The server lives as long as the `with` block, and no longer than the process that started it.

    `environment`: that of the commands.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._stack = ExitStack()
        self.variables: dict[str, str] = {}  # what a command needs to find the server; none where no server runs

    def __enter__(self) -> ForkServer:
        if sys.platform != "linux":
            return self
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="shadowline-"))  # mode 0700
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(f"{folder}/socket")
            except OSError:  # the path is longer than the 107 bytes that a socket's may have
                return self
            listener.listen()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(listener.fileno())],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )
        self._stack.callback(process.communicate)  # closes the server's input, at which it ends
        self.variables = {ADDRESS: f"{folder}/socket"}
        return self

    def __exit__(self, *error: object) -> None:
        self.variables = {}
        self._stack.close()


def forward(command: str, preload: Sequence[str] = ()) -> int | None:
    """Run `command`, an entry point such as `dvc.cli:main`, in a child of the server, with this process's arguments,
    folder, environment and standard streams; returns its exit code.

    `preload`: modules that the server imports before the fork. None where no server answers or where it is not that of
    this interpreter, code and environment: then the caller has to run the command itself.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    request = {
        "command": command,
        "preload": list(preload),
        "arguments": sys.argv,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "identity": _identity(),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            _send(connection, request)
            accepted = connection.recv(1) == _ACCEPTED
        except OSError:  # the server has ended
            return None
        return _wait_for(connection) if accepted else None


def load_command(command: str) -> Callable[[], object]:
    """The function that an entry point such as `dvc.cli:main` names."""
    loaded: Callable[[], object] = EntryPoint("command", command, "").load()
    return loaded


def _wait_for(connection: socket.socket) -> int:
    """The exit code of the child, which gets an interrupt from the terminal itself and ends by its own rules."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer = connection.recv(_EXIT_CODE.size, socket.MSG_WAITALL)
    finally:
        signal.signal(signal.SIGINT, before)
    if len(answer) < _EXIT_CODE.size:
        print("error: the process was killed", file=sys.stderr)
        return _KILLED
    return int(_EXIT_CODE.unpack(answer)[0])


def _send(connection: socket.socket, request: Mapping[str, Any]) -> None:
    """A request and this process's standard streams."""
    body = json.dumps(request).encode()
    socket.send_fds(connection, [_LENGTH.pack(len(body))], _STANDARD_STREAMS)
    connection.sendall(body)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and the standard streams of its sender. Raises OSError where the sender has gone."""
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, len(_STANDARD_STREAMS))
    if len(head) < _LENGTH.size or len(streams) < len(_STANDARD_STREAMS):
        raise ConnectionError("no request")
    (num_bytes,) = _LENGTH.unpack(head)
    body = connection.recv(num_bytes, socket.MSG_WAITALL)
    if len(body) < num_bytes:
        raise ConnectionError("half a request")
    request: dict[str, Any] = json.loads(body)
    return request, streams


def _identity() -> list[str]:
    """The environment, the interpreter and the code that this process runs."""
    return [sys.prefix, sys.version, str(Path(__file__).resolve())]


def import_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an import may read, such as those of PyTorch's and OpenMP's instruction sets and threads."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_RUNTIME_PREFIXES) and name not in _SHELL_NAMES
    }


# --- the server -----------------------------------------------------------------------------------------------------


def serve(listener: socket.socket) -> None:
    """Fork a child for each request until the standard input ends."""
    gc.disable()  # nothing that is imported is garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt from the terminal is for the commands
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with selectors.DefaultSelector() as selector:
        for file in (listener, sys.stdin):
            selector.register(file, selectors.EVENT_READ)
        while sys.stdin not in (key.fileobj for key, _ in selector.select()):
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                _answer(connection)


def _answer(connection: socket.socket) -> None:
    request, streams = _receive(connection)
    same_environment = import_environment(request["environment"]) == import_environment(os.environ)
    accepted = same_environment and request["identity"] == _identity()
    connection.sendall(_ACCEPTED if accepted else _REFUSED)
    if accepted:
        for module in request["preload"]:
            with suppress(Exception):  # the command meets the same error and reports it
                import_module(module)
        gc.freeze()  # a child's collector leaves the imported objects alone, so that their pages stay shared
        if os.fork() == 0:
            try:
                _run(connection, request, streams)
            finally:  # where its output cannot be written; a child never goes back into the server's loop
                os._exit(1)
    for stream in streams:
        os.close(stream)


def _run(connection: socket.socket, request: Mapping[str, Any], streams: Sequence[int]) -> NoReturn:
    """Run the command in the sender's place and send its exit code.

    The process ends without taking down the imported modules one by one, which would take longer than most stages.
    """
    ended = Event()
    Thread(target=_end_with_sender, args=(connection, ended), daemon=True).start()
    code = _exit_code_of(partial(_run_in_place, request, streams))
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ended.set()
    with suppress(OSError):
        connection.sendall(_EXIT_CODE.pack(code))
    os._exit(code)


def _run_in_place(request: Mapping[str, Any], streams: Sequence[int]) -> object:
    """With the sender's streams, folder, environment and arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdout = sys.__stdout__  # without the wrappers that an imported package may have put around it
    assert isinstance(stdout, TextIOWrapper)
    stdout.reconfigure(line_buffering=stdout.isatty())
    return load_command(request["command"])()


def _end_with_sender(connection: socket.socket, ended: Event) -> None:
    """A sender that is killed takes its command with it."""
    with suppress(OSError):
        connection.recv(1)
    if not ended.is_set():
        os._exit(_KILLED)


def _exit_code_of(command: Callable[[], object]) -> int:
    """Run a command as the interpreter runs the function of a console script."""
    try:
        result = command()
    except SystemExit as end:
        result = end.code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception:  # noqa: BLE001 (the interpreter would print it as well)
        traceback.print_exc()
        return 1
    if result is None or isinstance(result, int):
        return int(result or 0)
    print(result, file=sys.stderr)
    return 1


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
