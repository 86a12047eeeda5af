"""Gates: named checks on measured evidence, and the verdict that they add up to.

    verdict = evaluate_gates(evidence, params.gates)
    verdict.passed, verdict.reasons

A gate fails closed: what is missing or not finite is a failed check with its own reason. The gates of `evaluate_gates`:

    mean_auroc   mean image AUROC of the expected classes   > min_mean_auroc
    mean_drop    mean of their drops                        < max_mean_drop
    memory_mb    encoder + decoder + banks, 10^6 bytes      < max_memory_mb
    latency_ms   p95 per image on an idle machine           < max_latency_ms
    drop         legacy AUROC − AUROC, each class           < max_drop
    separation   robust sigmas, each class                  ≥ min_separation
    flip_share   decisions that views turn over, each class ≤ max_flip_share
    saturation   share of identical scores, each class      ≤ max_saturation
    miss_rate    missed defects at the threshold, each class  ≤ max_miss_rate
    false_alarms normals stopped, at least, each class      ≤ the class's target_fpr

`false_alarms` is the lower end of an interval: chance alone must not fail a class, only a proof that it stops more good
parts than it was calibrated for.

The first five are policy and strict: "> 97 %" does not pass at 97 %. They compare as measured, without tolerance.

Other work on the machine only ever adds time. So a latency that was measured while other work ran passes where even
its p95 on the clock is below the bound; otherwise it counts as not measured (shadowline/evaluation/latency.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from scipy.stats import binomtest

from shadowline.core.params import GateParams

Direction = Literal["min", "max"]
LATENCY = "latency_ms"
REMEASURE = "shadowline retrain --remeasure"
GATES = (
    "mean_auroc", "mean_drop", "memory_mb", LATENCY, "drop", "separation", "flip_share", "saturation", "miss_rate",
    "false_alarms",
)  # fmt: skip


@dataclass(frozen=True)
class GateCheck:
    """One measurement against one bound."""

    name: str
    passed: bool
    measured: float | None  # None where nothing finite was measured
    bound: int | float  # written as it was given: an integer stays one
    direction: Direction  # the bound is the least ("min") or the most ("max")
    subject: str  # class name, or "" for all together
    reason: str  # a sentence with the numbers, whether passed or failed
    advisory: bool = False  # reported, but not counted in the verdict


@dataclass(frozen=True)
class Verdict:
    """The result of the checks; raises ValueError where `passed` contradicts them."""

    passed: bool
    checks: tuple[GateCheck, ...]

    def __post_init__(self) -> None:
        if self.passed != _all_passed(self.checks):
            raise ValueError(f"verdict: passed={self.passed} contradicts its {len(self.checks)} checks; use Verdict.of")

    @classmethod
    def of(cls, checks: Iterable[GateCheck]) -> Verdict:
        """Passed when every check is, and there is at least one."""
        kept = tuple(checks)
        return cls(_all_passed(kept), kept)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of the failed checks, in order, also of advisory ones."""
        return tuple(check.reason for check in self.checks if not check.passed)

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Names of the failed gates that decide, each once, sorted."""
        return tuple(sorted({check.name for check in self.checks if not check.passed and not check.advisory}))

    @property
    def failed_on_latency_only(self) -> bool:
        """Whether it would have passed on a faster or a quieter machine: measuring again may change it."""
        return self.failed_gates == (LATENCY,)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; no NaN or infinity, since measurements that are not finite are None."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`; raises ValueError for a verdict that contradicts its checks."""
        return cls(data["passed"], tuple(GateCheck(**check) for check in data["checks"]))


@dataclass(frozen=True)
class ClassEvidence:
    """What was measured for one class; None where it was not. Raises ValueError for a share outside 0…1."""

    class_name: str
    auroc: float | None  # image AUROC of the candidate
    legacy_auroc: float | None  # image AUROC of the class's own single-class model, on the same images
    separation: float | None  # robust sigmas
    flip_share: float | None  # of decisions, under the robustness views
    saturation: float | None  # share of identical scores
    miss_rate: float | None  # of the anomalous test images
    false_alarms: int | None  # normal test images that raise an alarm
    num_normal: int  # normal test images
    target_fpr: float | None  # of the class's calibration

    def __post_init__(self) -> None:
        for name in ("auroc", "legacy_auroc", "flip_share", "saturation", "miss_rate"):
            value: float | None = getattr(self, name)
            if value is not None and math.isfinite(value) and not 0 <= value <= 1:
                raise ValueError(f"class '{self.class_name}': {name} {value:g}, need a share in 0…1, not per cent")

    @property
    def drop(self) -> float | None:
        """How much worse than the legacy model, in AUROC; negative where better."""
        return None if self.auroc is None or self.legacy_auroc is None else self.legacy_auroc - self.auroc


@dataclass(frozen=True)
class GateEvidence:
    """All that `evaluate_gates` looks at; raises ValueError for a class given twice."""

    expected: tuple[str, ...]  # names of the classes that the candidate must serve
    classes: tuple[ClassEvidence, ...]
    memory_mb: float | None  # encoder + decoder + banks, 10^6 bytes
    latency_ms: float | None  # p95 per image, on an idle machine
    raw_latency_ms: float | None = None  # p95 per image on the clock, whatever else ran
    latency_reliable: bool = True  # False: other work ran all the time, so that latency_ms says little

    def __post_init__(self) -> None:
        names = [item.class_name for item in self.classes]
        if len(set(names)) < len(names) or len(set(self.expected)) < len(self.expected):
            raise ValueError(
                f"evidence: a class occurs twice in {names} or {list(self.expected)}; give each class once"
            )


def check_at_least(name: str, measured: float | None, bound: float, subject: str = "") -> GateCheck:
    """measured ≥ bound."""
    return _check(name, measured, bound, "min", subject, strict=False)


def check_at_most(name: str, measured: float | None, bound: float, subject: str = "") -> GateCheck:
    """measured ≤ bound."""
    return _check(name, measured, bound, "max", subject, strict=False)


def check_above(name: str, measured: float | None, bound: float, subject: str = "") -> GateCheck:
    """measured > bound."""
    return _check(name, measured, bound, "min", subject, strict=True)


def check_below(name: str, measured: float | None, bound: float, subject: str = "") -> GateCheck:
    """measured < bound."""
    return _check(name, measured, bound, "max", subject, strict=True)


def evaluate_gates(evidence: GateEvidence, gates: GateParams) -> Verdict:
    """All gates: first those of all classes together, then class by class, the worst first.

    Worst is: most failed checks, then lowest AUROC. An expected class without evidence fails, and with it every mean;
    so does evidence for a class that is not expected, and a list of expected classes that is empty. Gates that
    `gates.advisory` names are reported and do not decide; raises ValueError for a name that is no gate.
    """
    unknown = sorted(set(gates.advisory) - set(GATES))
    if unknown:
        raise ValueError(f"gates.advisory: {unknown} are no gates; the gates are {list(GATES)}")
    by_name = {item.class_name: item for item in evidence.classes}
    expected = [by_name.get(name) for name in evidence.expected]
    overall = (
        check_at_least("classes", len(expected), 1),
        check_above("mean_auroc", _mean([item.auroc if item else None for item in expected]), gates.min_mean_auroc),
        check_below("mean_drop", _mean([item.drop if item else None for item in expected]), gates.max_mean_drop),
        check_below("memory_mb", evidence.memory_mb, gates.max_memory_mb),
        _check_latency(evidence, gates.max_latency_ms),
    )
    names = dict.fromkeys((*evidence.expected, *by_name))
    per_class = [_judge_class(name, by_name.get(name), name in evidence.expected, gates) for name in names]
    per_class.sort(key=lambda checks: _badness(checks, by_name))
    checks = (*overall, *(check for checks in per_class for check in checks))
    return Verdict.of(replace(check, advisory=check.name in gates.advisory) for check in checks)


def _check_latency(evidence: GateEvidence, bound: float) -> GateCheck:
    raw = evidence.raw_latency_ms
    if evidence.latency_reliable:
        check = check_below(LATENCY, evidence.latency_ms, bound)
        return check if raw is None else replace(check, reason=f"{check.reason} ({raw:.6g} on the clock)")
    check = check_below(LATENCY, raw, bound)
    if check.passed:
        return replace(check, reason=f"{check.reason}, measured while other work ran on this machine")
    reason = (
        f"{LATENCY}: not measured reliably, other work ran on this machine "
        f"({'nothing' if raw is None else f'{raw:.6g}'} on the clock, must be below {bound:.6g}); "
        f"run `{REMEASURE}` when it is quiet"
    )
    return GateCheck(LATENCY, False, None, bound, "max", "", reason)


def _judge_class(name: str, item: ClassEvidence | None, is_expected: bool, gates: GateParams) -> tuple[GateCheck, ...]:
    if item is None:
        return (_failed("evidence", f"evidence of {name}: not measured, though the class is expected", name),)
    if not is_expected:
        return (_failed("evidence", f"evidence of {name}: the class is not among the expected ones", name),)
    return (
        check_below("drop", item.drop, gates.max_drop, name),
        check_at_least("separation", item.separation, gates.min_separation, name),
        check_at_most("flip_share", item.flip_share, gates.max_flip_share, name),
        check_at_most("saturation", item.saturation, gates.max_saturation, name),
        check_at_most("miss_rate", item.miss_rate, gates.max_miss_rate, name),
        _check_promise(item, gates.promise_confidence),
    )


def _check_promise(item: ClassEvidence, confidence: float) -> GateCheck:
    """Whether the normal test images prove that the class stops more good parts than its target."""
    if item.false_alarms is None or item.target_fpr is None or not item.num_normal:
        return _check("false_alarms", None, item.target_fpr or 0.0, "max", item.class_name, strict=False)
    test = binomtest(item.false_alarms, item.num_normal, alternative="greater")
    least = float(test.proportion_ci(confidence, method="wilson").low)
    seen = f"{item.false_alarms} of {item.num_normal} good images stopped"
    check = check_at_most("false_alarms", least, item.target_fpr, item.class_name)
    return replace(check, reason=f"{check.reason} ({seen}; measured is what {confidence:g} confidence proves)")


def _badness(checks: Sequence[GateCheck], by_name: Mapping[str, ClassEvidence]) -> tuple[bool, int, float, str]:
    """Sort key: no evidence at all, then most failures, then the lowest AUROC, then the name."""
    name = checks[0].subject
    auroc = by_name[name].auroc if name in by_name else None
    measured = -math.inf if auroc is None or math.isnan(auroc) else auroc
    return checks[0].name != "evidence", -sum(not check.passed for check in checks), measured, name


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where any value is missing, since a mean over the others would hide that."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None


def _check(
    name: str, measured: float | None, bound: float, direction: Direction, subject: str, *, strict: bool
) -> GateCheck:
    label = f"{name} of {subject}" if subject else name
    if measured is None or not math.isfinite(measured):
        reason = f"{label}: not measured" if measured is None else f"{label}: not finite ({measured})"
        return GateCheck(name, False, None, bound, direction, subject, reason)
    value, limit = float(measured), float(bound)
    beyond = value > limit if direction == "min" else value < limit
    relation = {("min", True): "above", ("min", False): "at least", ("max", True): "below", ("max", False): "at most"}
    reason = f"{label}: {value:.6g}, must be {relation[direction, strict]} {limit:.6g}"
    return GateCheck(name, beyond or (value == limit and not strict), value, bound, direction, subject, reason)


def _failed(name: str, reason: str, subject: str) -> GateCheck:
    return GateCheck(name, False, None, 1.0, "min", subject, reason)


def _all_passed(checks: Sequence[GateCheck]) -> bool:
    deciding = [check for check in checks if not check.advisory]
    return bool(deciding) and all(check.passed for check in deciding)
