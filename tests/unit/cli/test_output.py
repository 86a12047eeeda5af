"""What commands print: as it stands, readable at 80 columns, and whole in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from shadowline.cli.output import Table, coloured, print_tables, say

LONG_PATH = "/srv/images/line-7/camera-left/2026-01-05/" + "part-0042-" * 12 + "[crop].png"


def rollout_table() -> Table:
    table = Table("wave", "class", "phase", "candidate answers", "since", "candidate", "legacy", "why", title="Rollout")
    why = "agreement 0.981 [0.962, 0.991] over 1204 pairs; see mail [/urgent], says Ada"
    table.add_row("1", "solar_mono", "LEGACY_READ_ONLY", "100%", "2026-01-05", "0123456789ab", "ba9876543210", why)
    table.add_row("2", "불량판", "SHADOW", "0%", "2026-01-06", "0123456789ab", "ba9876543210", LONG_PATH)
    return table


def small_table() -> Table:
    table = Table("class", "verdict", "why")
    table.add_row("bolt", coloured("fail", "red"), "recall 0.71 is below 0.9; so it needs more images, and better")
    return table


def printed(table: Table, *, width: int = 80, terminal: bool = False) -> str:
    stream = io.StringIO()
    print_tables(table, console=Console(file=stream, width=width, force_terminal=terminal, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_in_a_pipe_every_row_is_one_plain_line_with_all_its_text(width: int) -> None:
    lines = printed(rollout_table(), width=width).splitlines()
    assert lines[0] == "Rollout"
    assert lines[1].split()[:3] == ["wave", "class", "phase"]
    assert len(lines) == 4
    assert lines[3].endswith(LONG_PATH)
    assert "see mail [/urgent], says Ada" in lines[2]
    assert not set("".join(lines)) & set("┏━┃│└…")
    assert lines[1].index("phase") == lines[2].index("LEGACY_READ_ONLY")


def test_on_a_wide_terminal_a_table_is_drawn() -> None:
    text = printed(small_table(), width=100, terminal=True)
    assert "┏" in text
    assert "recall 0.71 is below 0.9; so it needs more images, and better" in text


def test_on_a_narrow_terminal_a_sentence_is_wrapped_between_words() -> None:
    text = printed(small_table(), width=60, terminal=True)
    assert "┏" in text
    assert all(len(line) <= 60 for line in text.splitlines())
    assert "needs" in text and "better" in text


@pytest.mark.parametrize("width", [40, 80])
def test_a_table_that_is_wider_than_the_terminal_folds_into_records(width: int) -> None:
    text = printed(rollout_table(), width=width, terminal=True)
    assert "┏" not in text and "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    first = text.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in first[:4]] == ["Rollout", "wave", "class", "phase"]
    assert "solar_mono" in first[2]
    assert LONG_PATH in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_names_of_people_and_files_are_not_interpreted(terminal: bool) -> None:
    table = Table("image", "[bold]by[/]", title="[red]names[/]")
    table.add_row("cam[left]/1.png", "see mail [/urgent]")
    table.add_row("\x1b[2J.png", ":smile:")
    text = printed(table, terminal=terminal)
    for shown in ("[red]names[/]", "[bold]by[/]", "cam[left]/1.png", "see mail [/urgent]", r"\x1b[2J.png", ":smile:"):
        assert shown in text


def test_lines_are_printed_as_they_stand_and_masked(capsys: pytest.CaptureFixture[str]) -> None:
    say("cam[left]/a\nb.png: [/urgent]", "http://me:h0rse@host/x", colour="red")
    say("refused \x1b]0;title\x07", err=True)
    out, err = capsys.readouterr()
    assert out == "cam[left]/a\\nb.png: [/urgent]\nhttp://***@host/x\n"
    assert err == "refused \\x1b]0;title\\x07\n"


def test_a_row_may_be_short_and_not_long() -> None:
    table = Table("entry", "seconds", "ratio")
    table.add_row("verified")
    assert [column[1] for column in table.columns()] == ["verified", "", ""]
    with pytest.raises(ValueError, match="a row of 4 cells in a table of 3 columns"):
        table.add_row("a", "b", "c", "d")
