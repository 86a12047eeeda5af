"""What inspectors' words on an image come to, before it may teach a model.

    settle_label(words)      # the label that counts; None where two inspectors disagree

The latest word of each inspector counts. Where these differ the image is disputed, and is for nobody to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shadowline.data.labels import Label
from shadowline.records.traces import LabelEvent


@dataclass(frozen=True)
class SettledLabel:
    """A label with the inspector who gave it last."""

    label: Label
    by: str
    at: datetime
    was_changed: bool  # an earlier word said otherwise

    def __str__(self) -> str:
        change = ", changed from another label" if self.was_changed else ""
        return f"{self.label} by {self.by} at {self.at.isoformat(timespec='seconds')}{change}"


def settle_label(words: Sequence[LabelEvent]) -> SettledLabel | None:
    """`words` on one image, the latest last; raises ValueError where there are none."""
    if not words:
        raise ValueError("labels: no word on the image; ask for images that have one")
    last = words[-1]
    of_each = {word.by: word.label for word in words}
    if set(of_each.values()) != {last.label}:
        return None
    return SettledLabel(Label(last.label), last.by, last.at, any(word.label != last.label for word in words))
