"""The evidence on one candidate beside its legacy model: counts by the time of receipt, and what follows from them.

    evidence = Evidence(EvidenceTable.of(columns), closed_until=slot)     # see `records/evidence.py`
    evidence.days(min_images=10)                             # production days
    evidence.num_days(since, 10)                             # of a phase

Time is the server's time of receipt, in slots of a quarter of an hour since 1970, the largest unit that divides the
offset of every time zone. Everything is computed as of the ends of slots and of production days, never as of the
moment of the call, so that a result does not depend on when it is computed.

A production day begins with the first image and holds all images within 24 hours; the next day begins with the first
image after that. Nights, weekends and holidays are no production days, and time zones play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt

from shadowline.evaluation.sequential_tests import ChangeTable, Ints

SLOT = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SLOTS_A_DAY = 96
_INSTANT = timedelta(microseconds=1)

UNLABELLED, NORMAL, ANOMALOUS = 0, 1, 2  # label
NO_ALARM, ALARM = 0, 1  # decision of either model
FAILED, DROPPED = 2, 3  # of the candidate: an error, and never asked
ABSENT = 2  # of the legacy model: it failed, or does not judge any more


def slot_of(at: datetime) -> int:
    """The slot that a moment lies in."""
    return int((at - _EPOCH) // SLOT)


def start_of(slot: int) -> datetime:
    return _EPOCH + slot * SLOT


def end_of_slot(at: datetime) -> datetime:
    """The end of the slot of a moment, from which on an event of that moment is evidence."""
    return start_of(slot_of(at) + 1)


@dataclass(frozen=True, eq=False)
class EvidenceTable:
    """Rows of counts. An image has one row when it is received, without a label; each change of its label has two."""

    slot: Ints  # (R,) in which it became known
    received: Ints  # (R,) slot of receipt of the image
    label: Ints  # (R,)
    candidate: Ints  # (R,)
    legacy: Ints  # (R,)
    slow: npt.NDArray[np.bool_]  # (R,) the candidate took longer than the latency guard allows
    review_share: npt.NDArray[np.float64]  # (R,) selection probability of the random review in force at receipt
    drawn: npt.NDArray[np.bool_]  # (R,) chosen by chance for a review
    reference: npt.NDArray[np.bool_]  # (R,) a part of known label that was put on the line
    count: Ints  # (R,) images; negative where a label takes the place of another

    @classmethod
    def of(cls, columns: Mapping[str, npt.ArrayLike]) -> EvidenceTable:
        """From columns of equal length; `review_share`, `drawn`, `reference` and `slow` may be missing."""
        length = len(np.asarray(columns["slot"]))

        def ints(name: str) -> Ints:
            return np.asarray(columns[name], dtype=np.int64)

        def flags(name: str) -> npt.NDArray[np.bool_]:
            return np.asarray(columns.get(name, np.zeros(length)), dtype=np.bool_)

        share = np.asarray(columns.get("review_share", np.zeros(length)), dtype=np.float64)
        return cls(
            ints("slot"), ints("received"), ints("label"), ints("candidate"), ints("legacy"), flags("slow"), share,
            flags("drawn"), flags("reference"), ints("count"),
        )  # fmt: skip

    @classmethod
    def empty(cls) -> EvidenceTable:
        return cls.of({name: [] for name in ("slot", "received", "label", "candidate", "legacy", "count")})

    def __len__(self) -> int:
        return len(self.slot)

    def where(self, chosen: npt.NDArray[np.bool_]) -> EvidenceTable:
        return EvidenceTable(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """(R,) the candidate decided."""
        return self.candidate <= ALARM

    @property
    def both_judged(self) -> npt.NDArray[np.bool_]:
        return self.judged & (self.legacy <= ALARM)

    @property
    def produced(self) -> npt.NDArray[np.bool_]:
        """(R,) parts of the production, not parts that somebody put on the line to test the model."""
        return ~self.reference

    @property
    def sampled(self) -> npt.NDArray[np.bool_]:
        """(R,) parts that no model chose: drawn for review by chance, or of known label."""
        return self.drawn | self.reference


@dataclass(frozen=True)
class ProductionDay:
    """24 hours from an image on, in slots."""

    first: int
    end: int  # first slot after it

    @property
    def closed_at(self) -> datetime:
        return start_of(self.end)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence on one candidate and one legacy model of a class since their comparison began."""

    table: EvidenceTable
    closed_until: int  # slot: what was received or labelled before it is in the table, nothing else
    answering_since: int | None = None  # slot in which the candidate began to answer

    @cached_property
    def days(self) -> tuple[ProductionDay, ...]:
        """Every production day, in order, also those with few images."""
        slots = np.unique(self.table.received[self.table.produced])
        days: list[ProductionDay] = []
        while slots.size:
            days.append(ProductionDay(int(slots[0]), int(slots[0]) + SLOTS_A_DAY))
            slots = slots[np.searchsorted(slots, days[-1].end) :]
        return tuple(days)

    @cached_property
    def day_of_row(self) -> Ints:
        """(R,) number of the production day of the image's receipt; for a reference part the last day before it."""
        firsts = np.array([day.first for day in self.days], dtype=np.int64)
        return np.maximum(np.searchsorted(firsts, self.table.received, side="right") - 1, 0)

    def num_days(self, since: datetime, min_images: int, *, both: bool = False) -> int:
        """Closed production days with at least `min_images` images received after `since` and judged by the candidate.

        `both`: judged by both models. Images of the slot in which `since` lies do not count, unless it begins then.
        """
        table = self.table
        counted = table.produced & (table.both_judged if both else table.judged)
        counted &= table.received > slot_of(since - _INSTANT)
        images = np.zeros(len(self.days), dtype=np.int64)
        np.add.at(images, self.day_of_row[counted], table.count[counted])
        closed = np.array([day.end <= self.closed_until for day in self.days], dtype=np.bool_)
        return int((closed & (images >= min_images)).sum())

    def known_at(self, slot: int, received_before: int | None = None) -> EvidenceTable:
        """The rows that were known before `slot`, of images received before the slot `received_before`."""
        chosen = self.table.slot < slot
        if received_before is not None:
            chosen &= self.table.received < received_before
        return self.table.where(chosen)

    def changes(self, value_of: Callable[[EvidenceTable], Ints]) -> ChangeTable:
        """The changes of one measurement; `value_of` gives the index of each row's value, or −1 for a row without."""
        value = value_of(self.table)
        asked = value >= 0
        return ChangeTable(
            moment=self.table.slot[asked], day=self.day_of_row[asked], value=value[asked], count=self.table.count[asked]
        )

    @property
    def last_received(self) -> datetime | None:
        """The end of the last slot with an image of the production."""
        received = self.table.received[self.table.produced]
        return start_of(int(received.max()) + 1) if received.size else None

    @property
    def longest_pause(self) -> timedelta:
        """The longest time between two images of the production, in whole slots."""
        slots = np.unique(self.table.received[self.table.produced])
        return int(np.diff(slots).max()) * SLOT if slots.size > 1 else timedelta(0)


def count_cells(table: EvidenceTable) -> Ints:
    """(3, 2, 2): label × decision of the candidate × decision of the legacy model, of parts that both judged."""
    rows = table.where(table.both_judged & table.produced)
    cells = np.zeros((3, 2, 2), dtype=np.int64)
    np.add.at(cells, (rows.label, rows.candidate, rows.legacy), rows.count)
    return cells


def counts_of(values: Ints, counts: Ints, num_values: int) -> Ints:
    """(V,): how many of each value; −1 is not counted."""
    asked = values >= 0
    return np.bincount(values[asked], weights=counts[asked], minlength=num_values).astype(np.int64)


def pick(conditions: Sequence[npt.NDArray[np.bool_]], values: Sequence[int], length: int) -> Ints:
    """(R,): the value of the first condition that holds, −1 where none does."""
    if not length:
        return np.empty(0, dtype=np.int64)
    return np.select(list(conditions), list(values), default=-1).astype(np.int64)
