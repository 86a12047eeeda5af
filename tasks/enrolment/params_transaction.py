"""A transaction on a class's entry in params.yaml: where it fails, everything is as it was before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shadowline.core.atomic_files import copy_file, read_json, write_json
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.params_file import editing
from tasks.integrations.git import require_clean, revert_to_head


@contextmanager
def params_transaction(class_name: str, entry: Mapping[str, Any], root: Path) -> Iterator[None]:
    """Update the class's entry in params.yaml with `entry`; an exception inside restores the state before.

    After a kill, the marker file makes the next run of any flow restore it (`recover_enrolment`).
    """
    layout = Layout(root)
    require_clean(root)
    _set_aside(layout, class_name)
    write_json(layout.enrolling, {"class_name": class_name})
    try:
        with editing(layout.params) as content:
            content["classes"].setdefault(class_name, {}).update(entry)
        load_params(layout.params)
        yield
    except BaseException:
        recover_enrolment(root)
        raise
    layout.enrolling.unlink()


def recover_enrolment(root: Path) -> str | None:
    """Undo an unfinished enrolment; returns its class, or None where there is no such enrolment."""
    layout = Layout(root)
    if not layout.enrolling.is_file():
        return None
    class_name: str = read_json(layout.enrolling)["class_name"]
    layout.forget(class_name)
    revert_to_head(root)
    _put_back(layout, class_name)
    layout.enrolling.unlink()
    return class_name


def _set_aside(layout: Layout, class_name: str) -> None:
    """Copy the outputs that DVC does not keep."""
    shutil.rmtree(layout.set_aside, ignore_errors=True)
    for path in _uncached(layout, class_name):
        if path.exists():  # a new class has no report of its import
            _copy(path, layout.set_aside / path.relative_to(layout.root))


def _put_back(layout: Layout, class_name: str) -> None:
    for path in _uncached(layout, class_name):
        copy = layout.set_aside / path.relative_to(layout.root)
        if copy.exists():
            _copy(copy, path)


def _uncached(layout: Layout, class_name: str) -> tuple[Path, ...]:
    return (*layout.uncached, layout.import_report(class_name))


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, and replace an existing target."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        copy_file(source, target)
