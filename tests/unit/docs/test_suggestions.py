"""What messages suggest can be done: every `shadowline …` in a text of the code is a command with these options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.documents import generator
from fixtures.learning import ROOT

_CODE = ("shadowline", "tasks", "flows")
_VALUE = "\0"  # in the place of what a text is filled with


def texts(path: Path) -> Iterator[str]:
    """Every text of a module, docstrings as well; the parts of an f-string with a mark for each value."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else _VALUE for part in node.values)


def unknown(text: str, commands: dict[str, Any]) -> list[str]:
    """The commands and options in backticks that do not exist."""
    wrong = []
    for line in re.findall(r"`(shadowline [a-z][^`]*)`", text):
        words = line.split()
        lengths = [n for n in range(len(words), 1, -1) if " ".join(words[:n]) in commands]
        rest = words[lengths[0] :] if lengths else words
        is_unfinished = lengths and hasattr(commands[" ".join(words[: lengths[0]])], "list_commands")
        if not lengths or (is_unfinished and rest and rest[0].isalpha()):
            wrong.append(line)
            continue
        known = {
            option for p in commands[" ".join(words[: lengths[0]])].params for option in (*p.opts, *p.secondary_opts)
        }
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        wrong += [f"{line}: {option}" for option in sorted(given - known - {"--help"})]
    return wrong


@pytest.mark.parametrize("line", ["shadowline made-up", "shadowline rollout madeup x", "shadowline retrain --params x"])
def test_what_does_not_exist_is_found(line: str) -> None:
    assert unknown(f"nothing here; run `{line}` first", dict(generator().commands())) != []


def test_every_command_that_a_text_of_the_code_names_exists() -> None:
    commands = dict(generator().commands())
    wrong = {
        f"{path.relative_to(ROOT)}: {found}"
        for folder in _CODE
        for path in (ROOT / folder).rglob("*.py")
        for text in texts(path)
        for found in unknown(text, commands)
    }
    assert sorted(wrong) == []
