"""Changing params.yaml by program: comments and everything else stay as a person wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from shadowline.core.atomic_files import replace_file


@contextmanager
def editing(path: Path) -> Iterator[dict[str, Any]]:
    """The file's content, written back in one step where the block ends without an error."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"))
    yield content
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
