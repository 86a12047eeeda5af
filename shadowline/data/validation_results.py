"""Files below `data/validation/checks/`: what the stage `validate` found, a file per class and one for all."""

from __future__ import annotations

from dataclasses import dataclass

from shadowline.core.artifacts import Artifact
from shadowline.core.params import Severity


@dataclass(frozen=True)
class FailedRow:
    image_id: str
    path: str
    value: str | int | float | None


@dataclass(frozen=True)
class CheckResult:
    """One check's outcome; `observed` and `expected` are texts for people."""

    name: str
    severity: Severity
    passed: bool
    observed: str
    expected: str
    way_out: str
    num_failed_rows: int
    failed_rows: tuple[FailedRow, ...]  # the first of them


@dataclass(frozen=True)
class Balance:
    train_normals: dict[str, int]  # class → images
    ratio: float | None  # largest / smallest; None where a class has none


class ClassChecks(Artifact):
    class_name: str
    passed: bool  # no critical failure
    checks: tuple[CheckResult, ...]


class OverallChecks(Artifact):
    passed: bool  # no critical failure in any file
    critical_failures: tuple[str, ...]  # <class>.<check>, or overall.<check>
    advisory_failures: tuple[str, ...]
    balance: Balance
    checks: tuple[CheckResult, ...]  # those that cross classes
