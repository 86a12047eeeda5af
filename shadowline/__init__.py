"""Shadowline: from many single-class inspection models to one multi-class model, without a day of worse inspection."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Inspection", "Inspector"]

_LAZY = {
    "Inspection": ("shadowline.models.inspector", "Inspection"),
    "Inspector": ("shadowline.models.registry_inspector", "RegistryInspector"),  # `load` takes `models:/…` URIs as well
}


def __getattr__(name: str) -> Any:
    """`from shadowline import Inspector` loads torch only when it is asked for."""
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'shadowline' has no attribute {name!r}")
