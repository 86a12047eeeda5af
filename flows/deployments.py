"""What a Prefect server runs by itself: schedules and triggers.

shadowline deploy --work-dir /srv/inspection        # serves the deployments until it is stopped
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import serve
from prefect.schedules import RRule

from flows.retrain import retrain
from shadowline.params import load_params
from shadowline.paths import Layout


def serve_deployments(root: Path) -> None:
    """Install all deployments on the Prefect server that PREFECT_API_URL names, and run what becomes due.

    The quarterly retraining starts on the night that params.schedule says; a trigger by hand works at any time.
    """
    schedule = load_params(Layout(root).params).schedule
    os.chdir(root)  # DVC, git and relative locations count from the project's root
    quarterly = retrain.to_deployment(
        name="quarterly",
        description="Retrain on everything that arrived since the last quarter; promotes nothing by itself.",
        schedule=RRule(schedule.retrain, timezone=schedule.timezone),
        concurrency_limit=1,
    )
    serve(quarterly)
