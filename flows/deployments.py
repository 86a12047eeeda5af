"""What a Prefect server runs by itself: schedules and triggers.

shadowline deploy --work-dir /srv/inspection        # serves the deployments until it is stopped
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.schedules import RRule, Schedule

from flows.approval import approve
from flows.audit import audit
from flows.backup import backup
from flows.decommission import decommission
from flows.enroll import IMAGES_ARRIVED, enroll, enroll_waiting
from flows.retrain import retrain
from flows.rollout import tick
from flows.shadow import shadow, shadow_waiting
from shadowline.core.layout import Layout
from shadowline.core.params import ScheduleParams, load_params
from shadowline.core.settings import Settings
from shadowline.rollout.observation import ApprovalRequest
from tasks.integrations.prefect_events import APPROVAL_GIVEN, APPROVAL_WANTED, VERSION_REGISTERED

_REQUEST = tuple(ApprovalRequest.__dataclass_fields__)  # the payload of APPROVAL_WANTED


def serve_deployments(root: Path) -> None:
    """Install all deployments on the Prefect server that PREFECT_API_URL names, and run what becomes due.

    The schedules are those of params.schedule; a trigger by hand works at any time.
    """
    schedule = load_params(Layout(root).params).schedule
    os.chdir(root)  # DVC, git and relative locations count from the project's root
    serve(*make_deployments(schedule))


def make_deployments(schedule: ScheduleParams) -> tuple[RunnerDeployment, ...]:
    """Every deployment of the project."""

    def due(rule: str) -> Schedule:
        return RRule(rule, timezone=schedule.timezone)

    def deployment(of: Flow[Any, Any], **about: Any) -> RunnerDeployment:
        return cast(RunnerDeployment, of.to_deployment(**about))  # a coroutine only inside an event loop

    return (
        deployment(
            retrain,
            name="quarterly",
            description="Retrain on everything that arrived since the last quarter; promotes nothing by itself.",
            schedule=due(schedule.retrain),
            concurrency_limit=1,
        ),
        deployment(
            tick,
            name="tick",
            description="One tick of the rollout.",
            schedule=due(schedule.rollout),
            triggers=[
                DeploymentEventTrigger(name="a version or an approval", expect={VERSION_REGISTERED, APPROVAL_GIVEN})
            ],
            concurrency_limit=1,
        ),
        deployment(
            decommission,
            name="nightly",
            description="Archive, prove and delete the legacy models that the rollout has retired.",
            schedule=due(schedule.decommission),
            concurrency_limit=1,
        ),
        deployment(
            enroll,
            name="on-images",
            description="New images of a product: bring it as far as they allow.",
            triggers=[
                DeploymentEventTrigger(
                    name="images arrived",
                    expect={IMAGES_ARRIVED},
                    parameters={
                        "class_name": "{{ event.payload['class_name'] }}",
                        "location": "{{ event.payload['location'] }}",
                    },
                )
            ],
            concurrency_limit=1,
        ),
        deployment(
            enroll_waiting,
            name="poll",
            description="What lies in the inbox, or below the S3 prefix of SHADOWLINE_INBOX_URL, and is due.",
            parameters={"location": Settings().inbox_url},
            schedule=due(schedule.enroll),
            concurrency_limit=1,
        ),
        deployment(shadow, name="batch", description="Both models on the images of a folder or an S3 prefix."),
        deployment(
            shadow_waiting,
            name="nightly",
            description="Both models on what lies below SHADOWLINE_SHADOW_URL, for every class that both judge.",
            parameters={"location": Settings().shadow_url},
            schedule=due(schedule.shadow),
            concurrency_limit=1,
        ),
        deployment(backup, name="nightly", description="Keep everything; give it a target and a schedule."),
        deployment(audit, name="on-demand", description="Make a version again and compare it with its record."),
        deployment(
            approve,
            name="ask",
            description="Ask a person whether a class may enter a phase.",
            triggers=[
                DeploymentEventTrigger(
                    name="approval wanted",
                    expect={APPROVAL_WANTED},
                    parameters={name: f"{{{{ event.payload['{name}'] }}}}" for name in _REQUEST},
                )
            ],
        ),
    )
