"""The records, opened when a command needs them: `--help` does without a second of imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shadowline.records.stores import Records


def open_records() -> Records:
    from shadowline.records.stores import open_records as open_stores

    return open_stores()
