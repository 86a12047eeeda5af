"""Pack the evidence of a period, from the audit log, the records, MLflow and DVC.

    export_pack(open_records(), Layout(), params, Period(since, until), Path("evidence.zip"), "Ada", now)

The pack adds no judgement of its own, and holds nothing that differs from what the audit log signs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from shadowline.audit.pack import PackWriter, new_pack, to_json
from shadowline.audit.verify_pack import outcomes
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.evaluation.evidence import Evidence as PairEvidence
from shadowline.evaluation.evidence import count_cells, slot_of
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.chain_range import BrokenChainError, ChainRange, Period, place, to_line
from shadowline.records.audit_log.entry import Entry, EntryKind, public_key_in
from shadowline.records.audit_log.pair_seals import compare_pairs
from shadowline.records.audit_log.state import Difference, compare_tables
from shadowline.records.database import reading
from shadowline.records.evidence import read_table
from shadowline.records.stores import Records
from shadowline.records.tables import ApprovalRow, EvidenceRow, OrderRow, PairRow
from shadowline.report.evidence import (
    AgreementFacts,
    ChainFacts,
    EvidenceReport,
    RecordedStatement,
    ReproductionFacts,
    render_index,
    version_id,
)
from shadowline.report.model_card import Card, render_card
from shadowline.rollout.state import Event
from shadowline.rollout.weighing import appraise
from tasks.audit.evidence_versions import find_versions, read_classes
from tasks.integrations.audit_log import find_witnesses
from tasks.integrations.registry_comparison import compare_registry

log = logging.getLogger(__name__)

_SHOWN = (EntryKind.PROMOTION, EntryKind.BACKUP, EntryKind.DELETION)  # on the first page, one by one


@dataclass(frozen=True)
class ExportResult:
    """Counts and hashes of a pack."""

    path: Path
    sha256: str
    root: str  # public half of the audit log's first key, hex
    num_entries: int
    first: int
    last: int
    num_versions: int
    num_files: int


def export_pack(
    records: Records, layout: Layout, params: Params, period: Period, target: Path, by: str, now: datetime,
    progress: Progress,
) -> ExportResult:  # fmt: skip
    """Write the pack of a period, after sealing the notes that are not yet in the audit log.

    Raises ValueError for an empty audit log. Raises BrokenChainError, with no pack written, where the log does not
    verify, where records or metrics differ from those that it signs, and where the pack's own verifier refuses it.
    """
    records.chain.seal()
    _require_whole(records.chain)
    _require_as_signed(records, period, progress)
    stretch = ChainRange.of(records.chain, period)
    keys = stretch.keys()
    if not keys:
        raise ValueError("audit chain: no entries yet, so nothing to show and no key to sign with; retrain first")
    signer = records.chain.keys.load(keys[-1].subject)
    with new_pack(target, lambda path: _require_verified(path, public_key_in(keys[0]))) as pack:
        pack.add_lines("chain.jsonl", stretch.lines(progress))
        pack.add_lines("keys.jsonl", map(to_line, keys))
        pack.add("anchor.json", to_json(stretch.before.to_dict() if stretch.before else place(None)))
        evidence = _gather(records, layout, params, period, stretch, keys, pack, by, now)
        pack.add("index.html", render_index(evidence))
        facts = {"since": evidence.since, "until": evidence.until, "made_by": by, "made_at": evidence.made_at}
        ends = {"head": evidence.chain.head, "last": place(stretch.end), "registered_after": stretch.registered_after()}
        pack.sign({**facts, **ends}, signer)
    return ExportResult(
        path=target,
        sha256=file_sha256(target),
        root=evidence.chain.root,
        num_entries=stretch.num_entries,
        first=stretch.first,
        last=stretch.last,
        num_versions=len(evidence.versions),
        num_files=len(pack.files),
    )


def _require_whole(chain: Chain) -> None:
    """Raises BrokenChainError where a witness knows an entry that the log lacks; logs witnesses that do not answer."""
    witnesses, absent, problem = find_witnesses(chain)
    for line in filter(None, (problem, *absent)):
        log.warning("a witness was not heard: %s", line)
    lost = chain.unacknowledged(witnesses)
    if lost is not None:
        raise BrokenChainError(f"audit chain: {lost.complaint}; see `shadowline audit verify`")


def _require_as_signed(records: Records, period: Period, progress: Progress) -> None:
    """Raises BrokenChainError where a version, or a record of the period, differs from what the audit log signs."""
    engine = records.chain.engine
    registry = compare_registry(records.chain)
    if registry.problem:
        raise ValueError(f"the registry does not answer, and its numbers cannot be compared: {registry.problem}")
    tables = (*compare_tables(engine), compare_pairs(engine, progress).table)
    of_period = [difference for table in tables for difference in table.differences if _may_be_of(difference, period)]
    faults = [*map(str, (*registry.differences, *of_period))]
    if faults:
        more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise BrokenChainError(f"audit chain: {faults[0]}{more}; see `shadowline audit verify`")


def _may_be_of(difference: Difference, period: Period) -> bool:
    """Whether the difference's time lies in the period; True where it has no valid time."""
    try:
        at = datetime.fromisoformat(difference.at)
    except ValueError:
        return True
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) in period


def _require_verified(path: Path, root: str) -> None:
    """Raises BrokenChainError for a pack that its own verifier refuses."""
    faults = [f"{name}: {reason}" for name, reason, holds in outcomes(path, root) if not holds]
    if faults:
        raise BrokenChainError(f"the pack's verifier refuses it: {'; '.join(faults)}; see `shadowline audit verify`")


def _gather(
    records: Records, layout: Layout, params: Params, period: Period, stretch: ChainRange, keys: Sequence[Entry],
    pack: PackWriter, by: str, now: datetime,
) -> EvidenceReport:  # fmt: skip
    """What the first page shows; adds the files that it links to."""
    within = tuple(event for event in records.rollout.events() if event.at in period)
    versions = find_versions(records, params, period, stretch)
    words = tuple(_words(records, period, pack, within))
    cards = [
        Card(version, read_classes(version, layout))
        for version in versions
        if version.name == params.registry.model_name
    ]
    for card in cards:
        pack.add(card.version.card, render_card(card))
    pack.add("versions.json", to_json({version.id: version.to_dict() for version in versions}))
    pack.add("gates.json", to_json({version.id: version.gates for version in versions if version.gates}))
    agreement = tuple(find_agreement(records, params, period, now))
    pack.add("agreement.json", to_json([facts.to_dict() for facts in agreement]))
    reproductions = tuple(add_reproductions(stretch, layout, pack))
    pack.add("reproductions.json", to_json([vars(reproduction) for reproduction in reproductions]))
    return EvidenceReport(
        since=period.since.isoformat() if period.since else "",
        until=period.until.isoformat(),
        made_by=by,
        made_at=now.isoformat(timespec="seconds"),
        chain=_chain_facts(stretch, keys),
        versions=versions,
        cards=frozenset(card.version.id for card in cards),
        events=within,
        words=words,
        agreement=agreement,
        reproductions=reproductions,
        entries=tuple(stretch.entries(_SHOWN)),
    )


def _chain_facts(stretch: ChainRange, keys: Sequence[Entry]) -> ChainFacts:
    names, root = tuple(key.subject for key in keys), public_key_in(keys[0])
    return ChainFacts(stretch.first, stretch.last, place(stretch.head), root, names, stretch.num_by_kind())


# --- the records ----------------------------------------------------------------------------------------------------


def find_agreement(records: Records, params: Params, period: Period, now: datetime) -> Iterator[AgreementFacts]:
    """Agreement of every class and pair of models that both judged a part in the period."""
    until = min(period.until, now)
    columns = (PairRow.class_name, PairRow.candidate, PairRow.legacy)
    query = select(*columns).where(*_within(PairRow.received_at, period)).distinct().order_by(*columns)
    with reading(records.pairs.engine) as connection:
        models = [(row.class_name, row.candidate, row.legacy) for row in connection.execute(query)]
    for model in models:
        table = read_table(records.pairs.engine, model, period.since, until, params.rollout.guards.latency.bound)
        if count_cells(table).any():
            evidence = PairEvidence(table, slot_of(until))
            _, verdict = appraise(evidence, params.shadow, params.rollout, params.shadow.min_agreement)
            yield AgreementFacts(*model, verdict.outcome, verdict.reasons, verdict.agreement)


def _words(records: Records, period: Period, pack: PackWriter, events: Sequence[Event]) -> Iterator[RecordedStatement]:
    """Orders, approvals and checklist items of the period, by time; adds rollouts.json, which holds them all."""
    tables = {"orders": OrderRow, "approvals": ApprovalRow, "checklist": EvidenceRow}
    rows = {name: _rows(records, table, period) for name, table in tables.items()}
    pack.add("rollouts.json", to_json({"events": [_event(event) for event in events], **rows}))
    statements = [
        RecordedStatement(row["at"], row["by"], row["kind"], ", ".join(row["classes"]), row["why"])
        for row in rows["orders"]
    ]
    statements += [
        RecordedStatement(row["at"], row["by"], "approve", row["class_name"], f"may enter {row['target']}")
        for row in rows["approvals"]
    ]
    statements += [
        RecordedStatement(row["at"], row["by"], row["item"], row["class_name"], row["link"])
        for row in rows["checklist"]
    ]
    yield from sorted(statements, key=lambda statement: statement.at)


def _rows(records: Records, table: Any, period: Period) -> list[dict[str, Any]]:
    query = select(table.__table__).where(*_within(table.at, period)).order_by(table.id)
    with reading(records.rollout.engine) as connection:
        return [_as_json(dict(row)) for row in connection.execute(query).mappings()]


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _event(event: Event) -> dict[str, Any]:
    after = event.after.to_dict()
    return {
        "revision": event.revision,
        "at": event.at.isoformat(),
        "by": event.by,
        "from": event.source,
        "after": after,
    }


def _within(column: Any, period: Period) -> list[Any]:
    return [column < period.until, *([column >= period.since] if period.since else [])]


# --- reproductions --------------------------------------------------------------------------------------------------


def add_reproductions(stretch: ChainRange, layout: Layout, pack: PackWriter) -> Iterator[ReproductionFacts]:
    """Add the result of each reproduction to the pack where it exists; only the file name of an entry's path counts."""
    folder = layout.reproductions
    for entry in stretch.entries([EntryKind.REPRODUCTION]):
        facts = entry.facts
        name = str(facts["result"]).rpartition("/")[2]
        path, packed = folder / name, f"reproductions/{name}"
        is_there = name not in ("", ".", "..") and path.is_file() and not path.is_symlink()
        if is_there and packed not in pack.files:
            pack.add(packed, path.read_bytes())
        yield ReproductionFacts(
            number=entry.number,
            at=entry.at,
            by=entry.by,
            version=version_id(entry.subject),
            finding=str(facts["finding"]),
            file=packed if is_there else "",
            is_as_stated=is_there and pack.files[packed] == facts["result_sha256"],
        )
