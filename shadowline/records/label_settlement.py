"""The label of an image from the labels of all inspectors, before a model may learn from it.

    settle_label(labels)     # the label that counts; None where two inspectors disagree

The latest label of each inspector counts. Where these differ the image is disputed, and no model learns from it.
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
    was_changed: bool  # an earlier label was another

    def __str__(self) -> str:
        change = ", changed from another label" if self.was_changed else ""
        return f"{self.label} by {self.by} at {self.at.isoformat(timespec='seconds')}{change}"


def settle_label(labels: Sequence[LabelEvent]) -> SettledLabel | None:
    """`labels`: all labels of one image, the latest last; raises ValueError where there are none."""
    if not labels:
        raise ValueError("labels: no word on the image; ask for images that have one")
    last = labels[-1]
    of_each = {label.by: label.label for label in labels}
    if set(of_each.values()) != {last.label}:
        return None
    return SettledLabel(Label(last.label), last.by, last.at, any(label.label != last.label for label in labels))
