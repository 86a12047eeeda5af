"""Names of files as text that can be printed, stored and read: one line, valid Unicode."""

from __future__ import annotations

from pathlib import PurePath

from shadowline.core.printable import printable


def readable(name: str | PurePath) -> str:
    r"""The name with an escape for each character that a console would interpret.

    Line breaks, control characters, and bytes that are not UTF-8 (which Python keeps as lone surrogates) come out as
    \n, \x1b and \xfc. Everything else stays as it is.
    """
    return printable(name.as_posix() if isinstance(name, PurePath) else name)
