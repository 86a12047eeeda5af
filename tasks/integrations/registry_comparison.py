"""Compare the model registry with the audit log: its versions, their tags and metrics, and the aliases.

    report = compare_registry(chain)
    report.differences, report.absent

The entry of a registration signs the version's provenance, its verdict and the metrics of its results run; the entry of
a promotion signs which version is champion. Entries from before the metrics were signed are counted as older.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from shadowline.core.settings import Settings
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.audit_log.state import NO_ENTRY, Difference, shown
from shadowline.records.audit_log.statements import Statement, read_statements
from shadowline.records.audit_log.verification import RegistryReport
from shadowline.records.database import reading_any_text
from tasks.integrations.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, STORE_ERRORS, client, is_missing
from tasks.integrations.provenance import first_line

WITNESS_TAG = "audit_entry"  # of a version: NUMBER:HASH of the entry of its registration
PROVENANCE = (  # tags of a version that the entry of its registration repeats, signed
    "fingerprint", "git_commit", "dvc_lock_sha256", "params_hash", "encoder_fingerprint", "encoder_source_sha256",
    "files_sha256", "environment", "verdict", "results_run",
)  # fmt: skip
SIGNED_METRICS = ("test/", "gate/")  # beginnings of their names
NOT_THERE = "none"
_KINDS = (EntryKind.REGISTRATION, EntryKind.LEGACY, EntryKind.PROMOTION, EntryKind.DELETION)


@dataclass
class _Said:
    """The audit log's last statement on each version and model of the registry."""

    registered: dict[str, Statement] = field(default_factory=dict)  # models:/NAME/VERSION → its registration
    legacy: dict[str, Statement] = field(default_factory=dict)  # likewise
    promoted: dict[str, Statement] = field(default_factory=dict)  # name of the model → its last promotion
    last: Statement | None = None  # the last registration of all
    waiting: dict[str, str | None] = field(default_factory=dict)  # name of the model → the version that waits

    @classmethod
    def by(cls, chain: Chain) -> _Said:
        statements = cls()
        with reading_any_text(chain.engine) as connection:
            for statement in read_statements(connection, _KINDS):
                statements.hear(statement)
        return statements

    def hear(self, statement: Statement) -> None:
        if statement.kind == EntryKind.REGISTRATION:
            self.registered[statement.subject] = self.last = statement
            name, version = split_uri(statement.subject)
            if statement.facts.get("verdict") == "passed":
                self.waiting[name] = version
            elif self.waiting.get(name) == version:
                self.waiting[name] = None
        elif statement.kind == EntryKind.LEGACY:
            self.legacy[str(statement.facts.get("version"))] = statement
        elif statement.kind == EntryKind.PROMOTION:
            self.promoted[statement.subject] = statement
        else:  # a legacy model was deleted, with all of its versions
            for version in statement.facts.get("versions", ()):
                self.legacy.pop(f"models:/legacy-{statement.subject}/{version}", None)

    @property
    def names(self) -> set[str]:
        """Names of the models in the audit log."""
        return {split_uri(uri)[0] for uri in (*self.registered, *self.legacy)} | set(self.promoted)


def compare_registry(chain: Chain) -> RegistryReport:
    """Compare the registry with the audit log's last statement on each of its versions."""
    statements = _Said.by(chain)
    if not statements.names:
        return RegistryReport()
    try:
        versions = _versions() if registry_exists() else {}
        differences = tuple(_compare(statements, versions))
    except STORE_ERRORS as error:
        return RegistryReport(problem=first_line(error))
    older = sum("metrics" not in statement.facts for statement in statements.registered.values())
    absent = tuple(_absent(statements, versions))
    return RegistryReport(len({*statements.registered, *statements.legacy}), older, differences, absent)


def registry_exists() -> bool:
    """False where the store is a file that does not exist yet; a query would create it."""
    uri = Settings().tracking_uri
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def signed_metrics(tracking: mlflow.MlflowClient, run_id: str | None) -> dict[str, float | str]:
    """The metrics of a results run that its registration signs; empty for a deleted run. NaN and ±inf are text."""
    try:
        metrics = tracking.get_run(run_id).data.metrics if run_id else {}
    except MlflowException as error:
        if not is_missing(error):
            raise
        metrics = {}
    chosen = {name: value for name, value in sorted(metrics.items()) if name.startswith(SIGNED_METRICS)}
    return {name: value if math.isfinite(value) else str(value) for name, value in chosen.items()}


def split_uri(uri: str) -> tuple[str, str]:
    """models:/NAME/VERSION → name and version."""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    return name, version


def _versions() -> dict[str, Any]:
    return {f"models:/{version.name}/{version.version}": version for version in client().search_model_versions()}


def _compare(statements: _Said, versions: Mapping[str, Any]) -> Iterator[Difference]:
    for uri, statement in statements.registered.items():
        if uri in versions:
            yield from _version_differences(uri, statement, versions[uri])
    for uri, statement in statements.legacy.items():
        if uri in versions:
            signed = {name: value for name, value in statement.facts.items() if name != "version"}
            yield from _tag_differences(uri, statement, signed, versions[uri].tags)
    for uri, version in versions.items():
        if split_uri(uri)[0] in statements.names and uri not in {*statements.registered, *statements.legacy}:
            yield Difference("registry", "version", uri, NO_ENTRY, shown(version.tags.get("fingerprint", NOT_THERE)))
    for name in sorted(statements.names):
        yield from _alias_differences(name, statements)


def _version_differences(uri: str, statement: Statement, version: Any) -> Iterator[Difference]:
    facts = statement.facts
    signed = {name: facts[name] for name in PROVENANCE if name in facts}
    if facts.get("class_fingerprints"):
        signed["class_fingerprints"] = json.dumps(facts["class_fingerprints"], sort_keys=True)
    yield from _tag_differences(uri, statement, signed, version.tags)
    if "metrics" in facts:
        metrics = signed_metrics(client(), version.tags.get("results_run"))
        for name in sorted({*facts["metrics"], *metrics}):
            signed_value, actual = (values.get(name, NOT_THERE) for values in (facts["metrics"], metrics))
            if signed_value != actual:
                yield _difference(f"metrics.{name}", uri, signed_value, actual, statement)


def _tag_differences(
    uri: str, statement: Statement, signed: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Difference]:
    for name, value in signed.items():
        if tags.get(name) != value:
            yield _difference(f"tags.{name}", uri, value, tags.get(name, NOT_THERE), statement)


def _alias_differences(name: str, statements: _Said) -> Iterator[Difference]:
    """Compare the aliases with the last promotion; `challenger` with the registrations, if the last signs metrics."""
    aliases = _aliases(name)
    promotion = statements.promoted.get(name)
    expected: dict[str, tuple[Any, Statement | None]] = {CHAMPION: (None, None)}
    if promotion is not None:
        expected[CHAMPION] = promotion.facts.get("version"), promotion
        if promotion.facts.get("replaces"):
            expected[PREVIOUS] = promotion.facts["replaces"], promotion
    if name in statements.waiting and statements.last is not None and "metrics" in statements.last.facts:
        expected[CHALLENGER] = statements.waiting[name], statements.last
    for alias, (version, statement) in expected.items():
        if aliases.get(alias) != version:
            signed, actual = version or NOT_THERE, aliases.get(alias, NOT_THERE)
            yield _difference(f"alias.{alias}", name, signed, actual, statement)


def _aliases(name: str) -> dict[str, str]:
    try:
        aliases = client().get_registered_model(name).aliases if registry_exists() else {}
    except MlflowException as error:
        if not is_missing(error):
            raise
        return {}
    return {alias: str(version) for alias, version in aliases.items()}


def _absent(statements: _Said, versions: Mapping[str, Any]) -> Iterator[str]:
    for uri, statement in (statements.registered | statements.legacy).items():
        if uri not in versions:
            yield f"{uri}, registered by {statement.name}, is gone from the registry; restore it from a backup"
    for uri, statement in statements.registered.items():
        if uri in versions and statement.number and WITNESS_TAG not in versions[uri].tags:
            yield (
                f"{uri}, registered by entry {statement.number}: its tag {WITNESS_TAG} is gone; "
                "find out who removed it; the next registration sets it again"
            )


def _difference(column: str, key: str, signed: Any, actual: Any, statement: Statement | None) -> Difference:
    return Difference(
        "registry",
        column,
        key,
        shown(signed),
        shown(actual),
        statement.number if statement else None,
        statement.at if statement else "",
    )
