"""Shadow mode in batch: new images of a class, from a folder or an S3 prefix, through both models.

shadowline shadow run solar_mono /srv/images/today
prefect deployment run 'shadow/batch' --param class_name=solar_mono --param location=s3://plant/solar_mono
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from shadowline.params import load_params
from shadowline.paths import Layout
from shadowline.records.stores import open_records
from shadowline.shadowing import ShadowRun
from tasks.shadow import fetch_images, judge_images


@flow(name="shadow")
def shadow(class_name: str, location: str, root: Path = Path()) -> ShadowRun:
    """Record a pair for every image that is not on record yet."""
    layout = Layout(root)
    paths = fetch_images(location, layout)
    return judge_images(class_name, paths, open_records(), load_params(layout.params))
