"""`shadowline rollout retune`: a class's threshold from a registered version, into the records."""

from __future__ import annotations

from datetime import datetime

from mlflow.exceptions import MlflowException

from shadowline.core.params import Params
from shadowline.models.registry_uri import resolve
from shadowline.models.threshold_change import Deciding, check_only_threshold_differs, read_deciding
from shadowline.records.retuning import Replay, Retuning, retune
from shadowline.records.stores import Records
from tasks.integrations.mlflow_registry import challenger_version, client, describe_version
from tasks.integrations.model_version import ModelVersion


def retune_to_version(
    records: Records, class_name: str, version: str, by: str, why: str, now: datetime, params: Params
) -> Replay | None:
    """Let a registered version decide on a class in the place of its present candidate, from which it differs on that
    class by the threshold alone; None where it does already.

    Raises ValueError where it may not: see `records.retuning.retune`.
    """
    present = records.rollout.state().of(class_name).candidate
    chosen = _passed_version(params.registry.model_name, version, class_name)
    fingerprint = chosen.class_fingerprints[class_name]
    if fingerprint == present:
        return None
    _check_challenger(chosen, class_name, params.registry.model_name)
    before, after = (_deciding(records, name, class_name) for name in (present, fingerprint))
    check_only_threshold_differs(before, after)
    return retune(records, Retuning(before, after, by, why), now, params)


def _passed_version(model_name: str, version: str, class_name: str) -> ModelVersion:
    try:
        chosen = describe_version(client(), model_name, version)
    except MlflowException as error:
        raise ValueError(
            f"models:/{model_name}/{version}: {error.message}; `shadowline models` lists what is registered"
        ) from None
    if chosen.tags.get("verdict") != "passed":
        raise ValueError(
            f"{chosen.uri}: verdict {chosen.tags.get('verdict', 'missing')!r}; only a passed version can take over"
        )
    if class_name not in chosen.class_fingerprints:
        names = ", ".join(sorted(chosen.class_fingerprints))
        raise ValueError(f"{chosen.uri}: does not know class {class_name!r}; it knows {names}")
    return chosen


def _check_challenger(chosen: ModelVersion, class_name: str, model_name: str) -> None:
    """Raises ValueError for another challenger, which would undo the tuning as soon as the class is free to try it."""
    waiting = challenger_version(model_name)
    if waiting is None or class_name not in waiting.class_fingerprints:
        return
    if waiting.class_fingerprints[class_name] != chosen.class_fingerprints[class_name]:
        raise ValueError(
            f"class {class_name!r}: version {waiting.version} waits as challenger and decides on it otherwise than "
            f"version {chosen.version}; tune that one, and retune to the version that comes of it"
        )


def _deciding(records: Records, fingerprint: str, class_name: str) -> Deciding:
    """What decides on the class in the model at its recorded location. Raises ValueError for another fingerprint."""
    place = records.locations.model(fingerprint)
    deciding = read_deciding(resolve(place.location)[0], class_name)
    if deciding.fingerprint != fingerprint:
        raise ValueError(
            f"{place.location} holds model {deciding.fingerprint[:12]}… of class {class_name!r}, the records name "
            f"{fingerprint[:12]}…; restore it"
        )
    return deciding
