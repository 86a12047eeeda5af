"""SQL databases as files: a consistent copy while others write, and loading it into an empty database.

    with dump_database("sqlite:///data/records.db", scratch / "records") as copy:
        copy.path                                   # records.db, or records.dump of a PostgreSQL
        copy.connection                             # sees exactly the moment that the file holds
    load_dump(path, "postgresql+psycopg://…")       # into a database without tables

SQLite is copied by its online backup; PostgreSQL by pg_dump from the snapshot of the connection, so that the connection
reads exactly what is dumped. Passwords are passed in the environment of these programs, never on their command line.
Both programs are the oldest installed ones that are no older than the server: pg_dump refuses a newer server, and
pg_restore 17 sets a transaction_timeout that no server before 17 knows.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import URL, Connection, Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from shadowline.core.secrets import mask
from shadowline.records.database import reading
from tasks.backup.manifest import DatabaseKind

_PATIENCE_S = 30  # for SQLite's writers
_INSTALLED = Path("/usr/lib/postgresql")  # where Debian keeps a folder for each major version


@dataclass(frozen=True)
class DatabaseCopy:
    kind: DatabaseKind
    path: Path
    connection: Connection

    @property
    def read_only_url(self) -> str:
        """A URL that opens an SQLite copy without writing into it.

        It is never the same twice, since MLflow keeps a connection for each URL that it ever opened.
        """
        return f"sqlite:///file:{quote(str(self.path.resolve()))}?mode=ro&uri=true&copy={uuid4().hex}"


def kind_of(url: str) -> DatabaseKind:
    """Raises ValueError, without the password, for anything but SQLite and PostgreSQL."""
    try:
        return DatabaseKind(make_url(url).get_backend_name())
    except (ArgumentError, ValueError):
        scheme = url.partition(":")[0]
        raise ValueError(
            f"'{scheme}:…': need the database itself for a backup, sqlite:///FILE or postgresql+psycopg://…; "
            "set SHADOWLINE_TRACKING_URI to the store behind the server"
        ) from None


def sqlite_path(url: str) -> Path:
    return Path(make_url(url).database or "")


@contextmanager
def dump_database(url: str, stem: Path) -> Iterator[DatabaseCopy]:
    """Copy to `stem` with the suffix of its kind."""
    if kind_of(url) is DatabaseKind.SQLITE:
        path = stem.with_suffix(".db")
        _copy_sqlite(sqlite_path(url), path)
        with open_dump(f"sqlite:///{path}") as engine, reading(engine) as connection:
            yield DatabaseCopy(DatabaseKind.SQLITE, path, connection)
        return
    path = stem.with_suffix(".dump")
    with open_dump(url) as engine, reading(engine) as connection:
        _dump(make_url(url), path, connection)
        yield DatabaseCopy(DatabaseKind.POSTGRESQL, path, connection)


@contextmanager
def open_dump(url: str) -> Iterator[Engine]:
    """A plain engine, for any schema; its connections are closed at the end."""
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def require_empty(url: str, name: str) -> None:
    """Raises ValueError for a PostgreSQL database that cannot be reached, or holds a table."""
    shown = make_url(url).set(query={}).render_as_string(hide_password=True)
    with open_dump(url) as engine:
        try:
            tables = inspect(engine).get_table_names()
        except SQLAlchemyError as error:
            reason = mask(" ".join(str(error).split()))[:200]
            raise ValueError(f"{name} {shown}: {reason}; name an empty database") from None
    if tables:
        raise ValueError(f"{name} {shown}: holds {len(tables)} tables, need an empty database; create a new one")


def load_dump(path: Path, url: str) -> None:
    """Load a dump into a PostgreSQL database in a single transaction."""
    with open_dump(url) as engine, engine.connect() as connection:
        program = _program("pg_restore", connection)
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    _run([program, *options, *_address(make_url(url)), str(path)], make_url(url))


def choose_program(name: str, versions: Mapping[str, int], server: int) -> str:
    """The path of the oldest program that is no older than the server; `versions`: path → major version.

    Raises ValueError where there is none.
    """
    fitting = [path for path, major in versions.items() if major >= server]
    if not fitting:
        newest = max(versions, key=lambda path: versions[path], default="")
        have = f"{newest} is of version {versions[newest]}" if newest else "none is installed"
        raise ValueError(f"{name}: need version {server} or newer, {have}; install postgresql-client")
    return min(fitting, key=lambda path: versions[path])


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy in one step: with a write-ahead log writers go on, and their commits meanwhile are not in the copy."""
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such database; run the backup in the project's root")
    uri = f"{source.resolve().as_uri()}?mode=rw"
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # so that the copy is one file, without a log beside it


def _dump(url: URL, target: Path, connection: Connection) -> None:
    snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}", f"--file={target}"]
    _run([_program("pg_dump", connection), *options, *_address(url)], url)


def _address(url: URL) -> list[str]:
    """Options with host, port, user and database, without the password."""
    from psycopg.conninfo import make_conninfo

    more = {name: str(value) for name, value in url.query.items() if name != "password"}
    named = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database, **more}
    return ["--dbname=" + make_conninfo("", **{name: value for name, value in named.items() if value is not None})]


def _run(command: list[str], url: URL) -> None:
    password = url.password or url.query.get("password")
    environment = {**os.environ, "PGPASSWORD": str(password)} if password else dict(os.environ)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        message = mask(" ".join(answer.stderr.split()))[:300]
        raise ValueError(f"{Path(command[0]).name}: {message}; check the database and that it can be reached")


def _program(name: str, connection: Connection) -> str:
    """The program for the connection's server.

    Of equal versions the one below `_INSTALLED` is taken: Debian's wrapper on PATH may start another version.
    """
    on_path = shutil.which(name)
    paths = [*_INSTALLED.glob(f"*/bin/{name}"), *([Path(on_path)] if on_path else [])]
    return choose_program(name, {str(path): _major(path) for path in paths}, _server_major(connection))


def _server_major(connection: Connection) -> int:
    return int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000


def _major(program: Path) -> int:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"(\d+)", answer.stdout)
    return int(number.group(1)) if number else 0
