"""The texts of the report: numbers with their units, and the sentences at its top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.gates import GateCheck
from shadowline.evaluation.summary import Summary
from shadowline.report.evaluation_data import ClassContents, Contents

SHIFT_GOOD, SHIFT_DEFECTIVE = 1000, 20  # parts of a shift, as an example
THIN = "\u202f"  # narrow no-break space between a number and its unit
NOTHING = "–"
ACRONYMS = {"auroc": "AUROC", "fpr": "FPR", "fnr": "FNR", "aupro": "AUPRO", "mb": "(MB)", "ms": "(ms)"}


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits after the point, with a true minus; a dash for what was not measured."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", "−").replace(",", THIN)


def percent(value: float | None, digits: int = 1) -> str:
    """A share 0…1 as a percentage, without a trailing `.0`."""
    if value is None:
        return NOTHING
    return f"{100.0 * value:.{digits}f}".removesuffix("." + "0" * digits).replace("-", "−") + f"{THIN}%"


def unit(value: float | None, name: str) -> str:
    """A number with its unit, as few digits as are of use: 0.42 s, 7.1 ms, 184 MB."""
    return NOTHING if value is None else f"{number(value, _digits(value))}{THIN}{name}"


def duration(seconds: float | None) -> str:
    if seconds is None or seconds < 90:
        return unit(seconds, "s")
    return f"{seconds / 60:.1f}{THIN}min" if seconds < 5400 else f"{seconds / 3600:.1f}{THIN}h"


def _digits(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 1 else 2


def of_check(check: GateCheck, value: float | None) -> str:
    """A check's measured value or bound, in the unit that its name ends in."""
    for ending, name in (("memory", "MB"), ("_mb", "MB"), ("latency", "ms"), ("_ms", "ms")):
        if check.name.endswith(ending):
            return unit(value, name)
    return number(value)


def label_text(identifier: str) -> str:
    """`max_mean_auroc` → `max mean AUROC`."""
    return " ".join(ACRONYMS.get(part, part) for part in identifier.split("_") if part)


def join_words(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def headline(summary: Summary) -> str:
    """The verdict in one sentence."""
    checks = summary.verdict.checks
    failed = [check for check in checks if not check.passed]
    if summary.verdict.passed:
        deciding = sum(not check.advisory for check in checks)
        start = "The new model may start working in the shadow of the single-class models on the line"
        return f"{start}: all {deciding} deciding checks passed.{_advice(failed, summary.classes)}"
    if not failed:
        return "The new model must not go further: the verdict is negative, although no single check is."
    subjects = list(dict.fromkeys(_subject(check, summary.classes) for check in failed))
    where = join_words(subjects) if len(subjects) <= 3 else f"{len(subjects)} places"
    return f"The new model must not go further yet: {len(failed)} of {len(checks)} checks failed, for {where}."


def _advice(failed: Sequence[GateCheck], classes: Sequence[str]) -> str:
    """What failed among the checks that only advise, worst known first."""
    if not failed:
        return ""
    named = [f"{label_text(check.name)} of {_subject(check, classes)}" for check in failed]
    return f" Not good enough, but only advice: {join_words(named)}."


def _subject(check: GateCheck, classes: Sequence[str]) -> str:
    return check.subject if check.subject in classes else "the model as a whole"


def headline_numbers(contents: Contents) -> str:
    """The measured values behind the headline, for someone who does not know what an AUROC is."""
    summary = contents.summary
    sentences = []
    if (mean := summary.means.get("auroc")) is not None:
        legacy = summary.means.get("legacy_auroc")
        beside = f" (the single-class baseline, PatchCore: {100 * legacy:.1f})" if legacy is not None else ""
        sentences.append(
            "Shown one good and one defective part, it points at the defective one "
            f"{100 * mean:.1f} times out of 100{beside}."
        )
    totals = Totals.of(contents.classes)
    sentences.append(
        f"On {totals.normal + totals.anomalous} test images it stopped {totals.false_alarms} of "
        f"{plural(totals.normal, 'good part')} and let {totals.misses} of "
        f"{plural(totals.anomalous, 'defective part')} pass."
    )
    if totals.fpr is not None and totals.fnr is not None:
        stopped, passed = SHIFT_GOOD * totals.fpr, SHIFT_DEFECTIVE * totals.fnr
        sentences.append(
            f"A shift of {SHIFT_GOOD} good and {SHIFT_DEFECTIVE} defective parts like these would see about "
            f"{stopped:.0f} good parts stopped and {passed:.0f} defective ones pass."
        )
    return " ".join(sentences)


def costs(summary: Summary) -> str:
    """What the model needs beside what the single-class baselines need; says so where neither was measured."""
    p95, legacy_p95 = summary.latency_ms.get("p95"), summary.latency_ms.get("legacy_p95")
    idle_p95 = summary.latency_ms.get("idle_p95")
    sentences = []
    if memory := summary.memory:
        beside = f"; the single-class baselines need {unit(memory.legacy_total_mb, 'MB')} together"
        sentences.append(f"The new model needs {unit(memory.total_mb, 'MB')} for all classes{beside}.")
    if p95 is not None:
        beside = f"; a single-class baseline needs {unit(legacy_p95, 'ms')}" if legacy_p95 is not None else ""
        sentences.append(f"It answers 95 of 100 images within {unit(p95, 'ms')}{beside}.")
        if idle_p95 is not None:
            sentences.append(f"On an idle machine it needs {unit(idle_p95, 'ms')}, and that is what the gate judges.")
    return " ".join(sentences) or "Neither memory nor latency was measured."


@dataclass(frozen=True)
class Totals:
    """Decisions over all classes."""

    normal: int
    anomalous: int
    false_alarms: int
    misses: int

    @classmethod
    def of(cls, classes: Iterable[ClassContents]) -> Totals:
        metrics = [each.metrics for each in classes]
        return cls(
            normal=sum(metric.num_test_normal for metric in metrics),
            anomalous=sum(each.num_test_anomalous for each in metrics),
            false_alarms=sum(each.decisions.false_alarms for each in metrics),
            misses=sum(each.decisions.misses for each in metrics),
        )

    @property
    def fpr(self) -> float | None:
        return self.false_alarms / self.normal if self.normal else None

    @property
    def fnr(self) -> float | None:
        return self.misses / self.anomalous if self.anomalous else None


def promise(metrics: ClassMetrics, confidence: float) -> str:
    """The promised false-positive rate beside the observed rate, and whether chance alone explains the gap."""
    promised, seen = metrics.decisions.promised_fpr, metrics.decisions.false_alarms
    if not metrics.num_test_normal:
        return "The promised and the seen false-alarm rate cannot be compared: the test split has no good part."
    interval = binomtest(seen, metrics.num_test_normal).proportion_ci(confidence_level=confidence, method="wilson")
    target = metrics.decisions.target_fpr
    less = f" ({percent(target)} was asked for, and takes more calibrating images)" if target < promised else ""
    text = (
        f"Promised: at most {percent(promised)} false alarms{less}. Seen: {seen} on "
        f"{plural(metrics.num_test_normal, 'good test part')}, {percent(seen / metrics.num_test_normal)} "
        f"({percent(confidence, 0)} interval {percent(interval.low)} to {percent(interval.high)})."
    )
    if interval.low > promised:
        return (
            f"{text} Chance alone hardly explains that: the good parts of the test look different from those "
            "of the calibration."
        )
    return f"{text} The promise holds as far as this many parts can tell."
