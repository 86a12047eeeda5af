"""Another judgement of a registered package: what changes in the version's tags, and what does not.

    judge_again(tracking, version, run_id, params, verdict, provenance)
    failed_since(tracking, version)                      # gates that failed a passed version when it was judged last

The tags of a version, its verdict among them, are written once, when it is registered. Each later judgement of the same
package is a record of its own: an MLflow run with its metrics, summary, commit and verdict, and the tag `judges` with
the version's URI.
"""

from __future__ import annotations

import mlflow
from prefect.logging import get_logger

from shadowline.core.params import Params
from shadowline.evaluation.gates import LATENCY, Verdict
from tasks.integrations.git import Provenance
from tasks.integrations.model_version import ModelVersion

PASSED, NOT_PASSED = "passed", "not passed"
LAST_JUDGED = "last_judged_run"  # of a version: the run of its last further judgement

log = get_logger(__name__)


def word_of(verdict: Verdict) -> str:
    return PASSED if verdict.passed else NOT_PASSED


def judge_again(
    tracking: mlflow.MlflowClient,
    version: ModelVersion,
    run_id: str,
    params: Params,
    verdict: Verdict,
    provenance: Provenance,
) -> None:
    """Record another judgement in its run. The version's verdict turns from not passed to passed, never back."""
    about = {
        "judges": version.uri,
        "verdict": word_of(verdict),
        "failed_gates": ",".join(verdict.failed_gates),
        "git_commit": provenance.git_commit,
        "dvc_lock_sha256": provenance.dvc_lock_sha256,
        "params_hash": params.hash(),
    }
    for key, value in about.items():
        tracking.set_tag(run_id, key, value)
    tags = {LAST_JUDGED: run_id}
    if verdict.passed and version.tags["verdict"] != PASSED:
        tags |= {"verdict_commit": provenance.git_commit, "verdict_run": run_id, "verdict": PASSED}
    for key, value in tags.items():
        tracking.set_model_version_tag(version.name, version.version, key, value)
    _tell_of_commits(version, tags.get("verdict", version.tags["verdict"]), verdict, provenance)


def _tell_of_commits(version: ModelVersion, standing: str, verdict: Verdict, provenance: Provenance) -> None:
    registered = version.tags.get("git_commit", "unknown")
    if registered != provenance.git_commit:
        log.warning(
            "%s: commit %s makes the package that was registered from commit %s, which stays its commit; this run's "
            "verdict is %r, that of the version %r",
            version.uri, provenance.git_commit, registered, word_of(verdict), standing,
        )  # fmt: skip


def failed_since(tracking: mlflow.MlflowClient, version: ModelVersion) -> list[str]:
    """Gates that a passed version failed when it was judged last; empty where it failed on latency alone."""
    if LAST_JUDGED not in version.tags:
        return []
    failed = tracking.get_run(version.tags[LAST_JUDGED]).data.tags.get("failed_gates", "")
    gates = [gate for gate in failed.split(",") if gate]
    return [] if gates == [LATENCY] else gates
