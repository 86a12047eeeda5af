"""Shadow mode in batch: images from a folder through both models, one pair each.

    shadow_images("bolt", paths, candidate, legacy, pairs, params, progress)

Images with a recorded pair are skipped, so that an interrupted run goes on where it stopped. A pair is received when it
is judged, whatever the time of its file: a folder of old files in one run is evidence of one day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.bit_depth import DecodedImage, to_rgb, viewable
from shadowline.data.file_names import readable
from shadowline.data.images import Limits, RefusedImage, decode_image, read_bounded
from shadowline.data.manifest import content_id
from shadowline.data.near_duplicates import FrameRule, frame_signature
from shadowline.data.sources.source_image import files_below
from shadowline.models.detector import Detector
from shadowline.models.loader import load_detector
from shadowline.records.pair import ModelDecision, Pair, PairSource, is_capture_suspect, is_drawn_for_review, pair_key
from shadowline.records.pairs import PairStore, utc_now
from shadowline.records.stores import Records

_BATCH = 8  # pairs per transaction: what a kill can cost

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ShadowRun:
    """The result of one batch run."""

    num_new: int
    num_known: int  # on record already
    refused: tuple[str, ...]  # path and reason


def find_images(folder: Path) -> list[Path]:
    """Image files below `folder`, sorted, and folders that cannot be listed. Raises ValueError where there are none."""
    images = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES or path.is_dir()]
    if not images:
        raise ValueError(f"{folder}: no images; expected {', '.join(sorted(SUFFIXES))}")
    return images


@dataclass(frozen=True)
class Capture:
    """One image as it came from a camera."""

    path: Path
    image_id: str  # sha256 of the file's bytes
    captured_at: datetime  # UTC

    @classmethod
    def of_file(cls, path: Path, limits: Limits) -> Capture:
        """The capture time of a file is that of its last change. Raises RefusedImage for what cannot be read."""
        image_id = content_id(read_bounded(path, limits.max_file_bytes + 1))
        return cls(path, image_id, datetime.fromtimestamp(path.stat().st_mtime, UTC))


def both_models(class_name: str, records: Records) -> tuple[Detector, Detector]:
    """The candidate and the legacy model that a class has in the rollout."""
    state, locations = records.rollout.state().of(class_name), records.locations
    fingerprints = (state.candidate, state.legacy)
    candidate, legacy = (load_detector(locations.model(named).location, class_name) for named in fingerprints)
    return candidate, legacy


def shadow_images(
    class_name: str,
    paths: Sequence[Path],
    candidate: Detector,
    legacy: Detector,
    pairs: PairStore,
    params: Params,
    progress: Progress,
    clock: Callable[[], datetime] = utc_now,
) -> ShadowRun:
    """Judge every image with both models and record the pairs; `clock` gives the time of receipt of each."""
    models = (candidate.fingerprint, legacy.fingerprint)
    known_keys = pairs.known_keys(class_name, *models)
    captures, refused = _captures(paths, params.data)
    new = [
        capture
        for capture in captures
        if pair_key(class_name, capture.image_id, capture.captured_at, *models) not in known_keys
    ]
    num_new = 0
    with progress.task(f"shadow {class_name}", total=len(new)) as task:
        for start in range(0, len(new), _BATCH):
            batch = []
            for capture in new[start : start + _BATCH]:
                try:
                    image = decode_image(capture.path, params.data)
                    pair = judge_both(class_name, capture, image, candidate, legacy)
                    batch.append(as_received(pair, clock(), params))
                except RefusedImage as error:
                    refused.append(f"{readable(capture.path)}: {error}")
                task.advance()
            num_new += pairs.record(batch, FrameRule.of(params.shadow))
    return ShadowRun(num_new, len(captures) - len(new), tuple(refused))


def _captures(paths: Sequence[Path], limits: Limits) -> tuple[list[Capture], list[str]]:
    """The files that can be read, and path and reason of the others."""
    captures, refused = list[Capture](), list[str]()
    for path in paths:
        try:
            captures.append(Capture.of_file(path, limits))
        except RefusedImage as error:
            refused.append(f"{readable(path)}: {error}")
    return captures, refused


def judge_both(class_name: str, capture: Capture, image: DecodedImage, candidate: Detector, legacy: Detector) -> Pair:
    """The pair of both models on one image; in a batch the legacy model is the one that answers."""
    return Pair(
        class_name=class_name,
        image_id=capture.image_id,
        captured_at=capture.captured_at,
        candidate=candidate.fingerprint,
        legacy=legacy.fingerprint,
        answered_by="legacy",
        candidate_said=judge_one(candidate, image),
        legacy_said=judge_one(legacy, image),
        image_path=str(capture.path.resolve()),
        source=PairSource.BATCH,
        frame_signature=frame_signature(viewable(image)),
    )


def as_received(pair: Pair, at: datetime, params: Params) -> Pair:
    """The pair with its time of receipt and what follows from it."""
    share = params.shadow.review_share
    return replace(
        pair,
        received_at=at,
        capture_suspect=is_capture_suspect(pair.captured_at, at, params.gateway),
        review_share=share,
        review_drawn=is_drawn_for_review(pair.class_name, pair.image_id, share),
    )


def judge_one(detector: Detector, image: DecodedImage) -> ModelDecision:
    """One model on one image, with the time that it took."""
    started = time.perf_counter()
    score = float(detector.score([to_rgb(image, detector.bit_depth)])[0])
    return ModelDecision(score, detector.threshold, 1000.0 * (time.perf_counter() - started))
