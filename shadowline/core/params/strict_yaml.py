"""YAML that every reader understands alike: PyYAML (ours, YAML 1.1) and ruamel.yaml (DVC's, YAML 1.2).

A key that is there twice is refused, since the second would replace the first without a word. So is an unquoted key
that is no text for one of the two: `0815:` is text for PyYAML and the number 815 for DVC, `on:` is true and text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_NUMBER_1_2 = re.compile(r"[-+]?(0o?[0-7]+|0x[0-9a-fA-F]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)")


def load_strictly(text: str) -> Any:
    """The content of one YAML document.

    Raises ValueError with a line for each key that is there twice or means two things, and yaml.YAMLError.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if errors := _errors(root, ""):
            raise ValueError("\n".join(errors))
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _errors(node: yaml.Node | None, prefix: str) -> list[str]:
    errors: list[str] = []
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            errors += _errors(item, prefix)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                errors.append(f"{prefix}{name}: the key is there twice, in lines {lines[name]} and {line}; remove one")
            elif _is_ambiguous(key):
                errors.append(f'{prefix}{name}: in line {line} the key is not a text; quote it: "{name}":')
            lines[name] = line
            errors += _errors(value, f"{prefix}{name}.")
    return errors


def _is_ambiguous(key: yaml.Node) -> bool:
    if not isinstance(key, yaml.ScalarNode):
        return True
    is_plain = key.style is None
    return key.tag not in (_TEXT, _MERGE) or (is_plain and _NUMBER_1_2.fullmatch(key.value) is not None)
