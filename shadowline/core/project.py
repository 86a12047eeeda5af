"""The project that a command works in: found from the current folder upwards, as git and DVC find theirs.

@anywhere
def restore(...): ...            # a command that needs no project

in_project(command)              # enters the project's root first; its paths stay those that the caller named
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])

_OURS = b"shadowline stage "  # a command of our pipeline: other tools have a params.yaml beside a dvc.yaml as well
_ANYWHERE, _ENTERS = "_needs_no_project", "_enters_project"
_MAY_NAME_A_FILE = frozenset({"location", "target", "model", "image"})  # parameters that are texts


class NoProjectError(ValueError):
    """The current folder is in no project; the message says what to do."""


def is_project(folder: Path) -> bool:
    """Whether it is a project's root: it holds params.yaml and our dvc.yaml."""
    pipeline = folder / "dvc.yaml"
    return (folder / "params.yaml").is_file() and pipeline.is_file() and _OURS in pipeline.read_bytes()


def find_project(folder: Path) -> Path | None:
    """The nearest project that `folder` is or lies in."""
    here = folder.resolve()
    return next((place for place in (here, *here.parents) if is_project(place)), None)


def require_project(folder: Path) -> Path:
    """`find_project`, or NoProjectError."""
    project = find_project(folder)
    if project is None:
        raise NoProjectError(
            f"no project here: neither {folder.resolve()} nor a folder above it has a params.yaml and a dvc.yaml of "
            "Shadowline; go to your project, or make one with `shadowline init`"
        )
    return project


def anywhere(command: Command) -> Command:
    """Mark a command that can work outside of a project; inside, it works in the project's root like all others."""
    setattr(command, _ANYWHERE, True)
    return command


def in_project(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which enters the root of its project before it runs.

    Paths that the caller gave count from where the caller stands, defaults from the project's root. Raises
    NoProjectError before anything is done.
    """
    if hasattr(command, _ENTERS):
        return command
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    find = find_project if hasattr(command, _ANYWHERE) else require_project

    @wraps(command)
    def enter_and_run(**values: Any) -> Any:
        here = Path.cwd()
        root = find(here)
        if root is None or root.samefile(here):
            return command(**values)
        given = {name: value for name, value in values.items() if value != defaults[name]}
        os.chdir(root)
        return command(**{**values, **{name: _seen_from(here, name, value) for name, value in given.items()}})

    setattr(enter_and_run, _ENTERS, True)
    return enter_and_run


def _seen_from(here: Path, name: str, value: Any) -> Any:
    """A path, list of paths, or text that names a file, as an absolute path; anything else as it is."""
    if isinstance(value, Path):
        return here / value
    if isinstance(value, (list, tuple)):
        return type(value)(_seen_from(here, name, item) for item in value)
    if name in _MAY_NAME_A_FILE and isinstance(value, str) and "://" not in value:
        return str(here / value) if name == "target" or (here / value).exists() else value
    return value
