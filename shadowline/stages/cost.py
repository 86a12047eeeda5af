"""`shadowline stage cost`: what the packaged model costs in time and memory, measured beside the legacy models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from shadowline.core.device import pick_device
from shadowline.core.layout import Layout
from shadowline.core.params import DataParams, Params
from shadowline.core.progress import Progress
from shadowline.data.images import open_within
from shadowline.data.labels import Split
from shadowline.data.manifest import read_manifest
from shadowline.evaluation.cost import Cost, Memory
from shadowline.evaluation.latency import Timing, measure_latency, time_image
from shadowline.evaluation.reference_workload import ReferenceWorkload
from shadowline.models.inspector import Inspector
from shadowline.models.patchcore.detector import PatchCore

_IMAGES_PER_CLASS = 10
_WARM_UP = 2


def run(params: Params, layout: Layout, progress: Progress) -> Cost:
    """Latency of single images from bytes on disk to a decision, and bytes of weights; writes data/cost.json."""
    inspector = Inspector.load(layout.package)
    take_round = partial(_take_round, inspector, ReferenceWorkload(pick_device()), params, layout)
    latency = measure_latency(take_round, params.latency)
    cost = Cost(memory=_memory(inspector, params, layout), latency=latency)
    cost.write(layout.cost)
    progress.message(
        f"latency: p95 {latency.idle_p95_ms:.1f} ms on an idle machine, {latency.p95_ms:.1f} ms on the clock"
        f"{'' if latency.reliable else '; other work ran on this machine'}"
    )
    return cost


def _take_round(
    inspector: Inspector, reference: Callable[[], object], params: Params, layout: Layout
) -> Iterator[Timing]:
    """Every class's images once, beside its legacy model; the first images of a class only warm up."""
    for name in sorted(params.classes):
        detector = PatchCore.load(layout.legacy(name))
        paths = test_paths(name, layout)[: _IMAGES_PER_CLASS + _WARM_UP]
        warm_up = min(_WARM_UP, len(paths) - 1)  # at least one image is timed
        for index, path in enumerate(paths):
            judge = partial(inspector.inspect, path, name)
            timing = time_image(str(path), reference, judge, partial(_judge_legacy, detector, path, params.data))
            if index >= warm_up:
                yield timing


def _judge_legacy(detector: PatchCore, path: Path, limits: DataParams) -> object:
    return detector.score([open_within(path, limits, detector.bit_depth)])


def _memory(inspector: Inspector, params: Params, layout: Layout) -> Memory:
    legacy = sum(PatchCore.load(layout.legacy(name)).memory_bytes for name in params.classes)
    parts = inspector.memory_mb
    return Memory(**parts, total_mb=sum(parts.values()), legacy_total_mb=legacy / 1e6)


def test_paths(class_name: str, layout: Layout) -> list[Path]:
    manifest = read_manifest([layout.manifest(class_name)]).sort_values("image_id")
    return [layout.root / str(path) for path in manifest.loc[manifest["split"] == Split.TEST, "path"]]
