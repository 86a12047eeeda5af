"""MLflow from Prefect: runs, live metrics, model versions with their provenance, and aliases on exact versions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from prefect.logging import get_logger
from prefect.runtime import task_run
from sqlalchemy.exc import SQLAlchemyError

from shadowline.core.atomic_files import read_json
from shadowline.core.layout import Layout
from shadowline.core.network import why_unreachable
from shadowline.core.params import Params
from shadowline.core.secrets import mask
from shadowline.core.settings import Settings, prepare_environment, tracking_address
from shadowline.evaluation.gates import Verdict
from shadowline.evaluation.summary import Summary
from shadowline.models.fingerprints import class_fingerprints
from tasks.integrations.artifact_locations import take_home
from tasks.integrations.git import Provenance
from tasks.integrations.logged_model import example, log_pyfunc, requirements
from tasks.integrations.model_version import ModelVersion
from tasks.integrations.provenance import log_provenance
from tasks.integrations.rejudgement import PASSED, failed_since, judge_again, word_of
from tasks.integrations.retry import retried_task

_DESCRIPTION = "mlflow.note.content"  # tag of a run
_ABOUT_THE_MODEL = (
    "One model for all product classes, from `shadowline retrain`. `challenger` is the newest version that passed its "
    "gates, `champion` the one that holds every live class."
)
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

_MAX_PARAMS = 100  # in one request, as MLflow allows
STORE_ERRORS = (MlflowException, SQLAlchemyError)  # the latter where a connection dies during MLflow's rollback
_NOT_THERE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})  # no such model; no such alias

log = get_logger(__name__)


def client() -> mlflow.MlflowClient:
    """A client of the store that SHADOWLINE_TRACKING_URI names; that of a copied project is given its own files."""
    prepare_environment()
    uri = tracking_address(Settings().tracking_uri)
    take_home(uri, Path())
    if uri.startswith("http"):
        _require_server(uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


@cache
def _require_server(uri: str) -> None:
    """Asked once in a process, before MLflow asks again for minutes. Raises MlflowException where nobody listens."""
    why = why_unreachable(uri)
    if why:
        raise MlflowException(f"{mask(uri)}: no server answers ({why})")


@retried_task
def start_run(experiment: str, params: Mapping[str, Any], name: str = "", description: str = "") -> str:
    """Open a run with all hyper-parameters; returns its id. The retry of a task continues the run that it opened.

    `name`: without it MLflow makes one up. `description`: Markdown; a run that ends well gets that of its results.
    """
    tracking = client()
    experiment_id = _find_experiment(tracking, experiment)
    opened_by = {"opened_by": str(task_run.id)} if task_run.id else {}
    tried = tracking.search_runs([experiment_id], f"tags.opened_by = '{task_run.id}'") if opened_by else []
    tags = {**opened_by, _DESCRIPTION: description}
    run = tried[0] if tried else tracking.create_run(experiment_id, tags=tags, run_name=name or None)
    flat = [Param(name, value) for name, value in _flatten(params)]
    for start in range(0, len(flat), _MAX_PARAMS):
        tracking.log_batch(run.info.run_id, params=flat[start : start + _MAX_PARAMS])
    return str(run.info.run_id)


def _find_experiment(tracking: mlflow.MlflowClient, name: str) -> str:
    """The experiment's id. A new experiment keeps its files below SHADOWLINE_ARTIFACTS_URL, others stay as they are."""
    existing, wanted = tracking.get_experiment_by_name(name), Settings().artifacts_url.rstrip("/")
    if existing is None:
        return str(tracking.create_experiment(name, f"{wanted}/{name}" if wanted else None))
    if wanted and not existing.artifact_location.startswith(f"{wanted}/"):
        log.warning(
            "experiment %s keeps its files in %s as before; SHADOWLINE_ARTIFACTS_URL=%s holds for new experiments, "
            "see registry.experiment in params.yaml", name, existing.artifact_location, wanted,
        )  # fmt: skip
    return str(existing.experiment_id)


@retried_task
def close_run(run_id: str, succeeded: bool) -> None:
    """Say how the run ended; called while an interrupt is on its way up, it was stopped by a person."""
    stopped = isinstance(sys.exc_info()[1], KeyboardInterrupt)
    client().set_terminated(run_id, "FINISHED" if succeeded else "KILLED" if stopped else "FAILED")


@retried_task
def log_results(run_id: str, summary: Summary, files: list[Path]) -> None:
    """Log the means, gates, files and a description of a finished evaluation."""
    tracking = client()
    tracking.set_tag(run_id, _DESCRIPTION, describe_results(summary))
    for name, value in result_metrics(summary).items():
        tracking.log_metric(run_id, name, value)
    for path in files:
        tracking.log_artifact(run_id, str(path))


def result_metrics(summary: Summary) -> dict[str, float]:
    """`test/auroc`, `gate/drop/bolt`: the numbers of a summary, as a run logs them."""
    means = summary.model_dump(include={"means"})["means"]
    metrics = {f"test/{name}": value for name, value in means.items()}
    for check in summary.verdict.checks:
        if check.measured is not None:
            subject = f"/{check.subject}" if check.subject else ""
            metrics[f"gate/{check.name}{subject}"] = check.measured
    return metrics


def describe_results(summary: Summary) -> str:
    """The verdict with its reasons, the figures and the images, as Markdown."""
    verdict = summary.verdict
    counts = [f"{name} ({sum(splits.values())})" for name, splits in sorted(summary.num_images.items())]
    lines = [f"**{'Passed' if verdict.passed else 'Not passed'}** its gates.", *(f"- {why}" for why in verdict.reasons)]
    if "auroc" in summary.means:
        means = summary.means
        lines.append(
            f"\nMean image AUROC on test {means['auroc']:.3f}, single-class baseline {means['legacy_auroc']:.3f}."
        )
    return "\n".join([*lines, f"\nImages per class: {', '.join(counts)}."])


@retried_task
def register(run_id: str, params: Params, layout: Layout, summary: Summary, provenance: Provenance) -> ModelVersion:
    """Register the package as a new version with its provenance; alias `challenger` only when the verdict passed.

    For a package whose fingerprint is registered already, that version is returned with the tags that it has: they are
    written once, and another judgement of it is a further record (tasks/integrations/rejudgement.py). Registering twice
    is harmless, also after a kill in between.
    """
    tracking, name = client(), params.registry.model_name
    config = read_json(layout.package / "config.json")
    version = find_version(tracking, name, config["fingerprint"]) or _log_version(
        tracking, run_id, name, layout.package, config
    )
    verdict = summary.verdict
    registered = describe_version(tracking, name, version)
    log_provenance(tracking, name, version, params, layout.root)
    if "verdict" in registered.tags and registered.tags.get("results_run") != run_id:
        judge_again(tracking, registered, run_id, params, verdict, provenance)
    else:
        classes = json.dumps(class_fingerprints(layout.package), sort_keys=True)
        tags = {**_provenance(config, params, summary, provenance), "class_fingerprints": classes}
        tags |= {"results_run": run_id, "verdict": word_of(verdict)}  # the verdict last: it says that all is written
        tracking.update_model_version(name, version, describe_results(summary))
        for key, value in tags.items():
            tracking.set_model_version_tag(name, version, key, value)
    _move_challenger(tracking, registered, verdict)
    return describe_version(tracking, name, version)


def _provenance(config: Mapping[str, Any], params: Params, summary: Summary, provenance: Provenance) -> dict[str, str]:
    """All that an auditor needs to reproduce the model."""
    return {
        "git_commit": provenance.git_commit,
        "dvc_lock_sha256": provenance.dvc_lock_sha256,
        "params_hash": params.hash(),
        "encoder_fingerprint": config["encoder_fingerprint"],
        "num_images": json.dumps(summary.num_images, sort_keys=True),
    }


def _move_challenger(tracking: mlflow.MlflowClient, version: ModelVersion, verdict: Verdict) -> None:
    """Set the alias on a version that passed; remove it from one that fails now, unless on latency alone."""
    if verdict.passed:
        tracking.set_registered_model_alias(version.name, CHALLENGER, version.version)
    elif CHALLENGER in version.aliases and not verdict.failed_on_latency_only:  # it passed once, under other gates
        tracking.delete_registered_model_alias(version.name, CHALLENGER)


def _log_version(
    tracking: mlflow.MlflowClient, run_id: str, model_name: str, package: Path, config: Mapping[str, Any]
) -> str:
    row = example(min(class_fingerprints(package)))
    with mlflow.start_run(run_id=run_id):
        logged = log_pyfunc("inspector", "inspector_model.py", {"inspector": str(package)}, requirements(), row)
    return new_version(tracking, model_name, run_id, logged, config["fingerprint"], _ABOUT_THE_MODEL)


def new_version(
    tracking: mlflow.MlflowClient, model_name: str, run_id: str, logged: Any, fingerprint: str, about: str
) -> str:
    """Register a logged model as a new version, tagged with its fingerprint; `about` describes a model that is new."""
    with suppress(MlflowException):  # exists already
        tracking.create_registered_model(model_name, description=about)
    tags = {"fingerprint": fingerprint}
    created = tracking.create_model_version(
        model_name, source=logged.model_uri, run_id=run_id, tags=tags, model_id=logged.model_id
    )
    return str(created.version)


def find_version(tracking: mlflow.MlflowClient, model_name: str, fingerprint: str) -> str | None:
    versions = [
        version for version in all_versions(tracking, model_name) if version.tags.get("fingerprint") == fingerprint
    ]
    return str(versions[0].version) if versions else None


def all_versions(tracking: mlflow.MlflowClient, model_name: str) -> list[Any]:
    return list(tracking.search_model_versions(f"name='{model_name}'"))


def describe_version(tracking: mlflow.MlflowClient, model_name: str, version: str) -> ModelVersion:
    registered = tracking.get_model_version(model_name, version)
    return ModelVersion(model_name, str(registered.version), tuple(sorted(registered.aliases)), dict(registered.tags))


def list_versions(model_name: str) -> list[ModelVersion]:
    """All versions, newest first."""
    tracking = client()
    numbers = sorted((int(version.version) for version in all_versions(tracking, model_name)), reverse=True)
    return [describe_version(tracking, model_name, str(number)) for number in numbers]


def promote(model_name: str, version: str, replaces: str | None) -> ModelVersion:
    """Make exactly `version` champion in the place of exactly `replaces` (None: there must be no champion yet).

    Raises ValueError when the champion is another one, the version's verdict is negative, or gates other than that of
    latency have failed it since.
    """
    tracking = client()
    current = _aliased(tracking, model_name, CHAMPION)
    if current != replaces:
        raise ValueError(f"champion of {model_name} is version {current}, not {replaces}; name the version to replace")
    chosen = describe_version(tracking, model_name, version)
    if chosen.tags.get("verdict") != PASSED:
        raise ValueError(
            f"{chosen.uri}: verdict {chosen.tags.get('verdict', 'missing')!r}; only a passed version can lead"
        )
    failed = failed_since(tracking, chosen)
    if failed:
        raise ValueError(
            f"{chosen.uri}: passed once, and fails {', '.join(failed)} by the gates of run "
            f"{chosen.tags['last_judged_run']}; run `shadowline retrain`, or promote another version"
        )
    return _lead(tracking, chosen, current)


def _lead(tracking: mlflow.MlflowClient, chosen: ModelVersion, current: str | None) -> ModelVersion:
    if current is not None:
        tracking.set_registered_model_alias(chosen.name, PREVIOUS, current)
    tracking.set_registered_model_alias(chosen.name, CHAMPION, chosen.version)
    return describe_version(tracking, chosen.name, chosen.version)


def challenger_version(model_name: str) -> ModelVersion | None:
    """The version that waits for its rollout, or None."""
    tracking = client()
    version = _aliased(tracking, model_name, CHALLENGER)
    return describe_version(tracking, model_name, version) if version else None


def challenger_fingerprints(model_name: str) -> dict[str, str]:
    """Class → fingerprint of what the challenger decides with; empty where no version waits."""
    waiting = challenger_version(model_name)
    return waiting.class_fingerprints if waiting else {}


def challenger_if_known(model_name: str) -> dict[str, str]:
    """`challenger_fingerprints`, or empty where the registry is away: a rollback must not wait for the registry."""
    try:
        return challenger_fingerprints(model_name)
    except STORE_ERRORS as error:
        log.warning("registry: %s; this tick tries no new challenger", mask(str(error)).partition("\n")[0])
        return {}


@retried_task
def promote_live(model_name: str, live: Mapping[str, str]) -> ModelVersion:
    """Make champion the newest version that holds exactly the models that are live, class by class.

    Raises ValueError where no passed version holds them all. No effect where that version is champion already.
    """
    holding = [version for version in list_versions(model_name) if live.items() <= version.class_fingerprints.items()]
    passed = [version for version in holding if version.tags.get("verdict") == PASSED]
    if not passed:
        raise ValueError(f"{model_name}: no passed version holds the live models of {', '.join(sorted(live))}")
    tracking = client()
    current = _aliased(tracking, model_name, CHAMPION)
    return passed[0] if passed[0].version == current else _lead(tracking, passed[0], current)


def _aliased(tracking: mlflow.MlflowClient, model_name: str, alias: str) -> str | None:
    try:
        return str(tracking.get_model_version_by_alias(model_name, alias).version)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None


def is_missing(error: MlflowException) -> bool:
    """Whether the store says that the model or alias does not exist; False for a store that is away."""
    return error.error_code in _NOT_THERE


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        flat += _flatten(value, f"{dotted}.") if isinstance(value, Mapping) else [(dotted, str(value)[:500])]
    return flat
