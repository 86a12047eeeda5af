"""Changing params.yaml by program: only the lines change that hold what is changed.

ruamel.yaml keeps comments and order, and lays the file out anew: indentation, blanks before comments, brackets over
several lines. So the file is written twice, as it was and as it is to be, and the difference of the two is merged into
the lines that a person wrote.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from shadowline.core.atomic_files import replace_file


@contextmanager
def editing(path: Path) -> Iterator[dict[str, Any]]:
    """The file's content, written back in one step where the block ends without an error."""
    text = path.read_text(encoding="utf-8")
    yaml = _round_trip(text)
    content: dict[str, Any] = yaml.load(text)
    before = _dump(yaml, content)
    yield content
    after = _dump(yaml, content)
    with replace_file(path) as temporary:
        temporary.write_text(_merged(text, before, after), encoding="utf-8")


def _round_trip(text: str) -> YAML:
    """A reader and writer with the file's own indentation."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    _, indent, offset = load_yaml_guess_indent(text)
    yaml.indent(mapping=_mapping_indent(text), sequence=indent, offset=offset)
    return yaml


def _mapping_indent(text: str) -> int:
    """Blanks before the first indented key; ruamel's guess looks at lists alone."""
    found = re.search(r"^( +)[^\s#-][^\n]*:", text, re.MULTILINE)
    return len(found[1]) if found else 2


def _dump(yaml: YAML, content: dict[str, Any]) -> str:
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _merged(text: str, before: str, after: str) -> str:
    """`text` with the change from `before` to `after`; `after` itself where the merge would say something else."""
    own, base, new = (content.splitlines(keepends=True) for content in (text, before, after))
    changes = SequenceMatcher(None, base, new, autojunk=False).get_opcodes()
    put_in = {i: new[j:m] for tag, i, _, j, m in changes if tag == "insert"}
    lines: list[str] = []
    for first, last, own_lines in _blocks(base, own):
        new_lines = _new_lines(first, last, new, changes)
        _put_in(lines, put_in.get(first, []))
        lines += own_lines if new_lines == base[first:last] else new_lines
    _put_in(lines, put_in.get(len(base), []))
    merged = "".join(lines)
    return merged if _is_equal(merged, after) else after


def _put_in(lines: list[str], new: list[str]) -> None:
    """Append `new`; if it belongs to the last section, before the blank lines and comments above the next."""
    after: list[str] = []
    while new and new[0].startswith(" ") and lines and lines[-1].startswith(("\n", "#")):
        after.insert(0, lines.pop())
    lines += [*new, *after]


def _blocks(base: Sequence[str], own: Sequence[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Stretches of `base` (first, last + 1) with the lines of `own` that say the same; together all of both."""
    squeezed_base, squeezed_own = (["".join(line.split()) for line in lines] for lines in (base, own))
    blocks: list[tuple[int, int, list[str]]] = []
    for tag, i, k, j, m in SequenceMatcher(None, squeezed_base, squeezed_own, autojunk=False).get_opcodes():
        if tag == "equal":
            blocks += [(i + n, i + n + 1, [own[j + n]]) for n in range(k - i)]
        elif tag == "insert" and blocks:  # what `base` has on the line before
            blocks[-1][2].extend(own[j:m])
        else:
            blocks.append((i, k, list(own[j:m])))
    return iter(blocks)


def _new_lines(
    first: int, last: int, new: Sequence[str], changes: Sequence[tuple[str, int, int, int, int]]
) -> list[str]:
    """What becomes of lines `first` to `last` of the base, without what is put in before them."""
    lines: list[str] = []
    for tag, i, k, j, m in changes:
        if tag == "equal":
            lines += new[j + max(first - i, 0) : j + max(min(last, k) - i, 0)] if i < last and first < k else []
        elif first < i < last or (first == i and tag != "insert"):
            lines += new[j:m]
    return lines


def _is_equal(text: str, other: str) -> bool:
    safe = YAML(typ="safe")
    try:
        return bool(safe.load(text) == safe.load(other))
    except YAMLError:
        return False
