"""`shadowline stage summary`: all classes together, worst first, judged by the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shadowline.core.atomic_files import read_json, write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.manifest import read_manifest
from shadowline.evaluation.gates import ClassEvidence, Evidence, Verdict, judge


def run(params: Params, layout: Layout, progress: Progress) -> Verdict:
    """Write data/summary.json. A missing evaluation is a failed check, not an error: gates fail closed."""
    found = {name: _read(layout.evaluation(name) / "metrics.json") for name in sorted(params.classes)}
    measured = {name: metrics for name, metrics in found.items() if metrics is not None}
    cost = _read(layout.cost) or {}
    verdict = judge(evidence_of(tuple(sorted(params.classes)), measured, cost), params.gates)
    worst_first = sorted(measured, key=lambda name: (measured[name]["image"]["auroc"]["value"], name))
    summary = {
        "verdict": verdict.to_dict(),
        "classes": worst_first,
        "means": _means(list(measured.values())),
        "memory": cost.get("memory"),
        "latency_ms": _milliseconds(cost),
        "latency_measurement": _measurement(cost),
        "num_images": {name: _counts(layout.manifest(name)) for name in sorted(params.classes)},
    }
    write_json(layout.summary, summary)
    progress.message(f"verdict: {'passed' if verdict.passed else 'not passed'}")
    return verdict


def evidence_of(expected: tuple[str, ...], measured: dict[str, Any], cost: dict[str, Any]) -> Evidence:
    classes = tuple(
        ClassEvidence(
            class_name=name,
            auroc=metrics["image"]["auroc"]["value"],
            legacy_auroc=metrics["components"]["legacy"]["value"],
            separation=metrics["practicality"]["separation"],
            flip_share=metrics["practicality"]["flip_share"],
            saturation=metrics["practicality"]["saturation"],
        )
        for name, metrics in measured.items()
    )
    memory, latency = cost.get("memory") or {}, cost.get("latency") or {}
    return Evidence(
        expected,
        classes,
        memory_mb=memory.get("total_mb"),
        latency_ms=latency.get("idle_p95_ms"),
        raw_latency_ms=latency.get("p95_ms"),
        latency_reliable=bool(latency.get("reliable")),
    )


def _milliseconds(cost: dict[str, Any]) -> dict[str, float]:
    """p50, p95, idle_p95, legacy_p50, legacy_p95: times of single images."""
    latency = cost.get("latency") or {}
    names = ("p50", "p95", "idle_p95", "legacy_p50", "legacy_p95")
    return {name: latency[f"{name}_ms"] for name in names if f"{name}_ms" in latency}


def _measurement(cost: dict[str, Any]) -> dict[str, Any]:
    """How the latency was measured, and whether other work ran in the meantime."""
    names = ("ratio_p95", "reference_idle_ms", "reference_spread", "running_share", "num_timings", "num_attempts")
    latency = cost.get("latency") or {}
    return {name: latency[name] for name in (*names, "reliable") if name in latency}


def _means(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Mean image AUROC over classes, of the model and of what it is compared with."""
    names = {"auroc": "fused", "bank_auroc": "bank", "reconstruction_auroc": "reconstruction", "legacy_auroc": "legacy"}
    if not metrics:
        return {}
    return {
        name: sum(one["components"][part]["value"] for one in metrics) / len(metrics) for name, part in names.items()
    }


def _counts(path: Path) -> dict[str, int]:
    counts = read_manifest([path])["split"].value_counts()
    return {str(split): int(count) for split, count in sorted(counts.items())}


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
