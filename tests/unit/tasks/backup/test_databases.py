"""Which of the installed PostgreSQL programs speaks with a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.backup import databases
from tasks.backup.databases import choose_program, load_dump

MAJORS = st.integers(10, 30)


@pytest.mark.parametrize(
    ("server", "installed", "chosen"),
    [
        (15, [15], 15),
        (15, [17, 15, 13, 16], 15),  # pg_restore 17 sets what a server before 17 does not know
        (13, [18, 17], 17),
        (17, [13, 17, 18], 17),
        (16, [15, 17], 17),
    ],
)
def test_the_oldest_program_that_is_no_older_than_the_server_is_chosen(
    server: int, installed: list[int], chosen: int
) -> None:
    assert choose_program("pg_dump", {f"/{major}": major for major in installed}, server) == f"/{chosen}"


@given(st.sets(MAJORS), MAJORS)
def test_no_program_is_older_than_its_server_and_none_between_them_is_passed_over(
    installed: set[int], server: int
) -> None:
    versions = {str(major): major for major in installed}
    if any(major >= server for major in installed):
        chosen = int(choose_program("pg_restore", versions, server))
        assert chosen >= server and not installed & set(range(server, chosen))
    else:
        with pytest.raises(ValueError, match=f"pg_restore: need version {server} or newer"):
            choose_program("pg_restore", versions, server)


@pytest.mark.parametrize(
    ("versions", "have"),
    [({}, "none is installed"), ({"/13": 13, "/14": 14, "/12": 12}, "/14 is of version 14"), ({"/x": 0}, "/x is of")],
)
def test_where_only_older_programs_are_the_newest_is_named(versions: dict[str, int], have: str) -> None:
    with pytest.raises(ValueError, match=f"^pg_dump: need version 15 or newer, {have}.*; install postgresql-client$"):
        choose_program("pg_dump", versions, 15)


def install(folder: Path, version: str, answer: str = "") -> None:
    """A pg_restore that says its version, and else does what `answer` says."""
    folder.mkdir(parents=True)
    program = folder / "pg_restore"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_restore (PostgreSQL) {version}" && exit\n{answer}')
    program.chmod(0o755)


def test_a_dump_is_restored_by_the_program_of_its_server_also_beside_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's program on the path reports the newest version, and may run another one."""
    unknown = "echo 'unrecognized configuration parameter \"transaction_timeout\"' >&2; exit 1"
    install(tmp_path / "installed/15/bin", "15.18 (Debian 15.18-0+deb12u1)", f"touch {tmp_path}/restored")
    install(tmp_path / "installed/17/bin", "17.2", unknown)
    install(tmp_path / "path", "15.18", unknown)
    monkeypatch.setattr(databases, "_INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(databases, "_server_major", lambda connection: 15)
    monkeypatch.setenv("PATH", f"{tmp_path}/path", prepend=":")
    load_dump(tmp_path / "records.dump", f"sqlite:///{tmp_path}/server")
    assert (tmp_path / "restored").is_file()
