"""Evidence as tests write it down: so many parts of a kind on a day, and how long their labels take.

parts = day_of(0, part(ALARM, NO_ALARM, 30, NORMAL), part(NO_ALARM, NO_ALARM, 300, labelled_after=None))
evidence_of(parts)
"""

from __future__ import annotations

from collections.abc import Sequence

from shadowline.evaluation.evidence import NORMAL, UNLABELLED, Evidence, EvidenceTable

DAY = 96  # slots
FIELDS = ("received", "candidate", "legacy", "drawn", "reference", "slow")

Part = dict[str, int]  # one or more alike: FIELDS, `count`, `truth` and `labelled_after` slots, if ever


def part(
    candidate: int, legacy: int, count: int, truth: int = NORMAL, labelled_after: int | None = 4, **more: int
) -> Part:
    said = {"candidate": candidate, "legacy": legacy, "count": count, "truth": truth}
    return {**said, **({} if labelled_after is None else {"labelled_after": labelled_after}), **more}


def day_of(number: int, *parts: Part) -> list[Part]:
    return [{**one, "received": DAY * number} for one in parts]


def evidence_of(parts: Sequence[Part], closed_until: int = 10**6, answering_since: int | None = 0) -> Evidence:
    columns: dict[str, list[int]] = {name: [] for name in ("slot", "label", "count", *FIELDS)}

    def add(one: Part, slot: int, label: int, count: int) -> None:
        row = {**dict.fromkeys(FIELDS, 0), **one, "slot": slot, "label": label, "count": count}
        for name, column in columns.items():
            column.append(row[name])

    for one in parts:
        add(one, one["received"], UNLABELLED, one["count"])
        if "labelled_after" in one:
            known = one["received"] + one["labelled_after"]
            add(one, known, UNLABELLED, -one["count"])
            add(one, known, one["truth"], one["count"])
    return Evidence(EvidenceTable.of(columns), closed_until, answering_since)
