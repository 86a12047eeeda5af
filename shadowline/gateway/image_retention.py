"""Images on disk, byte for byte as they came, so that a decision can be shown again and an inspector can look.

    keeper.offer(sample, "bolt", flagged=True)    # never waits, never fails
    <folder>/<class>/<image_id>.<suffix>          # mode 0600; above gateway.max_kept_mb the oldest are deleted

All workers share one folder: a lock lets one of them write at a time, and `.num_bytes` tells it how full the folder is.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from filelock import FileLock
from PIL import Image

from shadowline.core.atomic_files import replace_file, replace_private_file
from shadowline.core.params import CLASS_NAME_PATTERN, GatewayParams, ImageRetentionPolicy
from shadowline.data.images import FORMATS, SUFFIX_OF
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.shadow_worker import UploadedImage
from shadowline.inference.scoring import describe

log = logging.getLogger(__name__)

_LOCK, _NUM_BYTES = ".lock", ".num_bytes"
_LOCK_TIMEOUT_S = 10.0
_AFTER_REMOVAL = 0.9  # of the bound: each scan of the whole folder makes room for many images


@dataclass(frozen=True, eq=False)
class _Kept:
    """One image that waits to be written."""

    class_name: str
    image_id: str
    data: bytes


class RetainedImages:
    """The folder; safe for several processes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self._max_bytes = folder, max_bytes

    def keep(self, class_name: str, image_id: str, data: bytes) -> int:
        """Write an image, or make it the newest where it exists; returns how many others were deleted.

        Raises OSError where the disk is full or the lock is not released, ValueError for an invalid class name.
        """
        if not re.fullmatch(CLASS_NAME_PATTERN, class_name):
            raise ValueError(f"class {class_name!r}: use a-z, 0-9, _ and -, at most 64 of them")
        path = self.folder / class_name / f"{image_id}{_suffix(data)}"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / _LOCK, timeout=_LOCK_TIMEOUT_S):
            if path.is_file():
                os.utime(path)
                return 0
            with replace_private_file(path) as file:
                file.write(data)
            return self._count(len(data))

    def _count(self, num_new: int) -> int:
        counter = self.folder / _NUM_BYTES
        try:
            total = int(counter.read_text(encoding="ascii")) + num_new
        except (FileNotFoundError, ValueError):
            total = self._max_bytes + 1  # unknown: scan the folder
        removed = 0
        if total > self._max_bytes:
            total, removed = self._make_room()
        with replace_file(counter) as temporary:
            temporary.write_text(str(total), encoding="ascii")
        return removed

    def _make_room(self) -> tuple[int, int]:
        """Delete the oldest images where the folder exceeds its bound; returns bytes left, and images deleted."""
        files = sorted((path.stat().st_mtime_ns, path) for path in self.folder.glob("*/*") if path.is_file())
        sizes = {path: path.stat().st_size for _, path in files}
        total, removed = sum(sizes.values()), 0
        if total <= self._max_bytes:
            return total, removed
        for path, size in list(sizes.items())[:-1]:  # the newest stays, however large
            if total <= _AFTER_REMOVAL * self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total, removed = total - size, removed + 1
        return total, removed


def _suffix(data: bytes) -> str:
    """The suffix by content; the header alone is read."""
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        return SUFFIX_OF[image.format or ""]


class ImageRetention:
    """One thread in front of the folder; `gateway.keep_queue` and `keep_queue_mb` bound the images that wait for it.

    An image that the disk does not take is tried again until the end; `problem` says why, until it is written.
    """

    def __init__(self, folder: Path, params: GatewayParams, metrics: Metrics) -> None:
        self._images = RetainedImages(folder, int(params.max_kept_mb * 1e6))
        self._params, self._metrics = params, metrics
        self._queue: queue.SimpleQueue[_Kept | None] = queue.SimpleQueue()
        self._waiting = threading.Lock()
        self._num_waiting, self._bytes_waiting = 0, 0
        self._closing = threading.Event()
        self.problem: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True, name="image-keeper")

    def start(self) -> None:
        self.thread.start()

    def offer(self, sample: UploadedImage, class_name: str, flagged: bool = True) -> None:
        """Never waits; an image that does not fit is counted as not kept. `flagged`: it waits for review."""
        which = self._params.keep_images
        if which is ImageRetentionPolicy.ALL or (which is ImageRetentionPolicy.ALARMS and flagged):
            if self._reserve(len(sample.data)):
                self._queue.put(_Kept(class_name, sample.image_id, sample.data))
            else:
                self._metrics.not_kept.labels("queue").inc()

    def close(self, limit_s: float) -> None:
        """Write what waits; what is left after `limit_s` is counted as not kept."""
        self._closing.set()
        self._queue.put(None)
        self.thread.join(limit_s)
        if left := self._num_waiting:
            self._metrics.not_kept.labels("end").inc(left)
            log.error("kept images: %d were not written before the end", left)

    def _reserve(self, num_bytes: int) -> bool:
        with self._waiting:
            fits = self._bytes_waiting + num_bytes <= 1e6 * self._params.keep_queue_mb
            if not fits or self._num_waiting >= self._params.keep_queue:
                return False
            self._change_waiting(+1, num_bytes)
            return True

    def _change_waiting(self, count: int, num_bytes: int) -> None:
        self._num_waiting += count
        self._bytes_waiting += num_bytes

    def _run(self) -> None:
        while (kept := self._queue.get()) is not None:
            while not self._keep(kept):  # at the end, the last attempt counts what it does not write
                self._closing.wait(self._params.poll_interval_ms / 1000)
            with self._waiting:
                self._change_waiting(-1, -len(kept.data))

    def _keep(self, kept: _Kept) -> bool:
        """False where another attempt may do."""
        try:
            removed = self._images.keep(kept.class_name, kept.image_id, kept.data)
        except (OSError, ValueError) as error:
            if self.problem is None:
                log.error("kept images: %s", describe(error))
            if not self._closing.is_set() and getattr(error, "errno", None) is not None:
                self.problem = f"kept images: {self._num_waiting} wait, the disk does not take them ({describe(error)})"
                return False
            self._metrics.not_kept.labels("disk").inc()
            return True
        self.problem = None
        self._metrics.kept.inc()
        if removed:
            self._metrics.kept_removed.inc(removed)
            log.warning("kept images: %d of the oldest went; gateway.max_kept_mb bounds them", removed)
        return True
