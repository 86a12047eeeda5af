"""Names of files as text that can be printed, stored and read: one line, valid Unicode."""

from __future__ import annotations

from pathlib import PurePath


def readable(name: str | PurePath) -> str:
    r"""The name with a backslash escape for each character that is not printable.

    Line breaks, control characters, and bytes that are not UTF-8 (which Python keeps as lone surrogates) come out as
    \n, \x1b and \xfc. What has only printable characters stays as it is.
    """
    text = name.as_posix() if isinstance(name, PurePath) else name
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode("ascii")
