"""Notes in the records: where the models of a registered version can be loaded from, and which version is champion."""

from __future__ import annotations

from datetime import datetime

from prefect import task

from shadowline.records.model_locations import CANDIDATE, ModelLocation
from shadowline.records.stores import open_records
from tasks.integrations.model_version import ModelVersion


@task(retries=3, retry_delay_seconds=[1, 5, 15])
def note_candidate(version: ModelVersion, at: datetime) -> None:
    """Note for every class of a registered version where its model can be loaded from."""
    open_records().locations.upsert_model(_places(version), at)


def note_champion(version: ModelVersion, at: datetime) -> None:
    """Note the same for the champion, and that it is champion: the gateway does not read the registry's aliases."""
    locations = open_records().locations
    locations.upsert_model(_places(version), at)
    locations.set_champion(version.class_fingerprints, at)


def _places(version: ModelVersion) -> list[ModelLocation]:
    return [
        ModelLocation(fingerprint, name, CANDIDATE, version.uri, version.version)
        for name, fingerprint in version.class_fingerprints.items()
    ]
