"""A whole migration on the demo's stream images: a failing camera, a sabotaged candidate, and one that goes live.

shadowline demo
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.register_legacy import register_legacy_models
from flows.retrain import retrain
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.records.stores import open_records
from tasks.integrations.prefect_api import cancel_interrupted
from tasks.rollout.demo_migration import (
    FIRST_DAY,
    DemoResult,
    StopReason,
    apply_promises,
    demo_legacy_models,
    run_days,
    stage_of,
)
from tasks.rollout.tick import begin_rollout
from tasks.training.reporting import write_migration


@flow(name="migration", on_crashed=[cancel_interrupted])
def run_demo_migration(root: Path = Path()) -> DemoResult:
    """Weeks in minutes, on a simulated clock; a migration that is over is shown, and not run again."""
    layout = Layout(root)
    params = load_params(layout.params)
    records = open_records()
    if not records.rollout.revision():
        register_legacy_models(demo_legacy_models(params, layout), params.registry.experiment, FIRST_DAY)
        begin_rollout(records, params.of_demo().waves, params, FIRST_DAY, "Ada")
    result = run_days(records, params, root, stage_of(params))
    for promises in (params.of_demo().sabotage, params.of_demo().remedy):
        if result.stop_reason is StopReason.NEEDS_VERSION:
            apply_promises(layout.params, promises)
            retrain(root)
            params = load_params(layout.params)
            result = run_days(records, params, root, stage_of(params))
    write_migration(records, params, layout)
    return result
