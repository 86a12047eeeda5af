"""Events sent to the Prefect server; `flows/deployments.py` says which deployments they start.

An event may be lost, where the server is away or the process is killed: a later tick of the rollout finds by itself
what the event would have started.
"""

from __future__ import annotations

from dataclasses import asdict

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from shadowline.rollout.observation import Approval, ApprovalRequest
from tasks.integrations.model_version import ModelVersion

VERSION_REGISTERED = "shadowline.version.registered"  # with a positive verdict
APPROVAL_WANTED = "shadowline.approval.wanted"  # payload: class_name, target, legacy, candidate
APPROVAL_GIVEN = "shadowline.approval.given"  # likewise, and by


@task(cache_policy=NO_CACHE)
def announce_version(version: ModelVersion) -> None:
    resource = {"prefect.resource.id": f"shadowline.version.{version.version}", "prefect.resource.name": version.uri}
    emit_event(
        VERSION_REGISTERED, resource, payload={"uri": version.uri, "classes": sorted(version.class_fingerprints)}
    )


@task(cache_policy=NO_CACHE)
def announce_request(request: ApprovalRequest) -> None:
    emit_event(APPROVAL_WANTED, _class_resource(request.class_name), payload=asdict(request))


@task(cache_policy=NO_CACHE)
def announce_approval(approval: Approval) -> None:
    emit_event(APPROVAL_GIVEN, _class_resource(approval.class_name), payload=asdict(approval))


def _class_resource(class_name: str) -> dict[str, str]:
    return {"prefect.resource.id": f"shadowline.class.{class_name}", "prefect.resource.name": class_name}
