"""The packaged model that answers while no class has a live model: the last one that passed its gates.

choice = choose_package(layout, newest_passed)
choice.location, choice.reason      # "models/inspector", "passed its gates"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shadowline.core.layout import Layout
from shadowline.evaluation.summary import Summary


@dataclass(frozen=True)
class PackageChoice:
    """A model by its location, and why it is the one."""

    location: str  # a directory, or a `models:/…` URI
    reason: str
    passed: bool


def choose_package(layout: Layout, newest_passed: Callable[[], str | None]) -> PackageChoice:
    """models/inspector where it passed its gates; else the registered version that `newest_passed` names.

    Without either it is models/inspector all the same, and the reason says that it did not pass.
    """
    own = layout.package.as_posix()
    verdict = Summary.read(layout.summary).verdict if layout.summary.is_file() else None
    if verdict is not None and verdict.passed:
        return PackageChoice(own, "the last model that was packaged; it passed its gates", passed=True)
    standing = "has no verdict yet" if verdict is None else f"did not pass: {', '.join(verdict.failed_gates)}"
    registered = newest_passed()
    if registered is not None:
        return PackageChoice(registered, f"the newest version that passed its gates; {own} {standing}", passed=True)
    return PackageChoice(own, f"{standing}; no registered version has passed its gates", passed=False)
