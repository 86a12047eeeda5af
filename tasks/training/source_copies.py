"""Images of classes that lie in S3: before a retraining, the copies in the project are brought up to date.

    classes:
      bolt:
        source: folder
        location: data/sources/factory/bolt         # the copy, which stages read
        copy_of: s3://factory/bolt

Stages read local files alone, so that DVC compares their content, a retraining needs no network once it has begun, and
a version can be reproduced from what it was made of.
"""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.sources.source_image import IMAGE_SUFFIXES
from tasks.integrations.object_storage import S3Storage, open_storage

_SUFFIXES = IMAGE_SUFFIXES | {".csv", ".json"}  # the tables of VisA and Real-IAD


@task(cache_policy=NO_CACHE)
def update_copies(params: Params, root: Path) -> tuple[Path, ...]:
    """Copy what is new in S3 and remove copies of what is gone, for every class with `copy_of`; returns the folders.

    Raises ValueError for a prefix without images, with all copies as they were, and for a store that is away.
    """
    wanted = {entry.location: entry.copy_of for entry in params.classes.values() if entry.copy_of}
    return tuple(copy_prefix(url, root / location) for location, url in sorted(wanted.items()))


def copy_prefix(url: str, folder: Path) -> Path:
    """Bring the copy of an s3:// prefix in `folder` up to date, images and tables alone; raises ValueError likewise."""
    storage = open_storage(url)
    assert isinstance(storage, S3Storage)
    if not any(Path(key).suffix.lower() in IMAGE_SUFFIXES for key in storage.list()):
        raise ValueError(f"{url}: no images there; correct copy_of, or put the images below it")
    storage.mirror(folder, _SUFFIXES, drop_gone=True)
    return folder


def copy_location(url: str, root: Path) -> Path:
    """Where a project keeps its copy of an s3:// prefix: below data/sources, by bucket and prefix."""
    return Layout(root).sources / url.removeprefix("s3://").strip("/")
