"""Compares the tables that decide with the entries that sign them.

    for report in compare_tables(engine):
        report.table, report.num_rows, report.differences

Every row is signed by an entry of the chain: a phase, an approval, an order and its execution, an item of the
checklist, an action of the outbox, a label, the location of a model. A difference is named by table, column and key. A
row whose note waits to be sealed counts as pending. Entries of earlier versions, which do not hold the number of their
row, are matched by content, and counted as older.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from shadowline.core.differences import differences
from shadowline.records.audit_log.entry import EntryKind, json_sha256
from shadowline.records.audit_log.rows import plain_rows
from shadowline.records.audit_log.statements import Statement, read_statements
from shadowline.records.database import reading_any_text
from shadowline.records.tables import (
    ActionRow,
    ApprovalRow,
    Base,
    ChampionRow,
    ClassRow,
    EventRow,
    EvidenceRow,
    FeedbackRow,
    ModelRow,
    OrderRow,
    RefusalRow,
)

Row = Mapping[str, Any]
NO_ROW, NO_ENTRY = "no such row", "no entry"
_STATED = ("share", "candidate", "legacy", "reason")  # fields of a class's state that every phase entry states
_KINDS = (
    EntryKind.PHASE,
    EntryKind.APPROVAL,
    EntryKind.REFUSAL,
    EntryKind.ORDER,
    EntryKind.EVIDENCE,
    EntryKind.FEEDBACK,
    EntryKind.LOCATION,
    EntryKind.CHAMPION,
)
_SHOWN = 120  # characters of a value


@dataclass(frozen=True)
class Difference:
    """What an entry signs, and what the table holds instead."""

    table: str
    column: str
    key: str  # of the row
    signed: str
    found: str
    entry: int | None = None  # None: no entry is about it, or only a note
    at: str = ""  # UTC, when the event happened; empty where that is not known

    def __str__(self) -> str:
        source = f" by entry {self.entry}" if self.entry else ""
        return f"{self.table}.{self.column} of {self.key}: signed{source} is {self.signed}, found is {self.found}"


@dataclass(frozen=True)
class TableReport:
    """One table, compared with the chain."""

    table: str
    num_rows: int
    num_older: int  # rows whose entry is of an earlier version and does not sign all of their columns
    num_pending: int  # rows whose note waits to be sealed
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Claim:
    """The values that a row holds according to one statement."""

    statement: Statement
    key: Any  # of the row; None: the statement does not name it, and is matched by its content
    columns: Mapping[str, Any]

    def differences(self, table: str, key: str, row: Row) -> Iterator[Difference]:
        for column, signed in self.columns.items():
            if row[column] != signed:
                yield self.difference(table, column, key, signed, row[column])

    def difference(self, table: str, column: str, key: str, signed: Any, found: Any) -> Difference:
        entry, at = self.statement.number, self.statement.at
        return Difference(table, column, shown(key), shown(signed), shown(found), entry, at)


def compare_tables(engine: Engine) -> tuple[TableReport, ...]:
    """Every table except the pairs (`shadowline/records/audit_log/pair_seals.py`), in one snapshot."""
    with reading_any_text(engine) as connection:
        statements: dict[str, list[Statement]] = defaultdict(list)
        for statement in read_statements(connection, _KINDS):
            statements[statement.kind].append(statement)
        return tuple(compare(connection, statements) for compare in _COMPARISONS)


def shown(value: Any) -> str:
    """A value for people: printable and short."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


# --- the rollout ----------------------------------------------------------------------------------------------------


def _compare_events(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    rows = {row["revision"]: row for row in plain_rows(connection, EventRow)}
    claims = [_phase_claim(statement) for statement in statements[EntryKind.PHASE]]
    mismatches = list(_by_key(EventRow, "revision", rows, claims))
    first = {claim.key: claim for claim in reversed(claims)}
    for revision in rows.keys() & first.keys():
        mismatches += _state_differences(EventRow, "after", str(revision), first[revision], rows[revision]["after"])
    older = sum("after_sha256" not in first[revision].statement.facts for revision in rows.keys() & first.keys())
    return _report(
        EventRow, rows.values(), [first[revision] for revision in rows.keys() & first.keys()], mismatches, older
    )


def _phase_claim(statement: Statement) -> Claim:
    facts = statement.facts
    columns = {
        "at": statement.at,
        "by": statement.by,
        "source": facts.get("from"),
        "class_name": statement.subject,
        "phase": facts.get("to"),
    }
    return Claim(statement, _key(facts.get("revision")), columns)


def _state_differences(table: type[Base], column: str, key: str, claim: Claim, state: Any) -> Iterator[Difference]:
    """A class's state against the entry of its last event: by its hash, and by the fields that the entry states."""
    facts, name = claim.statement.facts, table.__tablename__
    if not isinstance(state, dict):
        yield claim.difference(name, column, key, "a JSON object", state)
        return
    stated = {field: facts[field] for field in _STATED if field in facts}
    stated |= {"class_name": claim.statement.subject, "phase": facts.get("to")}
    wrong = [field for field, signed in stated.items() if state.get(field) != signed]
    for field in wrong:
        yield claim.difference(name, f"{column}.{field}", key, stated[field], state.get(field))
    signed, actual = facts.get("after_sha256"), json_sha256(state)
    if signed is not None and signed != actual and not wrong:
        yield claim.difference(name, column, key, f"sha256 {signed}", f"sha256 {actual}")


def _compare_classes(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    """The state of a class in the phase table against the last event of the class."""
    rows = {row["class_name"]: row for row in plain_rows(connection, ClassRow)}
    last: dict[str, Claim] = {}
    for statement in statements[EntryKind.PHASE]:
        claim = Claim(statement, statement.subject, {"revision": statement.facts.get("revision")})
        if statement.subject not in last or _revision(claim) > _revision(last[statement.subject]):
            last[statement.subject] = claim
    mismatches = list(_by_key(ClassRow, "class_name", rows, list(last.values())))
    events = {row["revision"]: row["after"] for row in plain_rows(connection, EventRow)}
    for name in rows.keys() & last.keys():
        mismatches += _class_differences(name, last[name], rows[name]["state"], events)
    compared = [last[name] for name in rows.keys() & last.keys()]
    older = sum("after_sha256" not in claim.statement.facts for claim in compared)
    return _report(ClassRow, rows.values(), compared, mismatches, older)


def _class_differences(name: str, claim: Claim, state: Any, events: Mapping[Any, Any]) -> Iterator[Difference]:
    """Field by field against the last event, where that is as it was signed; otherwise by the entry alone."""
    after = events.get(_revision(claim))
    is_signed = isinstance(after, dict) and json_sha256(after) == claim.statement.facts.get("after_sha256")
    if not (is_signed and isinstance(after, dict) and isinstance(state, dict)):
        yield from _state_differences(ClassRow, "state", name, claim, state)
        return
    for field, values in differences(after, state).items():
        yield claim.difference(
            ClassRow.__tablename__, f"state.{field}", name, *(values[side] for side in ("from", "to"))
        )


def _revision(claim: Claim) -> int:
    revision = claim.statement.facts.get("revision")
    return revision if isinstance(revision, int) else 0


def _compare_actions(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    """The outbox against the entries of the events that asked for actions; whether an action is done is not signed."""
    rows = list(plain_rows(connection, ActionRow))
    rows_by_revision: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        rows_by_revision[row["revision"]].append(row)
    mismatches: list[Difference] = []
    claims: list[Claim] = []
    older = 0
    for statement in statements[EntryKind.PHASE]:
        claim = _phase_claim(statement)
        event_rows = rows_by_revision.pop(claim.key, [])
        if "actions" not in statement.facts:
            older += len(event_rows)
            continue
        claims += [claim] * len(event_rows)
        mismatches += _action_differences(claim, event_rows)
    mismatches += [
        _unsigned(ActionRow, "revision", row["id"], row) for left in rows_by_revision.values() for row in left
    ]
    return _report(ActionRow, rows, claims, mismatches, older)


def _action_differences(claim: Claim, rows: Sequence[Row]) -> Iterator[Difference]:
    actions = claim.statement.facts["actions"]
    for action, row in zip(actions, rows, strict=False):
        yield from Claim(claim.statement, None, action).differences(ActionRow.__tablename__, f"id {row['id']}", row)
    key = f"revision {claim.key}"
    for action in actions[len(rows) :]:
        yield claim.difference(ActionRow.__tablename__, "revision", key, _summary(action), NO_ROW)
    for row in rows[len(actions) :]:
        yield _unsigned(ActionRow, "revision", f"id {row['id']}", row)


# --- decisions of people --------------------------------------------------------------------------------------------


def _compare_approvals(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    return _compare_numbered(connection, ApprovalRow, _approval_claims(statements[EntryKind.APPROVAL]))


def _compare_refusals(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    return _compare_numbered(connection, RefusalRow, _approval_claims(statements[EntryKind.REFUSAL]))


def _approval_claims(statements: Iterable[Statement]) -> list[Claim]:
    return [_numbered_claim(statement, "target", "legacy", "candidate") for statement in statements]


def _compare_evidence(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    claims = [_numbered_claim(statement, "legacy", "item", "link") for statement in statements[EntryKind.EVIDENCE]]
    return _compare_numbered(connection, EvidenceRow, claims)


def _numbered_claim(statement: Statement, *names: str) -> Claim:
    """A row's class, author and time, and the columns that bear the names of facts."""
    facts = {name: statement.facts.get(name) for name in names}
    return Claim(
        statement,
        _key(statement.facts.get("id")),
        {"class_name": statement.subject, **facts, "by": statement.by, "at": statement.at},
    )


def _compare_orders(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    """An order has an entry for each of its classes, and so has its execution."""
    obeyed = {
        _key(statement.facts.get("id")): statement.facts["obeyed_at_revision"]
        for statement in statements[EntryKind.ORDER]
        if _is_obeyed(statement)
    }
    given = [statement for statement in statements[EntryKind.ORDER] if not _is_obeyed(statement)]
    claims = [
        _order_claim(statement, statement.facts.get("classes"), obeyed)
        for statement in given
        if "id" in statement.facts
    ]
    older: dict[tuple[str, ...], list[Statement]] = defaultdict(list)
    for statement in given:
        if "id" not in statement.facts:
            older[
                str(statement.facts.get("order")), str(statement.facts.get("why")), statement.by, statement.at
            ].append(statement)
    claims += [_order_claim(group[0], [statement.subject for statement in group], None) for group in older.values()]
    return _compare_numbered(connection, OrderRow, claims)


def _is_obeyed(statement: Statement) -> bool:
    return "obeyed_at_revision" in statement.facts


def _order_claim(statement: Statement, classes: Any, obeyed: Mapping[Any, Any] | None) -> Claim:
    """`obeyed`: order → revision; None for an older entry, since nothing signs when its order was carried out."""
    columns = {"kind": statement.facts.get("order"), "classes": classes, "why": statement.facts.get("why")}
    columns |= {"by": statement.by, "at": statement.at}
    number = _key(statement.facts.get("id"))
    return Claim(statement, number, columns if obeyed is None else {**columns, "done_revision": obeyed.get(number)})


def _compare_feedback(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    claims = [_feedback_claim(statement) for statement in statements[EntryKind.FEEDBACK]]
    all_noted_since = min((claim.statement.at for claim in claims if claim.key is not None), default="~")
    report = _compare_numbered(connection, FeedbackRow, claims, lambda rows: _repeated(rows, all_noted_since))
    return TableReport(
        report.table,
        report.num_rows,
        report.num_older,
        report.num_pending,
        (*report.differences, *_supersession(plain_rows(connection, FeedbackRow))),
    )


def _feedback_claim(statement: Statement) -> Claim:
    facts = statement.facts
    columns = {
        "class_name": statement.subject,
        "image_id": facts.get("image"),
        "label": facts.get("to"),
        "by": statement.by,
        "at": statement.at,
        "note": facts.get("note"),
    }
    return Claim(statement, _key(facts.get("id")), columns)


def _repeated(rows: Iterable[Row], all_noted_since: str) -> set[int]:
    """Ids of labels that repeat the present label of an image, from the time when such labels were not noted."""
    current: dict[tuple[Any, Any], Any] = {}
    ids = set()
    for row in rows:
        image = row["class_name"], row["image_id"]
        if current.get(image) == row["label"] and str(row["at"]) < all_noted_since:
            ids.add(row["id"])
        current[image] = row["label"]
    return ids


def _supersession(rows: Iterable[Row]) -> Iterator[Difference]:
    """All labels of an image but the last have to be superseded."""
    last: dict[tuple[Any, Any], Row] = {}
    for row in rows:
        image = row["class_name"], row["image_id"]
        if image in last:
            yield from _superseded_is(True, last[image])
        last[image] = row
    for row in last.values():
        yield from _superseded_is(False, row)


def _superseded_is(expected: bool, row: Row) -> Iterator[Difference]:
    if row["superseded"] is not expected:
        found, at = shown(row["superseded"]), str(row["at"])
        yield Difference(FeedbackRow.__tablename__, "superseded", f"id {row['id']}", str(expected), found, None, at)


# --- models ---------------------------------------------------------------------------------------------------------


def _compare_models(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    """A newer location of the same model wins."""
    rows = {row["fingerprint"]: row for row in plain_rows(connection, ModelRow)}
    last = {
        _key(statement.facts.get("fingerprint")): _location_claim(statement)
        for statement in statements[EntryKind.LOCATION]
    }
    mismatches = list(_by_key(ModelRow, "fingerprint", rows, list(last.values())))
    return _report(
        ModelRow, rows.values(), [last[fingerprint] for fingerprint in rows.keys() & last.keys()], mismatches
    )


def _location_claim(statement: Statement) -> Claim:
    columns = {name: statement.facts.get(name) for name in ("class_name", "role", "location", "version")}
    return Claim(statement, _key(statement.facts.get("fingerprint")), {**columns, "at": statement.at})


def _compare_champions(connection: Connection, statements: Mapping[str, list[Statement]]) -> TableReport:
    """A class whose last entry names no model has no row."""
    rows = {row["class_name"]: row for row in plain_rows(connection, ChampionRow)}
    last = {statement.subject: statement for statement in statements[EntryKind.CHAMPION]}
    claims = {
        name: Claim(statement, name, {"fingerprint": statement.facts["fingerprint"], "at": statement.at})
        for name, statement in last.items()
        if statement.facts.get("fingerprint") is not None
    }
    mismatches = list(_by_key(ChampionRow, "class_name", rows, list(claims.values())))
    return _report(ChampionRow, rows.values(), [claims[name] for name in rows.keys() & claims.keys()], mismatches)


# --- rows and claims ------------------------------------------------------------------------------------------------


def _compare_numbered(
    connection: Connection,
    table: type[Base],
    claims: Sequence[Claim],
    excuse: Callable[[Iterable[Row]], set[int]] = lambda rows: set(),
) -> TableReport:
    """A table whose rows have ids; `excuse`: ids of rows that need no entry."""
    rows = {row["id"]: row for row in plain_rows(connection, table)}
    named = [claim for claim in claims if claim.key is not None]
    mismatches = list(_by_key(table, "id", rows, named, all_signed=False))
    first = {claim.key: claim for claim in reversed(named)}
    left, unmatched = _match_older(
        [row for number, row in rows.items() if number not in first], [claim for claim in claims if claim.key is None]
    )
    num_older = len(rows) - len(left) - len(rows.keys() & first.keys())
    excused = excuse(rows.values()) if left else set()
    mismatches += [_gone(table, "id", claim) for claim in unmatched]
    mismatches += [_unsigned(table, "id", row["id"], row) for row in left if row["id"] not in excused]
    num_older += sum(row["id"] in excused for row in left)
    return _report(
        table, rows.values(), [first[number] for number in rows.keys() & first.keys()], mismatches, num_older
    )


def _match_older(rows: Iterable[Row], claims: Iterable[Claim]) -> tuple[list[Row], list[Claim]]:
    """Rows that no claim without a key describes, and claims that describe no row."""
    wanted: Counter[str] = Counter()
    by_content: dict[str, list[Claim]] = defaultdict(list)
    names: tuple[str, ...] = ()
    for claim in claims:
        names = tuple(claim.columns)
        by_content[repr(tuple(claim.columns.values()))].append(claim)
    left = []
    for row in rows:
        content = repr(tuple(row[name] for name in names))
        if wanted[content] < len(by_content.get(content, ())):
            wanted[content] += 1
        else:
            left.append(row)
    return left, [claim for content, group in by_content.items() for claim in group[wanted[content] :]]


def _by_key(
    table: type[Base], key: str, rows: Mapping[Any, Row], claims: Sequence[Claim], all_signed: bool = True
) -> Iterator[Difference]:
    """Each claim against the row that it names; the first claim of a row counts, and another must not contradict it.

    `all_signed`: a row that no claim names is a difference.
    """
    first: dict[Any, Claim] = {}
    for claim in claims:
        if claim.key not in first:
            first[claim.key] = claim
            row = rows.get(claim.key)
            mismatches = (
                [_gone(table, key, claim)]
                if row is None
                else claim.differences(table.__tablename__, _of(key, claim.key), row)
            )
            yield from mismatches
        elif claim.columns != first[claim.key].columns:
            signed, second = _summary(first[claim.key].columns), f"{claim.statement.name}: {_summary(claim.columns)}"
            yield first[claim.key].difference(table.__tablename__, key, _of(key, claim.key), signed, second)
    for name in rows.keys() - first.keys() if all_signed else ():
        yield _unsigned(table, key, name, rows[name])


def _gone(table: type[Base], column: str, claim: Claim) -> Difference:
    key = _of(column, claim.key) if claim.key is not None else "a row"
    return claim.difference(table.__tablename__, column, key, _summary(claim.columns), NO_ROW)


def _unsigned(table: type[Base], column: str, key: Any, row: Row) -> Difference:
    at = str(row["at"]) if "at" in row else ""
    return Difference(table.__tablename__, column, _of(column, key), NO_ENTRY, shown(_summary(row)), None, at)


def _of(column: str, key: Any) -> str:
    return shown(key) if column in ("class_name", "fingerprint") else f"{column} {shown(key)}"


def _summary(columns: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {shown(value)}" for name, value in columns.items() if name not in ("id", "after", "state")
    )


def _key(value: Any) -> Any:
    """The key by which a statement names a row, as a hashable value; a note may hold anything."""
    return value if value is None or isinstance(value, int | str) else repr(value)


def _report(
    table: type[Base],
    rows: Iterable[Row],
    claims: Iterable[Claim],
    mismatches: Iterable[Difference],
    num_older: int = 0,
) -> TableReport:
    pending = sum(claim.statement.number is None for claim in claims)
    return TableReport(table.__tablename__, len(list(rows)), num_older, pending, tuple(mismatches))


_COMPARISONS = (
    _compare_classes,
    _compare_events,
    _compare_actions,
    _compare_approvals,
    _compare_refusals,
    _compare_orders,
    _compare_evidence,
    _compare_feedback,
    _compare_models,
    _compare_champions,
)
