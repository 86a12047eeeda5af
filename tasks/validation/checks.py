"""Validate the manifest with Great Expectations.

    python -m tasks.validation

Writes `<class>.json` and `overall.json` below `data/validation/checks/` and static HTML to `data/validation/docs/`.
Exit code 0: fine, or advisory failures only; 1: a critical failure; 2: unusable input. A class's file depends on
that class's slice and masks alone, so a new class leaves the others' files as they are, byte for byte.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pandas as pd

from shadowline.core.layout import Layout
from shadowline.core.params import Params, Severity, SeverityParams, load_params
from shadowline.data.images import open_within
from shadowline.data.manifest import empty_manifest, read_manifest, source_names
from shadowline.data.validation_results import Balance, CheckResult, ClassChecks, FailedRow, OverallChecks
from tasks.validation import data_docs
from tasks.validation.data_docs import user_name
from tasks.validation.expectations import (
    DataCheck,
    Expectation,
    balance,
    class_checks,
    class_table,
    overall_checks,
    overall_table,
)

OVERALL = "overall"  # the suite that crosses classes, and its file
MAX_FAILED_ROWS = 20  # rows that are written and printed for one check; all are counted
ROW_COLUMNS = [
    "image_id",
    "path",
    "home",
    "source",
]  # reported of a failed row, beside its value


@dataclass(frozen=True)
class Suite:
    """The checks of one class, or of all together, and the table that they look at."""

    table: pd.DataFrame
    checks: tuple[DataCheck, ...]


@dataclass(frozen=True)
class ValidationOutcome:
    passed: bool  # no critical failure
    critical_failures: tuple[str, ...]  # <class>.<check>, or overall.<check>
    advisory_failures: tuple[str, ...]
    docs_path: Path
    lines: tuple[str, ...]  # one for each failed row, or failed check without rows


def validate(params: Params, layout: Layout) -> ValidationOutcome:
    """Judge all manifest slices of `params.classes` and write the results below `layout.validation`.

    A class without a slice is judged as one without images. Raises ValueError for slices that cannot be read; a failed
    check is an outcome.
    """
    return _validate(_read_slices(params, layout), params, layout)


def _read_slices(params: Params, layout: Layout) -> dict[str, pd.DataFrame]:
    if OVERALL in params.classes:
        raise ValueError(f"class '{OVERALL}': its results would overwrite the summary; rename the class")
    paths = {name: layout.manifest(name) for name in params.classes}
    return {name: read_manifest([path]) if path.is_file() else empty_manifest() for name, path in paths.items()}


def _validate(slices: Mapping[str, pd.DataFrame], params: Params, layout: Layout) -> ValidationOutcome:
    docs = layout.validation / "docs"
    tables = {name: class_table(rows, layout.root, params.data) for name, rows in slices.items()}
    suites = {name: Suite(table, class_checks(table, name, params.validation)) for name, table in tables.items()}
    suites[OVERALL] = Suite(overall_table(slices), overall_checks(slices, params.validation))
    results = _run(suites, params.validation.severity, docs)
    sources = {path: name for rows in slices.values() for path, name in source_names(rows).items()}
    data_docs.settle(docs, results, sources, lambda path: open_within(layout.root / path, params.data))
    outcome = ValidationOutcome(
        passed=not _failures(results, Severity.CRITICAL),
        critical_failures=_failures(results, Severity.CRITICAL),
        advisory_failures=_failures(results, Severity.ADVISORY),
        docs_path=docs / "index.html",
        lines=tuple(
            line for name, checks in results.items() for check in checks for line in _lines(name, check, sources)
        ),
    )
    for name in slices:
        failed = _failures({name: results[name]}, Severity.CRITICAL)
        class_result = ClassChecks(class_name=name, passed=not failed, checks=results[name])
        class_result.write(layout.class_checks(name))
    OverallChecks(
        passed=outcome.passed,
        critical_failures=outcome.critical_failures,
        advisory_failures=outcome.advisory_failures,
        balance=_balance(slices),
        checks=results[OVERALL],
    ).write(layout.overall_checks)
    return outcome


def _run(suites: Mapping[str, Suite], severities: SeverityParams, docs: Path) -> dict[str, tuple[CheckResult, ...]]:
    """One checkpoint per suite in one in-memory context, then one build of the Data Docs."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when the package is imported
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    context = gx.get_context(mode="ephemeral", project_config=_docs_config(docs))
    source = context.data_sources.add_pandas("manifest")
    run_id = RunIdentifier(run_name="validation")
    results = {}
    for name, suite in suites.items():
        checkpoint = _checkpoint(context, source, name, suite.checks, severities)
        run = checkpoint.run(batch_parameters={"dataframe": suite.table}, run_id=run_id)
        (validation,) = [result.to_json_dict() for result in run.run_results.values()]
        results[name] = tuple(_check_result(check, severities, validation["results"]) for check in suite.checks)
    shutil.rmtree(docs, ignore_errors=True)
    context.build_data_docs()
    return results


def _checkpoint(context: Any, source: Any, name: str, checks: Iterable[DataCheck], severities: SeverityParams) -> Any:
    import great_expectations as gx

    expectations = [_expectation(clause, check, severities) for check in checks for clause in check.clauses]
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all rows")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    result_format = {"result_format": "COMPLETE", "unexpected_index_column_names": ROW_COLUMNS}
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], result_format=result_format)
    return context.checkpoints.add(checkpoint)


def _expectation(clause: Expectation, check: DataCheck, severities: SeverityParams) -> Any:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    conditions = [Column(column).is_in(values) for column, values in clause.where.items()]
    return getattr(gxe, clause.kind)(
        **clause.arguments,
        **({"row_condition": reduce(and_, conditions)} if conditions else {}),
        severity="critical" if _severity(check, severities) is Severity.CRITICAL else "warning",
        meta={"check": check.name},
        notes=f"{check.name}: {check.expected}",
    )


def _severity(check: DataCheck, severities: SeverityParams) -> Severity:
    severity: Severity = Severity.CRITICAL if check.always_critical else getattr(severities, check.name)
    return severity


def _check_result(check: DataCheck, severities: SeverityParams, clauses: Iterable[dict[str, Any]]) -> CheckResult:
    """Join what Great Expectations found for the clauses of one check; a row that fails two of them counts once."""
    own = [clause for clause in clauses if clause["expectation_config"]["meta"]["check"] == check.name]
    rows: dict[tuple[str, str], FailedRow] = {}
    for clause in own:
        for row in clause["result"].get("unexpected_index_list") or ():
            rows.setdefault((row["image_id"], row["path"]), _failed_row(row, clause))
    return CheckResult(
        name=check.name,
        severity=_severity(check, severities),
        passed=all(clause["success"] for clause in own),
        observed=_observed(own, len(rows)),
        expected=check.expected,
        way_out=check.way_out,
        num_failed_rows=len(rows),
        failed_rows=tuple(rows.values())[:MAX_FAILED_ROWS],
    )


def _failed_row(row: Mapping[str, Any], clause: Mapping[str, Any]) -> FailedRow:
    column = clause["expectation_config"]["kwargs"]["column"]
    value = row["home" if column == "image_id" else column]
    if isinstance(value, float):  # NumPy's too
        value = float(value) if math.isfinite(value) else str(value)
    return FailedRow(row["image_id"], row["path"], value)


def _observed(clauses: Sequence[Mapping[str, Any]], num_failed: int) -> str:
    """The aggregate that was measured, or how many rows are as expected."""
    results = [clause["result"] for clause in clauses]
    if any(not result or result.get("observed_value", 0) is None for result in results):
        return "nothing to measure"
    aggregates = [result["observed_value"] for result in results if "observed_value" in result]
    if aggregates:
        return ", ".join(f"{value:g}" for value in aggregates)
    num_rows = max(result["element_count"] for result in results)
    return f"{num_rows - num_failed} of {num_rows} rows as expected"


def _failures(results: Mapping[str, Iterable[CheckResult]], severity: Severity) -> tuple[str, ...]:
    return tuple(
        f"{name}.{check.name}"
        for name, checks in results.items()
        for check in checks
        if not check.passed and check.severity is severity
    )


def _all_lines(results: Mapping[str, Iterable[CheckResult]], sources: Mapping[str, str]) -> Iterator[str]:
    return (line for name, checks in results.items() for check in checks for line in _lines(name, check, sources))


def _lines(name: str, check: CheckResult, sources: Mapping[str, str]) -> Iterator[str]:
    """One line for each failed row: file, value, bound and the way out; one for a failure that has no rows."""
    subject = "all classes" if name == OVERALL else f"class '{name}'"
    bound = f"expected {check.expected}; {check.way_out}"
    if not check.passed and not check.failed_rows:
        yield f"{check.severity}: {subject}: {check.name}: {check.observed}, {bound}"
    for row in check.failed_rows:
        value = f"{row.value:.4g}" if isinstance(row.value, float) else row.value or "no value"
        yield f"{check.severity}: {user_name(row.path, sources)}: {check.name}: {value}, {bound}"
    if check.num_failed_rows > len(check.failed_rows):
        more = check.num_failed_rows - len(check.failed_rows)
        yield f"{check.severity}: {subject}: {check.name}: {more} more rows, {bound}"


def _balance(slices: Mapping[str, pd.DataFrame]) -> Balance:
    counts = balance(slices)
    return Balance(dict(counts.train_normals), counts.ratio if math.isfinite(counts.ratio) else None)


def _docs_config(docs: Path) -> Any:
    """A project that keeps all but its Data Docs in memory; without a given site it would make one of its own."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={"validation": site},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )


def main() -> int:
    """Validate the project in the current directory; the exit code is in the module's docstring."""
    layout = Layout()
    try:
        params = load_params(layout.params)
        slices = _read_slices(params, layout)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    outcome = _validate(slices, params, layout)
    for line in outcome.lines:
        print(line)
    verdict = "passed" if outcome.passed else f"failed: {', '.join(outcome.critical_failures)}"
    print(f"validation {verdict}; see {outcome.docs_path}")
    return 0 if outcome.passed else 1
