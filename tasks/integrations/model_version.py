"""One exact version of a registered model, as the tasks pass it on."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelVersion:
    """One exact version of a registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def class_fingerprints(self) -> dict[str, str]:
        """Class → fingerprint of what decides on it."""
        return dict(json.loads(self.tags.get("class_fingerprints", "{}")))
