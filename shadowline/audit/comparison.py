"""Compares a registered version with its reproduction.

    items = compare_step(recorded, reproduced, archived)            # output by output, by the hashes of the two locks
    metrics = compare_metrics(logged_summary, reproduced_summary)   # number by number
    ReproductionResult(…).finding                               # identical | within tolerance | different

Hashes are strict. Another processor or library rounds the last bits differently, and then no file that holds weights
has the same hash: only where the environment is known to differ do the metrics decide instead of the files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

METRIC_TOLERANCE = 0.001  # an AUROC moves by this much when one pair of images in a thousand changes its order
MEASURED = frozenset({"data/cost.json", "data/summary.json", "data/validation/docs"})  # hold times or memory
_MEASURED_METRICS = ("latency_ms.", "latency_measurement.", "memory.", "checks.latency_ms.", "checks.memory_mb.")


class Finding(StrEnum):
    """The result of comparing one item."""

    IDENTICAL = "identical"  # byte for byte, or the same number
    WITHIN = "within tolerance"  # a number, by METRIC_TOLERANCE
    DIFFERENT = "different"
    MISSING = "missing"  # on record, and no longer there
    ANEW = "measured anew, not compared"  # times, memory, and pages that name the time of their writing
    ARCHIVED = "as archived"  # not reproduced, but taken from the remote, and verified by its hash
    UNKEPT = "not kept"  # by design; only a run makes it


BAD = frozenset({Finding.DIFFERENT, Finding.MISSING})


@dataclass(frozen=True)
class Item:
    """One thing that was compared: an output, a file, a metric."""

    subject: str
    finding: Finding
    note: str = ""
    inherited: bool = False  # different because its inputs are


@dataclass(frozen=True)
class Output:
    """One output of a stage, as in a dvc.lock."""

    path: str
    md5: str  # of DVC; ends with .dir for a folder
    kept: bool  # DVC keeps its bytes


@dataclass(frozen=True)
class StageRecord:
    """One stage of dvc.yaml for one class, as in a dvc.lock."""

    name: str  # import@bolt
    deps: Mapping[str, str]  # path → md5
    outs: tuple[Output, ...]

    @property
    def stage(self) -> str:
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class StageOutcome:
    """One stage, all its classes together."""

    name: str
    items: tuple[Item, ...]
    seconds: float = 0.0  # of computing it; 0: it was not computed
    failure: str = ""  # why it did not finish

    @property
    def finding(self) -> Finding:
        if self.failure:
            return Finding.DIFFERENT
        return worst(self.items)

    @property
    def inherited(self) -> bool:
        """Whether it differs, and only because its inputs do."""
        bad = [item for item in self.items if item.finding in BAD]
        return bool(bad) and not self.failure and all(item.inherited for item in bad)


@dataclass(frozen=True)
class ReproductionResult:
    """The result of an attempt to reproduce a version."""

    version: str  # models:/inspector/3
    git_commit: str
    verify_only: bool
    environment: tuple[str, ...]  # what differs from when the version was made
    environment_known: bool  # False: the environment of the version is not on record
    stages: tuple[StageOutcome, ...]
    package: tuple[Item, ...]  # files of the reproduced package, against the registered ones
    artifact: tuple[Item, ...]  # what the registry holds, against what the remote and the records hold
    metrics: tuple[Item, ...]
    started_at: str  # UTC
    seconds: float
    metric_tolerance: float = field(default=METRIC_TOLERANCE)

    @property
    def finding(self) -> Finding:
        """The finding on everything together: identical, within tolerance or different."""
        strict = worst((*self.artifact, *self.metrics, *self._failures))
        if strict in BAD:
            return Finding.DIFFERENT
        reproduced = [item for stage in self.stages for item in stage.items] + list(self.package)
        if worst(reproduced) not in BAD:
            return strict if strict is Finding.WITHIN else Finding.IDENTICAL
        lost = any(item.finding is Finding.MISSING for item in reproduced)
        elsewhere = self.environment_known and bool(self.environment)
        return Finding.WITHIN if elsewhere and not (lost or self.verify_only) else Finding.DIFFERENT

    @property
    def first_divergence(self) -> str | None:
        """The first stage that differs although its inputs do not; None where no stage does."""
        return next((stage.name for stage in self.stages if stage.finding in BAD and not stage.inherited), None)

    @property
    def num_items(self) -> dict[str, int]:
        """Finding → number of its items; findings without items are left out."""
        findings = [item.finding for item in self._items()]
        return {str(finding): findings.count(finding) for finding in Finding if finding in findings}

    def to_dict(self) -> dict[str, Any]:
        stages = [{**asdict(stage), "finding": stage.finding, "inherited": stage.inherited} for stage in self.stages]
        more = {"finding": self.finding, "first_divergence": self.first_divergence, "num_items": self.num_items}
        return {**asdict(self), "stages": stages, **more}

    @property
    def _failures(self) -> tuple[Item, ...]:
        return tuple(Item(stage.name, Finding.DIFFERENT, stage.failure) for stage in self.stages if stage.failure)

    def _items(self) -> Iterator[Item]:
        for stage in self.stages:
            yield from stage.items
        yield from (*self.package, *self.artifact, *self.metrics)


def worst(items: Iterable[Item]) -> Finding:
    """The gravest finding of all items; identical for no items."""
    findings = {item.finding for item in items}
    for finding in (Finding.MISSING, Finding.DIFFERENT, Finding.WITHIN, Finding.IDENTICAL, Finding.ARCHIVED):
        if finding in findings:
            return finding
    return next(iter(findings), Finding.IDENTICAL)


def compare_step(recorded: StageRecord, reproduced: StageRecord, archived: str = "") -> tuple[Item, ...]:
    """Output by output; `archived` says why the step was not reproduced."""
    moved = sorted(
        path for path, md5 in recorded.deps.items() if path not in MEASURED and reproduced.deps.get(path) != md5
    )
    new = {out.path: out.md5 for out in reproduced.outs}
    return tuple(_compare_output(out, new.get(out.path), moved, archived) for out in recorded.outs)


def _compare_output(out: Output, reproduced: str | None, moved: Sequence[str], archived: str) -> Item:
    if archived:
        return Item(out.path, Finding.ARCHIVED if out.kept else Finding.UNKEPT, archived)
    if out.path in MEASURED:
        return Item(out.path, Finding.ANEW)
    if reproduced == out.md5:
        return Item(out.path, Finding.IDENTICAL)
    note = f"md5 {reproduced or 'none'}, on record {out.md5}"
    inherited = f"inherited: {', '.join(moved)} {'differs' if len(moved) == 1 else 'differ'}; " if moved else ""
    return Item(out.path, Finding.DIFFERENT, inherited + note, inherited=bool(moved))


def compare_files(recorded: Mapping[str, str], found: Mapping[str, str], where: str) -> tuple[Item, ...]:
    """Compare recorded hashes with those found, both by path; `where` names the place of the found files in notes."""
    items = []
    for path in sorted({*recorded, *found}):
        if path not in found:
            items.append(Item(path, Finding.MISSING, f"not in {where}"))
        elif path not in recorded:
            items.append(Item(path, Finding.DIFFERENT, f"in {where}, and not on record"))
        elif recorded[path] != found[path]:
            note = f"hash {found[path][:12]}… in {where}, on record {recorded[path][:12]}…"
            items.append(Item(path, Finding.DIFFERENT, note))
        else:
            items.append(Item(path, Finding.IDENTICAL))
    return tuple(items)


def compare_metrics(logged: Mapping[str, Any], reproduced: Mapping[str, Any]) -> tuple[Item, ...]:
    """Every value of two summaries (data/summary.json); numbers may be METRIC_TOLERANCE apart."""
    before, after = flatten(logged), flatten(reproduced)
    return tuple(_compare_value(name, before.get(name), after.get(name)) for name in sorted({*before, *after}))


def _compare_value(name: str, before: Any, after: Any) -> Item:
    if name.startswith(_MEASURED_METRICS):
        return Item(name, Finding.ANEW, f"{after}, on record {before}")
    if before == after:
        return Item(name, Finding.IDENTICAL)
    note = f"{after}, on record {before}"
    return Item(name, Finding.WITHIN if _is_near(before, after) else Finding.DIFFERENT, note)


def _is_near(before: Any, after: Any) -> bool:
    """At most METRIC_TOLERANCE apart, relative where they are above 1 (robust sigmas); a count has no tolerance."""
    if not (isinstance(before, float) and isinstance(after, float)):
        return False
    return math.isclose(before, after, rel_tol=METRIC_TOLERANCE, abs_tol=METRIC_TOLERANCE)


def flatten(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name → value; of each gate what it measured, its bound and whether it passed, not its text.

    The verdict itself is left out: it follows from the gates, and at another time from other measured times.
    """
    flat = dict(_leaves({name: value for name, value in summary.items() if name != "verdict"}))
    for check in summary["verdict"]["checks"]:
        name = ".".join(part for part in ("checks", check["name"], check["subject"]) if part)
        flat |= {f"{name}.{part}": check[part] for part in ("measured", "bound", "passed")}
    return flat


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{prefix}.{number}")
    else:
        yield prefix, value
