"""A class is entered into params.yaml; where its enrolment does not end well, everything is as it was before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shadowline.atomic import replace_file, write_json
from shadowline.inbox import Inbox
from shadowline.params import load_params
from shadowline.params_file import editing
from shadowline.paths import Layout
from tasks.repository import require_clean, take_back


@contextmanager
def class_entered(class_name: str, root: Path) -> Iterator[None]:
    """params.yaml names the class; whatever goes wrong inside, the project is as it was before.

    After a kill, the mark that it leaves lets the next run of any flow put that right (`mend`).
    """
    layout = Layout(root)
    source = Inbox(layout.inbox, class_name).as_source(root, load_params(layout.params).enrolment)
    require_clean(root)
    _set_aside(layout)
    write_json(layout.enrolling, {"class_name": class_name})
    try:
        with editing(layout.params) as content:
            content["classes"][class_name] = source.model_dump(exclude_defaults=True)
        load_params(layout.params)
        yield
    except BaseException:
        mend(root)
        raise
    layout.enrolling.unlink()


def mend(root: Path) -> str | None:
    """Undo an enrolment that did not come to its end; returns its class, or None where there is none."""
    layout = Layout(root)
    if not layout.enrolling.is_file():
        return None
    class_name: str = json.loads(layout.enrolling.read_text(encoding="utf-8"))["class_name"]
    layout.forget(class_name)
    take_back(root)
    _put_back(layout)
    layout.enrolling.unlink()
    return class_name


def _set_aside(layout: Layout) -> None:
    """Copies of the outputs that DVC does not keep."""
    shutil.rmtree(layout.set_aside, ignore_errors=True)
    for path in layout.uncached:
        _copy(path, layout.set_aside / path.name)


def _put_back(layout: Layout) -> None:
    for path in layout.uncached:
        _copy(layout.set_aside / path.name, path)


def _copy(source: Path, target: Path) -> None:
    """A file or a folder, in the place of what is there."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        with replace_file(target) as temporary:
            shutil.copyfile(source, temporary)
