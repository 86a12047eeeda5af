"""What commands print for people: lines and tables, in which nothing is interpreted and no secret is shown.

say("cam[left]/1.png: normal")                       # as it stands, also where it looks like markup
table = Table("class", "verdict", title="Gates")
table.add_row("bolt", coloured("passed", "green"))
print_tables(table)

On a terminal a table is drawn as one where its columns can be read side by side, else as a list of records. In a pipe
or a file it is plain: columns divided by blanks, one line a row, of any length, nothing cut.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from shadowline.core.printable import printable
from shadowline.core.secrets import mask

_READABLE = 24  # characters to which a column of sentences may be narrowed
_BORDER = 3  # characters that a drawn column takes beside its text
_GAP = "  "  # between the columns of a plain table


@dataclass(frozen=True)
class Cell:
    """One cell of a table, in a colour of the terminal or none."""

    text: str
    style: str = ""


class Table:
    """Header, rows and title of a table; every cell is plain text."""

    def __init__(self, *headers: str, title: str = "") -> None:
        self.headers = tuple(clean(header) for header in headers)
        self.title = clean(title)
        self.rows: list[tuple[Cell, ...]] = []

    def add_row(self, *cells: str | Cell) -> None:
        """Missing cells at the end are empty; raises ValueError for more cells than columns."""
        row = (cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
        cleaned = tuple(Cell(clean(cell.text), cell.style) for cell in row)
        missing = len(self.headers) - len(cleaned)
        if missing < 0:
            raise ValueError(f"a row of {len(cleaned)} cells in a table of {len(self.headers)} columns")
        self.rows.append((*cleaned, *(Cell("") for _ in range(missing))))

    def columns(self) -> list[list[str]]:
        """The texts of each column, its header first."""
        rows = [[cell.text for cell in row] for row in self.rows]
        return [list(texts) for texts in zip(self.headers, *rows, strict=True)]


def coloured(text: str, style: str) -> Cell:
    """A cell in a colour: `coloured("failed", "red")`."""
    return Cell(text, style)


def clean(text: str) -> str:
    """Masked, on one line, without what a console interprets."""
    return printable(mask(text))


def say(*lines: object, colour: str | None = None, err: bool = False) -> None:
    """Print each text as one line, on stdout or stderr; the colour is for terminals."""
    for line in lines:
        typer.secho(clean(str(line)), fg=colour, err=err)


def print_tables(*tables: Table, console: Console | None = None) -> None:
    """Print tables on stdout, or on the console."""
    console = console or Console(file=sys.stdout)
    for number, table in enumerate(tables):
        if number:
            print(file=console.file)
        if not console.is_terminal:
            for line in plain_lines(table):
                print(line, file=console.file)
        elif _needed_width(table) <= console.width:
            console.print(_drawn(table))
        else:
            _print_records(table, console)


def plain_lines(table: Table) -> list[str]:
    """The table as text of any width, one line a row."""
    widths = [max(map(cell_len, texts)) for texts in table.columns()]
    rows: list[Sequence[str]] = [table.headers, *([cell.text for cell in row] for row in table.rows)]
    lines = [_GAP.join(_padded(text, width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [table.title, *lines] if table.title else lines


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _readable_width(texts: Sequence[str]) -> int:
    """The least width at which a column can be read: no word is broken, and a sentence has room."""
    longest_word = max(cell_len(word) for text in texts for word in [*text.split(), ""])
    return max(longest_word, min(max(map(cell_len, texts)), _READABLE))


def _needed_width(table: Table) -> int:
    return 1 + sum(_readable_width(texts) + _BORDER for texts in table.columns())


def _drawn(table: Table) -> RichTable:
    columns = [
        Column(Text(header), overflow="fold", min_width=_readable_width(texts))
        for header, texts in zip(table.headers, table.columns(), strict=True)
    ]
    drawn = RichTable(*columns, title=Text(table.title) if table.title else None)
    for row in table.rows:
        drawn.add_row(*(Text(cell.text, cell.style) for cell in row))
    return drawn


def _print_records(table: Table, console: Console) -> None:
    """A list of records: each row as lines `header  text`, and an empty line after it."""
    if table.title:
        console.print(Text(table.title, "italic"))
    for row in table.rows:
        record = RichTable.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for header, cell in zip(table.headers, row, strict=True):
            if cell.text:
                record.add_row(Text(header, "bold"), Text(cell.text, cell.style))
        console.print(record)
        console.print()
