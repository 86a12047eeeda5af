"""Text for a console: what people and files name is shown, and never interpreted.

printable("cam\\x1b[2J/1.png")    # "cam\\\\x1b[2J/1.png"
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

_INTERPRETED = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, halves of a pair, line and paragraph ends
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # turn what follows round
_HARMLESS = re.compile(r"[ -~]*")


def printable(text: str, keep: str = "") -> str:
    """The text with every character that a console would interpret as its escape: `\\n`, `\\x1b`, `\\u202e`.

    A byte of a file's name that is not UTF-8 becomes `\\xfc`. `keep`: characters that stay as they are.
    """
    if _HARMLESS.fullmatch(text):
        return text
    return "".join(character if character in keep else _escape(character) for character in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, as Python decodes names of files
        return f"\\x{os.fsencode(character).hex()}"
    if unicodedata.category(character) in _INTERPRETED or character in _DIRECTIONS:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def one_line(text: str) -> str:
    """The text's lines as one, and printable; blanks within a line stay, since they may be part of a name."""
    return printable(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def some_of(names: Sequence[str], most: int) -> str:
    """The first names of a list, and how many more there are: `a.png, b.png and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def without_kind(message: str) -> str:
    """A message of pydantic without its word for the kind of the error."""
    return message.replace("Value error, ", "")
