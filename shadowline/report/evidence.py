"""The first page of an evidence pack: what was done in a period, with links to the files of the pack.

render_index(evidence)      # HTML: self-contained, without scripts; links to files of the pack alone
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from shadowline.audit.pack import file_name
from shadowline.evaluation.agreement import Agreement
from shadowline.evaluation.summary import Summary
from shadowline.records.audit_log.entry import Entry
from shadowline.report.build import environment, stylesheet
from shadowline.rollout.state import Event
from shadowline.rollout.verdict import VerdictOutcome


def version_id(named: str) -> str:
    """`inspector/3`, for a version that an entry names so, or by its URI."""
    return named.removeprefix("models:/")


@dataclass(frozen=True)
class VersionFacts:
    """A registered version, as the model store knows it."""

    name: str
    version: str
    made_at: str  # UTC
    aliases: tuple[str, ...]
    tags: dict[str, str]
    params: dict[str, str]  # of its run; dotted
    metrics: dict[str, float]  # of its run
    summary: Summary | None  # of its evaluation, with the gates; None where the run keeps none

    @property
    def id(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def card(self) -> str:
        """Where its model card lies in the pack."""
        return f"cards/{file_name(self.name)}-{file_name(self.version)}.html"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the gates have a file of their own."""
        return {name: value for name, value in asdict(self).items() if name not in ("summary", "params")}

    @property
    def gates(self) -> dict[str, Any] | None:
        return self.summary.verdict.to_dict() if self.summary else None


@dataclass(frozen=True)
class AgreementFacts:
    """The agreement of two models of one class, over the pairs of a period."""

    class_name: str
    candidate: str  # fingerprint
    legacy: str  # fingerprint
    outcome: VerdictOutcome
    reasons: tuple[str, ...]
    agreement: Agreement

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null for what is not defined."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)
        return {**values, **values.pop("agreement")}


@dataclass(frozen=True)
class ReproductionFacts:
    """The reproduction of a version, as an entry of the audit log states it."""

    number: int  # of the entry
    at: str
    by: str
    version: str
    finding: str  # e.g. identical
    file: str  # where its result lies in the pack; empty where it is missing
    is_as_stated: bool  # the file has the hash that the entry states


@dataclass(frozen=True)
class RecordedStatement:
    """A person's statement on the rollout: an order, an approval, an item of the checklist."""

    at: str
    by: str
    kind: str
    classes: str
    what: str


@dataclass(frozen=True)
class ChainFacts:
    first: int  # number of the period's first entry
    last: int
    head: dict[str, Any]  # number and hash of the last entry of the whole audit log
    root: str  # public half of the first key, hex
    keys: tuple[str, ...]  # names, the newest last
    num_by_kind: dict[str, int]

    @property
    def num_entries(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class EvidenceReport:
    """All that the page shows."""

    since: str
    until: str
    made_by: str
    made_at: str
    chain: ChainFacts
    versions: tuple[VersionFacts, ...]
    cards: frozenset[str]  # ids of the versions that have one
    events: tuple[Event, ...]
    words: tuple[RecordedStatement, ...]
    agreement: tuple[AgreementFacts, ...]
    reproductions: tuple[ReproductionFacts, ...]
    entries: tuple[Entry, ...]  # promotions, backups, deletions

    @property
    def title(self) -> str:
        return f"{self.since[:10]} to {self.until[:10]}" if self.since else f"Until {self.until[:10]}"

    @property
    def moves(self) -> list[Event]:
        return [event for event in self.events if event.is_move]

    def entries_of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind in kinds]


def render_index(evidence: EvidenceReport) -> str:
    page = environment().get_template("evidence.html.j2")
    return page.render(stylesheet=stylesheet(), it=evidence, said=said)


def said(entry: Entry) -> str:
    """The body of an entry on one line, the shortest facts first; unchanged where it is not a JSON object."""
    facts: Any = entry.facts
    if not isinstance(facts, dict):
        return entry.body
    texts = [f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in facts.items()]
    return " · ".join(sorted(texts, key=len))
