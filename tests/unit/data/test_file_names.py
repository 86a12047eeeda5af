from __future__ import annotations

import os
from pathlib import Path

import pytest

from shadowline.data.file_names import readable


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"train/good/cell 0042 (2).png", "train/good/cell 0042 (2).png"),
        ("Prüfling-日本.png".encode(), "Prüfling-日本.png"),
        (b"M\xfcller_001.png", "M\\xfcller_001.png"),
        (b"two\nlines.png", "two\\nlines.png"),
        (b"\x1b[31mred.png", "\\x1b[31mred.png"),
    ],
)
def test_a_name_becomes_one_line_of_valid_text(name: bytes, text: str) -> None:
    given = os.fsdecode(name)
    assert readable(given) == readable(Path(given)) == text
    text.encode("utf-8")
