"""The result of `shadowline audit verify`: the chain, its witnesses, and the tables and registry compared with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from shadowline.records.audit_log.entry import ChainVerification
from shadowline.records.audit_log.state import Difference, TableReport


@dataclass(frozen=True)
class RegistryReport:
    """The model registry, compared with the chain."""

    num_versions: int = 0  # that the chain names
    num_older: int = 0  # whose entry is of an earlier version and does not sign their metrics
    differences: tuple[Difference, ...] = ()
    absent: tuple[str, ...] = ()  # missing witnesses, as text: versions, and tags that name an entry
    problem: str = ""  # why the registry was not read; empty: it was read


@dataclass(frozen=True)
class Verification:
    """The results of one verification."""

    chain: ChainVerification
    absent: tuple[str, ...]  # missing witnesses, as text
    is_fresh: bool  # nothing outside can know of the chain yet
    tables: tuple[TableReport, ...]  # empty where the chain is not sound: then there is nothing to compare them with
    registry: RegistryReport
    num_batches: int = 0  # of pairs
    num_late: int = 0  # pairs that were sealed after others of their hour

    @property
    def unwitnessed_since(self) -> int | None:
        """Number of the first entry that is not known outside of the database; None where all are."""
        first = self.chain.witnessed + 1
        return first if first <= self.chain.num_entries else None

    @property
    def differences(self) -> tuple[Difference, ...]:
        return (*(difference for table in self.tables for difference in table.differences), *self.registry.differences)

    @property
    def sound(self) -> bool:
        is_witnessed = self.unwitnessed_since is None or self.is_fresh
        return self.chain.sound and is_witnessed and not self.absent and not self.differences

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the fields of the chain's verification, and the other results."""
        return {
            **asdict(self.chain),
            "sound": self.sound,
            "unwitnessed_since": self.unwitnessed_since,
            "absent": list(self.absent),
            "tables": {table.table: _counts(table) for table in self.tables},
            "batches_of_pairs": {"number": self.num_batches, "pairs_sealed_late": self.num_late},
            "registry": {
                "versions": self.registry.num_versions,
                "older": self.registry.num_older,
                "problem": self.registry.problem,
            },
            "differences": [asdict(difference) for difference in self.differences],
        }


def _counts(table: TableReport) -> dict[str, int]:
    """Rows by how they are signed."""
    return {
        "rows": table.num_rows,
        "older": table.num_older,
        "pending": table.num_pending,
        "differences": len(table.differences),
    }
