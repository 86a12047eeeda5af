"""A real PostgreSQL of the test run's own, and empty databases on it.

pytest_plugins = ["integration.postgres"]        # in the test module

def test_…(database_url: str):                   # runs twice: SQLite, PostgreSQL
def test_…(engine: Engine):                      # the same, with the tables of our records
def test_…(postgres: Postgres):                  # postgres.create_database() → URL
    with postgres.stopped(): …                   # every connection is cut and none is made
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from shadowline.records.database import open_database

USER, PASSWORD = "shadowline", "a-secret-of-tests"
_FAST = "-c fsync=off -c full_page_writes=off"  # the data outlive the server's death, not the machine's


@dataclass
class Postgres:
    """A running cluster."""

    port: int
    _directory: Path
    _binaries: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Whoever is still connected is thrown out."""
        self._execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' {_FAST}"
        self._control("-l", str(self._directory / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        """At once, as when its machine goes: open transactions are lost, committed ones are not."""
        self._control("-m", "immediate", "stop")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def restart(self) -> None:
        with self.stopped():
            pass

    def _control(self, *arguments: str) -> None:
        _as_owner(self._directory, self._binaries / "pg_ctl", *_data(self._directory), *arguments)

    def _execute(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A cluster on a free port; skips where PostgreSQL is not installed."""
    binaries = _find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed; apt-get install postgresql")
    directory = Path(tempfile.mkdtemp(prefix="shadowline-postgres-"))
    try:
        _as_owner(directory, binaries / "initdb", "-U", USER, "--auth=scram-sha-256", *_password(directory))
        cluster = Postgres(free_port(), directory, binaries)
        cluster.start()
        yield cluster
        cluster.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create_database()
        yield url
        server.drop_database(url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The tables of our records in it."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _find_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _data(directory: Path) -> tuple[str, str]:
    return "-D", str(directory / "data")


def _password(directory: Path) -> tuple[str, ...]:
    """The remaining options of initdb."""
    file = directory / "password"
    file.write_text(PASSWORD, encoding="utf-8")
    return f"--pwfile={file}", "--encoding=UTF8", "--locale=C", "--no-sync", *_data(directory)


def _as_owner(directory: Path, *command: str | Path) -> None:
    """Run a command of the cluster as a user whom PostgreSQL accepts: `postgres` in place of root."""
    owner = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        for path in (directory, *directory.glob("password")):
            os.chown(path, account.pw_uid, account.pw_gid)
        owner = {"user": account.pw_uid, "group": account.pw_gid}
    subprocess.run(
        command, check=True, cwd=directory, env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL, **owner,
    )  # fmt: skip
