"""The inspector that users import: it reads directories, and the registry for `models:/…` URIs.

RegistryInspector.load("models:/inspector/3")       # the same class as `shadowline.Inspector`
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from shadowline.models.inspector import Inspector
from shadowline.models.registry_uri import SCHEME, resolve


class RegistryInspector(Inspector):
    """An inspector whose `load` takes URIs of the registry as well as directories."""

    @classmethod
    def load(cls, location: str | Path, model_version: str = "directory") -> Self:
        """From a directory, or from a `models:/…` URI, whose version in the registry replaces `model_version`.

        Raises FileNotFoundError, or ValueError when a file is not what was packaged or there is no such version.
        """
        if not str(location).startswith(SCHEME):
            return super().load(location, model_version)
        return super().load(*resolve(str(location)))
