"""A dump that no client reads is described by what the store said before and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.backup import snapshot
from tasks.backup.consistency import Registry
from tasks.backup.databases import DatabaseCopy
from tasks.backup.manifest import DatabaseKind

URL = "postgresql+psycopg://plant/mlflow"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What the store says, one answer after the other: how many entries its versions were told."""
    waiting: list[int] = []

    @contextmanager
    def dumped(_: str, stem: Path) -> Iterator[DatabaseCopy]:
        yield DatabaseCopy(DatabaseKind.POSTGRESQL, stem, None)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "dump_database", dumped)
    monkeypatch.setattr(snapshot, "client", lambda: None)
    monkeypatch.setattr(snapshot.mlflow, "MlflowClient", lambda *_: None)
    monkeypatch.setattr(snapshot, "read_registry", lambda *_: Registry((), {}, "", waiting.pop(0)))
    yield waiting


def test_a_dump_between_two_different_answers_is_made_again(answers: list[int], tmp_path: Path) -> None:
    answers += [1, 2, 2, 2, 3]
    _, registry = snapshot._copy_tracking(URL, tmp_path, "inspector")
    assert (registry.num_entries, answers) == (2, [3])


def test_a_store_that_never_holds_still_is_refused(answers: list[int], tmp_path: Path) -> None:
    answers += [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="versions changed during each of 3 dumps; run the backup again"):
        snapshot._copy_tracking(URL, tmp_path, "inspector")
