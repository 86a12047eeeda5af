"""Where MLflow's store in the project looks for its files. It keeps absolute paths, so a copied or moved project would
go on to read, and to write, the files of the place that it came from."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_FILES = "mlruns"  # MLflow's folder beside a store in a file
_PREFIX = "sqlite:///"


def store_in_project(tracking_uri: str, root: Path) -> Path | None:
    """The store's file, where it lies right below `root`; None for any other store, whose files lie where it says."""
    path = Path(tracking_uri.removeprefix(_PREFIX))
    if not tracking_uri.startswith(_PREFIX) or not path.is_file():
        return None
    return path if path.resolve().parent == root.resolve() else None


def former_home(tracking_uri: str, root: Path) -> Path | None:
    """The other project whose files the store in `root` names; None where they are its own."""
    store = store_in_project(tracking_uri, root)
    if store is None:
        return None
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:  # no store yet, or busy: whoever uses it will say
            return None
    homes = (Path(location).parents[1] for (location,) in rows if location and _is_in_mlruns(location))
    return next((home for home in homes if not _is_same(home, root, store.name)), None)


def require_own_files(tracking_uri: str, root: Path) -> None:
    """Raises ValueError, with the other place, where the store of a copied project still names the original's files."""
    if other := former_home(tracking_uri, root):
        raise ValueError(
            f"{tracking_uri}: its files lie in {other / _FILES}, so this project was copied or moved from there; "
            f"run `shadowline models` in {root.resolve()} once, which gives it its own"
        )


def _is_in_mlruns(location: str) -> bool:
    return location.startswith("/") and Path(location).parent.name == _FILES


def _is_same(home: Path, root: Path, store: str) -> bool:
    """Whether the store names this very project, perhaps by another path to the same folder."""
    if home.resolve() == root.resolve():
        return True
    try:
        return (home / store).samefile(root / store)
    except OSError:
        return False
