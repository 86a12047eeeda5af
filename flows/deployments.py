"""What a Prefect server runs by itself: schedules and triggers.

shadowline deploy --work-dir /srv/inspection        # serves the deployments until it is stopped
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import serve
from prefect.events import DeploymentEventTrigger
from prefect.schedules import RRule

from flows.approval import approve
from flows.audit import audit
from flows.backup import backup
from flows.decommission import decommission
from flows.enroll import IMAGES_ARRIVED, enroll, enroll_waiting
from flows.retrain import retrain
from flows.rollout import tick
from flows.shadow import shadow, shadow_waiting
from shadowline.params import load_params
from shadowline.paths import Layout
from shadowline.rollout.observation import ApprovalRequest
from shadowline.settings import Settings
from tasks.announce import APPROVAL_GIVEN, APPROVAL_WANTED, VERSION_REGISTERED

_REQUEST = tuple(ApprovalRequest.__dataclass_fields__)  # the payload of APPROVAL_WANTED


def serve_deployments(root: Path) -> None:
    """Install all deployments on the Prefect server that PREFECT_API_URL names, and run what becomes due.

    The schedules are those of params.schedule; a trigger by hand works at any time.
    """
    schedule = load_params(Layout(root).params).schedule
    os.chdir(root)  # DVC, git and relative locations count from the project's root

    def due(rule: str) -> RRule:
        return RRule(rule, timezone=schedule.timezone)

    serve(
        retrain.to_deployment(
            name="quarterly",
            description="Retrain on everything that arrived since the last quarter; promotes nothing by itself.",
            schedule=due(schedule.retrain),
            concurrency_limit=1,
        ),
        tick.to_deployment(
            name="tick",
            description="One tick of the rollout.",
            schedule=due(schedule.rollout),
            triggers=[
                DeploymentEventTrigger(name="a version or an approval", expect={VERSION_REGISTERED, APPROVAL_GIVEN})
            ],
            concurrency_limit=1,
        ),
        decommission.to_deployment(
            name="nightly",
            description="Archive, prove and delete the legacy models that the rollout has retired.",
            schedule=due(schedule.decommission),
            concurrency_limit=1,
        ),
        enroll.to_deployment(
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
        enroll_waiting.to_deployment(
            name="poll",
            description="What lies in the inbox, or below the S3 prefix of SHADOWLINE_INBOX_URL, and is due.",
            parameters={"location": Settings().inbox_url},
            schedule=due(schedule.enroll),
            concurrency_limit=1,
        ),
        shadow.to_deployment(name="batch", description="Both models on the images of a folder or an S3 prefix."),
        shadow_waiting.to_deployment(
            name="nightly",
            description="Both models on what lies below SHADOWLINE_SHADOW_URL, for every class that both judge.",
            parameters={"location": Settings().shadow_url},
            schedule=due(schedule.shadow),
            concurrency_limit=1,
        ),
        backup.to_deployment(name="nightly", description="Keep everything; give it a target and a schedule."),
        audit.to_deployment(name="on-demand", description="Make a version again and compare it with its record."),
        approve.to_deployment(
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
