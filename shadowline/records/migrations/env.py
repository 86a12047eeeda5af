"""Alembic's entry: runs on the connection that `open_database` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from shadowline.records.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
