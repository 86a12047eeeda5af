"""The code that computes a pipeline stage: its module, and everything of ours that the module imports.

    source_files("shadowline.stages.train")       # {"shadowline/models/dinomaly/model.py": Path(…), …}

`shadowline stage code` writes a hash of each stage's files below data/code, and dvc.yaml makes every stage depend on
its own: a change in code that a stage stands on makes it stale, a change elsewhere does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).parents[2]  # the folder that holds the packages, in a checkout or among installed packages
_OURS = ("shadowline", "tasks", "flows")
# What changes no result: names of folders (DVC knows them itself), progress bars, parameters that no stage reads.
_WITHOUT_EFFECT = frozenset(
    {"shadowline", "shadowline.core.layout", "shadowline.core.progress", "shadowline.core.params.operation"}
)


def source_files(module: str) -> dict[str, Path]:
    """Path from the folder of the packages → file, of a module and of every module of ours that it reaches.

    Imports inside functions count, those for type checkers alone do not. Raises ModuleNotFoundError for a module that
    is not ours.
    """
    if _file_of(module) is None:
        raise ModuleNotFoundError(f"{module}: no module of {', '.join(_OURS)}")
    reached, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _imported(name)
    files = [file for name in reached if (file := _file_of(name))]
    return {file.relative_to(_SOURCES).as_posix(): file for file in sorted(files)}


@cache
def _imported(module: str) -> frozenset[str]:
    """Modules of ours that a module imports, and the packages that it lies in."""
    file = _file_of(module)
    assert file is not None
    names = set(_parents(module))
    for node in _running(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names |= {parent for name in names for parent in _parents(name)}
    return frozenset(name for name in names if _file_of(name) and name not in _WITHOUT_EFFECT)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a syntax tree but those below `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _running(child)


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


@cache
def _file_of(module: str) -> Path | None:
    if module.partition(".")[0] not in _OURS:
        return None
    path = _SOURCES.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
