"""What `printable` escapes, and what it leaves."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowline.core.printable import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("line-7/crack (2).png", "line-7/crack (2).png"),
        ("Gehäuse/불량/刻痕 κ=0.4 – 5 °C", "Gehäuse/불량/刻痕 κ=0.4 – 5 °C"),
        ("cam[left]/[red]1.png[/]", "cam[left]/[red]1.png[/]"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b2Jgone", r"\x9b2Jgone"),
        ("gnp.\u202egood", r"gnp.\u202egood"),
        (os.fsdecode(b"M\xfcller_001.png"), r"M\xfcller_001.png"),
    ],
)
def test_what_a_console_would_interpret_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_line_that_any_stream_of_utf8_takes(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert shown.encode("utf-8") is not None
    assert printable(shown) == shown


def test_lines_become_one() -> None:
    assert one_line(" first\n   second\r\n\n two  blanks ") == "first second two  blanks"
