"""Shadow mode as Prefect tasks: fetch images, and let both models judge them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import default_progress
from shadowline.inference.shadow_batch import SUFFIXES, ShadowRun, both_models, find_images, shadow_images
from shadowline.records.pairs import utc_now
from shadowline.records.stores import Records
from shadowline.rollout.phases import BOTH_JUDGE
from tasks.integrations.object_storage import folders_of, local_copy


@task(retries=3, retry_delay_seconds=[2, 10, 30])
def fetch_images(location: str, layout: Layout) -> list[Path]:
    """The images below a folder or an s3:// prefix; the latter are copied to a scratch folder after each change."""
    return find_images(local_copy(location, layout.scratch / "shadow", SUFFIXES))


@task(cache_policy=NO_CACHE)
def find_waiting(location: str, records: Records) -> list[str]:
    """Classes that both models judge, and that have a folder below a folder or an s3:// prefix."""
    folders = folders_of(location) if location else ()
    judged = [cls.class_name for cls in records.rollout.state().classes if cls.standing in BOTH_JUDGE]
    return sorted(name for name in judged if name in folders)


@task(cache_policy=NO_CACHE)
def judge_images(
    class_name: str, paths: list[Path], records: Records, params: Params, now: datetime | None = None
) -> ShadowRun:
    """Both models on every image; refused images are named in the log. `now`: the time of receipt of all of them."""

    def clock() -> datetime:
        return now or utc_now()

    models = both_models(class_name, records)
    done = shadow_images(class_name, paths, *models, records.pairs, params, default_progress(), clock)
    for line in done.refused:
        get_run_logger().warning("refused %s", line)
    return done
