"""What `shadowline audit verify` comes to: the chain itself, its witnesses, and the state that is held to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from shadowline.records.audit_log.entry import ChainVerification
from shadowline.records.audit_log.state import Difference, TableReport


@dataclass(frozen=True)
class RegistryReport:
    """The model registry, held to the chain."""

    num_versions: int = 0  # that the chain speaks of
    num_older: int = 0  # whose entry is from before it signed their metrics
    differences: tuple[Difference, ...] = ()
    absent: tuple[str, ...] = ()  # witnesses that are not there: versions, and what they know of their entry
    problem: str = ""  # why the registry was not asked; empty: it was


@dataclass(frozen=True)
class Verification:
    """Everything that one verification looked at."""

    chain: ChainVerification
    absent: tuple[str, ...]  # witnesses that should be there and are not, in words
    is_fresh: bool  # nothing outside can know of the chain yet
    tables: tuple[TableReport, ...]  # empty where the chain does not hold: then there is nothing to hold them to
    registry: RegistryReport
    num_batches: int = 0  # of pairs
    num_late: int = 0  # pairs that were sealed after others of their hour

    @property
    def unwitnessed_since(self) -> int | None:
        """The first entry of which nothing outside of the database knows; None where there is none."""
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
        """The fields of the chain, and beside them what else was looked at."""
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
