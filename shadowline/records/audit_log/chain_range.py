"""The range of audit entries that covers a period, without a gap, verified while it is read.

    chain_range = ChainRange.of(chain, Period(since, until))
    for line in chain_range.lines(progress): …    # every entry as JSON; raises BrokenChainError at the first bad one

Entries are in the order in which they were sealed, and carry the time at which the event happened: an entry between two
entries of the period belongs to the range, whatever its time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, func, select

from shadowline.core.progress import Progress
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import BEGINNING, ChainVerifier, Entry, EntryKind, public_key_in, timestamp
from shadowline.records.database import reading
from shadowline.records.tables import AuditEntryRow

_CHUNK = 10_000  # entries between two steps of the progress bar


class BrokenChainError(ValueError):
    """An entry of the chain is not what was signed."""


@dataclass(frozen=True)
class Period:
    """A span of time; raises ValueError where it ends before it begins."""

    since: datetime | None  # UTC, included; None: from the beginning
    until: datetime  # UTC, not included

    def __post_init__(self) -> None:
        if self.since is not None and self.since >= self.until:
            raise ValueError(f"period: from {self.since} to {self.until}; it has to begin before it ends")

    def __contains__(self, at: datetime) -> bool:
        return (self.since is None or self.since <= at) and at < self.until


@dataclass(frozen=True)
class ChainRange:
    """Entries `first` to `last`; in an empty range, `last` is `first` − 1."""

    chain: Chain
    first: int
    last: int

    @classmethod
    def of(cls, chain: Chain, period: Period) -> ChainRange:
        before = [AuditEntryRow.at < timestamp(period.since)] if period.since else [AuditEntryRow.number < 1]
        within = [AuditEntryRow.at < timestamp(period.until)]
        within += [AuditEntryRow.at >= timestamp(period.since)] if period.since else []
        first, last = _span(chain, within)
        if first is None or last is None:
            last = _span(chain, before)[1] or 0
            first = last + 1
        return cls(chain, first, last)

    @property
    def num_entries(self) -> int:
        return self.last - self.first + 1

    @property
    def before(self) -> Entry | None:
        """The entry before the range; None: the range begins the chain."""
        return self._entry(self.first - 1)

    @property
    def end(self) -> Entry | None:
        """The last entry of the range; of an empty range, the entry before it."""
        return self._entry(self.last)

    @property
    def head(self) -> Entry | None:
        """The last entry of the whole chain."""
        return self._entry(_span(self.chain, [])[1] or 0)

    def entries(self, kinds: Iterable[EntryKind] = ()) -> Iterator[Entry]:
        return self.chain.entries(kinds=kinds, first=self.first, last=self.last)

    def keys(self) -> tuple[Entry, ...]:
        """The entries that introduce a key, of the whole chain."""
        return tuple(self.chain.entries(kinds=[EntryKind.KEY]))

    def registered_after(self) -> tuple[str, ...]:
        """The versions that have a registration entry after the range."""
        later = self.chain.entries(kinds=[EntryKind.REGISTRATION], first=self.last + 1)
        return tuple(sorted({entry.subject.removeprefix("models:/") for entry in later}))

    def num_by_kind(self) -> dict[str, int]:
        in_range = AuditEntryRow.number.between(self.first, self.last)
        query = select(AuditEntryRow.kind, func.count()).where(in_range).group_by(AuditEntryRow.kind)
        with reading(self.chain.engine) as connection:
            return dict(sorted((kind, number) for kind, number in connection.execute(query).tuples()))

    def lines(self, progress: Progress) -> Iterator[str]:
        """Every entry as a line of JSON; raises BrokenChainError at the first entry that fails verification."""
        introduced = {entry.subject: public_key_in(entry) for entry in self.keys()}
        if not all(introduced.values()):
            raise BrokenChainError("audit chain: an entry of a key does not hold it; see `shadowline audit verify`")
        trusted = introduced | self.chain.keys.public()
        verifier, entries = ChainVerifier(trusted, self.before), self.entries()
        with progress.task("audit chain", total=self.num_entries) as task:
            while chunk := list(islice(entries, _CHUNK)):
                verification = verifier.check(chunk)
                if not verification.sound:
                    raise BrokenChainError(f"audit chain: {verification.reason}; see `shadowline audit verify`")
                yield from (to_line(entry) for entry in chunk)
                task.advance(len(chunk))

    def _entry(self, number: int) -> Entry | None:
        return next(self.chain.entries(first=number, last=number), None)


def to_line(entry: Entry) -> str:
    return json.dumps(entry.to_dict())


def place(entry: Entry | None) -> dict[str, Any]:
    """Number and hash of an entry; None stands for the beginning of the chain."""
    return {"number": entry.number, "hash": entry.hash} if entry else {"number": 0, "hash": BEGINNING}


def _span(chain: Chain, chosen: Iterable[ColumnElement[bool]]) -> tuple[int | None, int | None]:
    """The first and the last number of the chosen entries; None, None for no entry."""
    query = select(func.min(AuditEntryRow.number), func.max(AuditEntryRow.number)).where(*chosen)
    with reading(chain.engine) as connection:
        return connection.execute(query).tuples().one()
