"""`shadowline stage cost`: what the packaged model costs in time and memory, measured beside the legacy models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from shadowline.atomic import write_json
from shadowline.detectors.patchcore import PatchCore
from shadowline.images import open_within
from shadowline.inspector import Inspector
from shadowline.manifest import Split, read_manifest
from shadowline.params import Params
from shadowline.paths import Layout
from shadowline.progress import Progress

_IMAGES_PER_CLASS = 10
_WARM_UP = 2


def run(params: Params, layout: Layout, progress: Progress) -> dict[str, Any]:
    """Latency of single images from bytes on disk to a decision, and bytes of weights; writes data/cost.json."""
    inspector = Inspector.load(layout.package)
    own: list[float] = []
    legacy: list[float] = []
    legacy_bytes = 0
    for name in sorted(params.classes):
        paths = test_paths(name, layout)
        detector = PatchCore.load(layout.legacy(name))
        legacy_bytes += detector.memory_bytes
        for index, path in enumerate(paths[: _IMAGES_PER_CLASS + _WARM_UP]):
            started = time.perf_counter()
            inspector.inspect(path, name)
            between = time.perf_counter()
            detector.score([open_within(path, params.data)])
            ended = time.perf_counter()
            if index >= _WARM_UP:
                own.append(1000 * (between - started))
                legacy.append(1000 * (ended - between))
    memory = {
        **inspector.memory_mb,
        "total_mb": sum(inspector.memory_mb.values()),
        "legacy_total_mb": legacy_bytes / 1e6,
    }
    latency = {"p50": _percentile(own, 50), "p95": _percentile(own, 95)}
    latency |= {"legacy_p50": _percentile(legacy, 50), "legacy_p95": _percentile(legacy, 95)}
    cost = {"memory": memory, "latency_ms": latency, "num_images": len(own)}
    write_json(layout.cost, cost)
    return cost


def test_paths(class_name: str, layout: Layout) -> list[Path]:
    manifest = read_manifest([layout.manifest(class_name)]).sort_values("image_id")
    return [layout.root / str(path) for path in manifest.loc[manifest["split"] == Split.TEST, "path"]]


def _percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share))
