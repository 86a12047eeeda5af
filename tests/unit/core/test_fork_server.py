"""Commands in forks of a server that has imported their modules: as in a process of their own, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from shadowline.core.fork_server import ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")

COMMANDS = """
import json, os, pathlib, subprocess, sys, threading, time
with open(os.environ["COMMANDS_LOG"], "a") as log:
    log.write("imported\\n")
def tell():
    print(json.dumps([os.getcwd(), sys.argv, os.environ.get("SHADOWLINE_DEVICE"), sys.stdin.read()]))
    print("to stderr", file=sys.stderr)
def code(): sys.exit(int(sys.argv[2]))
def returned(): return 5
def loud(): time.sleep(0.5); print("loud")
def text(): sys.exit("a reason")
def broken(): raise LookupError("no such thing")
def child(): sys.exit(subprocess.run(["sh", "-c", "exit 7"]).returncode)
def at_exit():
    import atexit
    atexit.register(lambda: pathlib.Path("left").write_text("done"))
def forever():
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
"""
CLIENT = """
import sys
from shadowline.core.fork_server import forward
code = forward("commands:" + sys.argv[1], ["commands"])
sys.exit(99 if code is None else code)
"""


@dataclass
class Bench:
    """A folder with commands, a server for them, and the environment that both share."""

    folder: Path
    environment: dict[str, str]
    server: ForkServer

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, *arguments],
            cwd=self.folder,
            env={**self.environment, **self.server.variables, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, given: str = "", **variables: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **variables)
        out, err = process.communicate(given, timeout=60)
        return process.returncode, out, err

    @property
    def server_process(self) -> psutil.Process:
        """The one child of this process that has the environment of this bench: other tests have servers as well."""
        (process,) = (
            child for child in psutil.Process().children() if child.environ().get("COMMANDS_LOG") == str(self.log)
        )
        return process

    @property
    def num_imports(self) -> int:
        return len(self.log.read_text(encoding="utf-8").splitlines()) if self.log.exists() else 0

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def started(self) -> psutil.Process:
        """The process of the command `forever`."""
        eventually(lambda: (self.folder / "pid").is_file() and (self.folder / "pid").read_text(encoding="utf-8") != "")
        return psutil.Process(int((self.folder / "pid").read_text(encoding="utf-8")))


def eventually(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "commands.py").write_text(COMMANDS, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "COMMANDS_LOG": str(tmp_path / "log")}
    with ForkServer(environment) as server:
        yield Bench(tmp_path, environment, server)


def test_a_command_has_the_folder_arguments_environment_and_streams_of_its_sender(bench: Bench) -> None:
    code, out, err = bench.run("tell", "a b", "ü", given="in", SHADOWLINE_DEVICE="cpu")
    assert code == 0
    assert out == f'["{bench.folder}", ["-c", "tell", "a b", "\\u00fc"], "cpu", "in"]\n'
    assert err == "to stderr\n"


def test_the_modules_are_imported_once_for_all_commands(bench: Bench) -> None:
    assert [bench.run("tell")[0] for _ in range(3)] == [0, 0, 0]
    assert bench.num_imports == 1


@pytest.mark.parametrize(
    ("arguments", "expected", "said"),
    [
        (("code", "0"), 0, ""),
        (("code", "3"), 3, ""),
        (("returned",), 5, ""),
        (("text",), 1, "a reason"),
        (("broken",), 1, "LookupError: no such thing"),
        (("child",), 7, ""),  # it can wait for processes of its own
    ],
)
def test_the_exit_code_is_that_of_a_process_of_its_own(
    bench: Bench, arguments: tuple[str, ...], expected: int, said: str
) -> None:
    code, _, err = bench.run(*arguments)
    assert (code, said in err) == (expected, True)
    assert bool(err) == bool(said)


def test_a_command_that_cannot_start_or_write_ends_and_leaves_the_server_to_the_others(bench: Bench) -> None:
    code, _, err = bench.run("no_such_function")
    assert (code, "no_such_function" in err) == (1, True)
    sender = bench.start("loud")
    assert sender.stdout is not None
    sender.stdout.close()  # nobody reads what it prints
    assert sender.wait(timeout=60) != 0
    eventually(lambda: not bench.server_process.children())
    assert [bench.run("tell")[0] for _ in range(3)] == [0, 0, 0]


def test_what_is_to_be_done_at_the_exit_is_done(bench: Bench) -> None:
    assert bench.run("at_exit")[0] == 0
    eventually(lambda: (bench.folder / "left").exists())


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "PYTHONPATH"])
def test_a_command_whose_imports_may_differ_runs_by_itself(bench: Bench, name: str) -> None:
    assert bench.run("tell", **{name: f"{bench.environment.get(name, '')}{os.pathsep}1"})[0] == 99
    assert bench.num_imports == 0
    assert bench.run("tell")[0] == 0


def test_a_command_with_the_code_of_another_place_runs_by_itself(bench: Bench) -> None:
    other = CLIENT.replace(
        "code = ", "import shadowline.core.fork_server as own; own.__file__ = '/elsewhere.py'\ncode = "
    )
    environment = {**bench.environment, **bench.server.variables}
    answer = subprocess.run([sys.executable, "-c", other, "tell"], env=environment, check=False, capture_output=True)
    assert answer.returncode == 99


def test_without_a_server_and_after_its_end_a_command_runs_by_itself(bench: Bench) -> None:
    address = dict(bench.server.variables)
    assert bench.run("tell", **dict.fromkeys(address, ""))[0] == 99
    bench.server.__exit__()
    assert bench.server.variables == {}
    assert bench.run("tell", **address)[0] == 99


def test_where_no_socket_can_be_made_there_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with ForkServer(os.environ) as server:
        assert server.variables == {}
    assert list(folder.iterdir()) == []


def test_a_killed_sender_takes_its_command_with_it(bench: Bench) -> None:
    sender = bench.start("forever")
    command = bench.started()
    sender.kill()
    eventually(lambda: not command.is_running() or command.status() == psutil.STATUS_ZOMBIE)
    sender.communicate()
    assert bench.run("tell")[0] == 0  # the server is there for others


def test_a_killed_command_is_a_failure_that_says_so(bench: Bench) -> None:
    sender = bench.start("forever")
    bench.started().kill()
    _, err = sender.communicate(timeout=60)
    assert (sender.returncode, err) == (137, "error: the process was killed\n")


def test_an_interrupt_of_the_terminal_ends_the_command_and_not_the_server(bench: Bench) -> None:
    sender = bench.start("forever")
    command = bench.started()
    for process in (command, psutil.Process(sender.pid)):  # as the terminal does, to all of the group
        process.send_signal(signal.SIGINT)
    sender.communicate(timeout=60)
    assert sender.returncode == 130
    assert bench.run("tell")[0] == 0


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import os, time; from shadowline.core.fork_server import ForkServer\n"
        "with ForkServer(os.environ) as server: print(*server.variables.values(), flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert starter.stdout is not None
    assert Path(starter.stdout.readline().strip()).exists()
    (server,) = psutil.Process(starter.pid).children()
    starter.kill()
    starter.communicate()
    eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
