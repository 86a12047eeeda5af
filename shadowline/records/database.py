"""Opening the database: pragmas, migrations, and an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError

_MIGRATIONS = Path(__file__).parent / "migrations"
READING = "shadowline_reading"  # execution option of a connection that writes nothing and waits for no writer
_MIGRATION_LOCK = 728_913  # any fixed number; PostgreSQL's advisory lock


def open_database(url: str) -> Engine:
    """An engine on an up-to-date schema; a SQLite file is created.

    Raises ValueError, without the password, for a database that cannot be reached.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, pool_pre_ping=True)
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediately)
    try:
        with engine.begin() as connection:
            _migrate(connection)
    except OperationalError as error:
        shown = parsed.render_as_string(hide_password=True)
        raise ValueError(f"database {shown}: {error.orig}; check SHADOWLINE_DATABASE_URL") from None
    return engine


def _migrate(connection: Connection) -> None:
    """Bring the schema up to date; processes that start together wait for the first."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Readers beside one writer, a writer that waits, and nothing lost when the power goes."""
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: Connection) -> None:
    """Take the write lock at the start: a transaction that reads first and then writes would fail under load."""
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READING) else "BEGIN IMMEDIATE")
