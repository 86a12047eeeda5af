"""What differs between two nested mappings, under dotted names.

>>> differences({"train": {"lr": 0.002, "steps": 10}}, {"train": {"lr": 0.001, "steps": 10}})
{'train.lr': {'from': 0.002, 'to': 0.001}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted name → both values, of every value that differs; None for a value that is missing."""
    old, new = dict(_flat(before)), dict(_flat(after))
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return {name: {"from": old.get(name), "to": new.get(name)} for name in names}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
