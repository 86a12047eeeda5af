"""An open database is the file of its name, or an error: never one that was removed or replaced meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from shadowline.records.database import open_database, reading


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def engine(file: Path) -> Engine:
    engine = open_database(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("create table note (word text)"))
    return engine


def write(engine: Engine, word: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("insert into note values (:word)"), {"word": word})


def words(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.execute(text("select word from note")).scalars())


def test_a_removed_file_is_an_error_at_the_next_statement_and_is_not_made_again(engine: Engine, file: Path) -> None:
    write(engine, "before")
    file.unlink()
    with pytest.raises(OperationalError, match=r"records\.db"):
        write(engine, "lost")
    with pytest.raises(OperationalError, match=r"records\.db"):
        words(engine)
    assert not file.exists()


def test_a_replaced_file_is_read_and_written_from_the_next_statement_on(engine: Engine, file: Path) -> None:
    write(engine, "before")
    engine.dispose()  # so that the copy is whole
    copy = file.with_name("copy.db")
    shutil.copy(file, copy)
    write(engine, "between")
    copy.replace(file)
    for suffix in ("-wal", "-shm"):
        file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
    write(engine, "after")
    assert words(engine) == ["before", "after"]


def test_a_file_that_is_put_back_is_used_again(engine: Engine, file: Path) -> None:
    write(engine, "before")
    engine.dispose()
    file.rename(file.with_name("elsewhere"))
    with pytest.raises(OperationalError):
        words(engine)
    file.with_name("elsewhere").rename(file)
    assert words(engine) == ["before"]


def test_a_folder_that_is_away_is_an_error_also_for_open_connections(engine: Engine, file: Path) -> None:
    write(engine, "before")
    away = file.parent.with_name(f"{file.parent.name}-away")
    file.parent.rename(away)
    with pytest.raises(OperationalError):
        words(engine)
    away.rename(file.parent)
    assert words(engine) == ["before"]
