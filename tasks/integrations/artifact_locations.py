"""Change the file locations in MLflow's store after the files have moved.

    move_artifacts(engine, {"/srv/old/mlruns/1": "/srv/new/mlruns/1"})

The only place that writes into MLflow's tables: its client has no way to change a location, it makes relative ones
absolute, and a proxied one needs a server (docs/decisions/0032). The columns are those of the pinned MLflow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import mlflow
from sqlalchemy import Column, Engine, MetaData, Table, create_engine, select, update

from shadowline.models.registry_home import former_home

log = logging.getLogger(__name__)

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def take_home(tracking_uri: str, root: Path) -> None:
    """Give the store of a project that was copied or moved to `root` the files that came with it.

    Raises ValueError where they are there and did not come along.
    """
    other = former_home(tracking_uri, root)
    if other is None:
        return
    old, new = other / "mlruns", root.resolve() / "mlruns"
    if old.is_dir() and not new.is_dir():
        raise ValueError(f"{tracking_uri}: its files lie in {old}; copy that folder to {new} as well")
    engine = create_engine(tracking_uri)
    try:
        move_artifacts(engine, {str(old): str(new)})
    finally:
        engine.dispose()
    log.warning("%s: this project was copied or moved; its files are now in %s, no more in %s", tracking_uri, new, old)


def move_artifacts(engine: Engine, moved: Mapping[str, str]) -> None:
    """Update all columns or none. `moved`: folder → new folder; every location at or below a key is changed.

    Raises ValueError, with nothing changed, where the store lacks one of the columns.
    """
    columns = _find_columns(engine)
    with engine.begin() as connection:
        for column in columns:
            for old in connection.execute(select(column).distinct()).scalars().all():
                new = _moved(old, moved) if old else old
                if new != old:
                    connection.execute(update(column.table).where(column == old).values({column: new}))


def _moved(location: str, moved: Mapping[str, str]) -> str:
    """The new location; only whole folder names match: /srv/a does not move /srv/ab."""
    return next(
        (new + location[len(old) :] for old, new in moved.items() if f"{location}/".startswith(f"{old}/")), location
    )


def _find_columns(engine: Engine) -> list[Column[str]]:
    """The columns as the database itself has them; reflects no other table."""
    metadata, tables = MetaData(), {table for table, _ in COLUMNS}
    metadata.reflect(engine, only=lambda name, _: name in tables, resolve_fks=False)
    missing = [f"{table}.{name}" for table, name in COLUMNS if name not in _columns_of(metadata.tables.get(table))]
    if missing:
        raise ValueError(
            f"MLflow's store has no {', '.join(missing)}, in which MLflow {mlflow.__version__} would say where files "
            "are; restore with the MLflow that the backup's manifest names"
        )
    return [metadata.tables[table].columns[name] for table, name in COLUMNS]


def _columns_of(table: Table | None) -> frozenset[str]:
    return frozenset(table.columns.keys()) if table is not None else frozenset()
