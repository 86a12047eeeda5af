"""Register legacy models: in the registry, and in the records where the rollout looks them up.

shadowline legacy import CLASS LOCATION           # once, here
"""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from shadowline.models.legacy_validation import LegacyModel
from tasks.integrations.model_version import ModelVersion
from tasks.rollout.legacy_models import note_legacy, register_legacy


@flow(name="legacy-import")
def register_legacy_models(models: list[LegacyModel], experiment: str, at: datetime) -> list[ModelVersion]:
    """Models that have been examined; one that is on record already keeps its version."""
    versions = []
    for model in models:
        version = register_legacy(model, experiment)
        note_legacy(version, model, at)
        versions.append(version)
    return versions
