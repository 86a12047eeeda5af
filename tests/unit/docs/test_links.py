"""Links between documents lead somewhere: to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

from fixtures.documents import documents, living_documents, prose
from fixtures.learning import ROOT

_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:shadowline|tasks|flows|docs|tests|prompts)/[\w./-]+)`")


def anchors(path: Path) -> set[str]:
    """As mkdocs names the headings of a page."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug, number = slugify(plain, "-"), 1
        while (slug if number == 1 else f"{slug}_{number - 1}") in found:
            number += 1
        found.add(slug if number == 1 else f"{slug}_{number - 1}")
    return found


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n\n[a](page.md#one) [b](#one) [c](#two) [d](gone.md) [e](https://example.org)\n")
    assert broken_links(page) == ["#two", "gone.md"]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    assert broken_links(path) == []


@pytest.mark.parametrize("path", living_documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(path: Path) -> None:
    assert [name for name in _FILE.findall(prose(path)) if not (ROOT / name).exists()] == []
