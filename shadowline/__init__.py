"""Shadowline: from many single-class inspection models to one multi-class model, without a day of worse inspection."""

from __future__ import annotations

from typing import Any

__all__ = ["Inspection", "Inspector"]


def __getattr__(name: str) -> Any:
    """`from shadowline import Inspector` loads torch only when it is asked for."""
    if name in __all__:
        from shadowline.models import inspector

        return getattr(inspector, name)
    raise AttributeError(f"module 'shadowline' has no attribute {name!r}")
