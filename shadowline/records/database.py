"""Opening the database: pragmas, migrations, and an error that says what to do."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from shadowline.core.secrets import mask

_MIGRATIONS = Path(__file__).parent / "migrations"
_DRIVERS = ("sqlite", "postgresql+psycopg")
_READING = "shadowline_reading"  # execution option of a connection that writes nothing and waits for no writer
_MIGRATION_LOCK = 728_913  # any fixed number; PostgreSQL's advisory lock
_PATIENCE_S = 30  # for SQLite's other writers
_CONNECT_S = 10  # for a PostgreSQL server that does not answer
_IDENTITY = "file"  # in a connection's record: which file it has open
_OPENING = threading.Lock()  # Alembic keeps the running migration in variables of its modules


def open_database(url: str) -> Engine:
    """An engine on an up-to-date schema; a SQLite file is created here, and never again by the engine.

    Raises ValueError, without the password, for an invalid URL and a database that cannot be used.
    """
    parsed = _parse(url)
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    try:
        engine = _create(parsed)
        with _OPENING:
            _bring_up_to_date(engine)
            _watch_file(engine)
    except (DatabaseError, CommandError, OSError, ImportError) as error:
        cause = error.orig if isinstance(error, DatabaseError) else error
        one_line = mask(" ".join(str(cause).split()))
        raise ValueError(f"database {shown}: {one_line}; check SHADOWLINE_DATABASE_URL") from None
    return engine


def reading(engine: Engine) -> Connection:
    """A connection that writes nothing, waits for no writer, and sees one snapshot in all its queries."""
    connection = engine.connect().execution_options(**{_READING: True})
    if engine.dialect.name == "postgresql":
        return connection.execution_options(isolation_level="REPEATABLE READ")
    return connection  # SQLite's readers see one snapshot anyhow


@contextmanager
def reading_any_text(engine: Engine) -> Iterator[Connection]:
    """`reading` where text may be invalid, which SQLite allows: bytes other than UTF-8 come back as lone surrogates."""
    with reading(engine) as connection:
        raw: Any = connection.connection.driver_connection
        if engine.dialect.name != "sqlite":
            yield connection
            return
        raw.text_factory = lambda content: content.decode(errors="surrogateescape")
        try:
            yield connection
        finally:
            raw.text_factory = str


def _parse(url: str) -> URL:
    """The error does not quote the URL, which may hold a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = URL.create("none")
    if parsed.drivername not in _DRIVERS:
        raise ValueError(
            "database URL: need sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME; "
            "check SHADOWLINE_DATABASE_URL"
        )
    return parsed


def _create(parsed: URL) -> Engine:
    if parsed.drivername != "sqlite":
        patience = {} if "connect_timeout" in parsed.query else {"connect_timeout": _CONNECT_S}
        return create_engine(parsed, pool_pre_ping=True, connect_args=patience)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediately)
    return engine


def _bring_up_to_date(engine: Engine) -> None:
    """Migrate where needed; processes that start together wait for the first. With a current schema none waits."""
    with reading(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == ScriptDirectory(str(_MIGRATIONS)).get_current_head():
        return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        command.upgrade(migrations(connection), "head")


def migrations(connection: Connection) -> Config:
    """The configuration for Alembic's commands, which work inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _watch_file(engine: Engine) -> None:
    """From now on each transaction begins on the file that has the database's name at that moment.

    An open connection would go on with a file that was removed or replaced, and what it writes would be lost.
    """
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name.startswith((":", "file:")):
        return

    def refuse_to_create(*_: object) -> None:
        if _identity(name) is None:
            raise sqlite3.OperationalError(f"{name}: no such file any more; put it back, or restore a backup")

    def remember(_: object, record: ConnectionPoolEntry) -> None:
        record.info[_IDENTITY] = _identity(name)

    def compare(_: object, record: ConnectionPoolEntry, __: object) -> None:
        if record.info.get(_IDENTITY) != _identity(name):
            raise DisconnectionError(f"{name} was removed or replaced")  # the pool connects again

    engine.dispose()
    event.listen(engine, "do_connect", refuse_to_create)
    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", compare)


def _identity(name: str) -> tuple[int, int] | None:
    """Which file has this name now: its device and inode."""
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Readers beside one writer, a writer that waits, and nothing lost when the power goes."""
    connection.isolation_level = None  # transactions are begun below, not by the driver
    connection.execute(f"PRAGMA busy_timeout={1000 * _PATIENCE_S}")
    _keep_a_write_ahead_log(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@retry(
    retry=retry_if_exception(lambda error: getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY),
    stop=stop_after_delay(_PATIENCE_S),
    wait=wait_random(0.01, 0.05),
    reraise=True,
)
def _keep_a_write_ahead_log(connection: Any) -> None:
    """Retried: of processes that open a new file at once SQLite refuses all but one, whatever the busy timeout."""
    connection.execute("PRAGMA journal_mode=WAL")


def _begin_immediately(connection: Connection) -> None:
    """Take the write lock at the start: a transaction that reads first and then writes would fail under load."""
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READING) else "BEGIN IMMEDIATE")
