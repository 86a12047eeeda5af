"""Days as options of a command, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

DAY = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def utc(day: datetime | None) -> datetime | None:
    return day.replace(tzinfo=UTC) if day else None
