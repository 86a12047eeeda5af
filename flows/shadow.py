"""Shadow mode in batch: new images of a class, from a folder or an S3 prefix, through both models.

shadowline shadow run solar_mono /srv/images/today
prefect deployment run 'shadow/batch' --param class_name=solar_mono --param location=s3://plant/solar_mono
shadowline deploy                                 # on a Prefect server: every night, below SHADOWLINE_SHADOW_URL
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.inference.shadow_batch import ShadowRun
from shadowline.records.stores import open_records
from tasks.rollout.shadow_batch import fetch_images, find_waiting, judge_images


@flow(name="shadow")
def shadow(class_name: str, location: str, root: Path = Path(), now: datetime | None = None) -> ShadowRun:
    """Record a pair for every image that is not on record yet.

    `now`: when the images count as received; without it, when they are judged.
    """
    layout = Layout(root)
    paths = fetch_images(location, layout)
    return judge_images(class_name, paths, open_records(), load_params(layout.params), now)


@flow(name="shadow-waiting")
def shadow_waiting(location: str = "", root: Path = Path(), now: datetime | None = None) -> list[str]:
    """Every class that both models judge and that has a folder below `location`, a folder or an s3:// prefix.

    Returns the classes; without a location there is nothing to do.
    """
    waiting = find_waiting(location, open_records())
    ended = [shadow(name, f"{location.rstrip('/')}/{name}", root, now, return_state=True) for name in waiting]
    for state in ended:  # a failure does not block the other classes
        state.result()
    return waiting
