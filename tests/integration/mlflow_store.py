"""MLflow's database edited by hand, as whoever can write to it does.

with edited_by_hand("DELETE FROM latest_metrics WHERE key LIKE 'test/%'") as num_rows: …     # and back afterwards
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from shadowline.core.settings import Settings

_TABLES = ("latest_metrics", "model_version_tags", "registered_model_aliases")


@contextmanager
def edited_by_hand(statement: str) -> Iterator[int]:
    """Runs a statement on the store of SHADOWLINE_TRACKING_URI, a SQLite file; yields how many rows it changed."""
    with closing(sqlite3.connect(Settings().tracking_uri.removeprefix("sqlite:///"))) as connection:
        before = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in _TABLES}
        with connection:
            num_rows = connection.execute(statement).rowcount
        assert num_rows, statement
        yield num_rows
        with connection:  # in SQL: other connections would not see that the file was put back
            for table, rows in before.items():
                connection.execute(f"DELETE FROM {table}")
                for row in rows:
                    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
