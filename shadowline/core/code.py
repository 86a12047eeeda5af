"""The code that computes a pipeline stage: its module, and everything of ours that the module imports.

    SourceTree().files("shadowline.stages.train")     # {"shadowline/models/dinomaly/model.py": Path(…), …}

`shadowline stage code` writes a hash of each stage's files below data/code, and dvc.yaml makes every stage depend on
its own: a change in code that a stage stands on makes it stale, a change elsewhere does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

INSTALLED = Path(__file__).parents[2]  # the folder that holds the packages, in a checkout or among installed packages
_OURS = ("shadowline", "tasks", "flows")
# What changes no result: names of folders (DVC knows them itself), progress bars, parameters that no stage reads.
_WITHOUT_EFFECT = frozenset(
    {"shadowline", "shadowline.core.layout", "shadowline.core.progress", "shadowline.core.params.operation"}
)


class SourceTree:
    """The source files as they are now: each is read once in the life of the object."""

    def __init__(self, root: Path = INSTALLED) -> None:
        """`root`: the folder that holds the packages."""
        self._root = root
        self._imports: dict[str, frozenset[str]] = {}

    def files(self, module: str) -> dict[str, Path]:
        """Path below the root → file, of a module and of every module of ours that it reaches.

        Imports inside functions count, those for type checkers alone do not. Raises ModuleNotFoundError for a module
        that is not ours.
        """
        if self._file_of(module) is None:
            raise ModuleNotFoundError(f"{module}: no module of {', '.join(_OURS)}")
        reached, waiting = set[str](), [module]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self._imported(name)
        files = [file for name in reached if (file := self._file_of(name))]
        return {file.relative_to(self._root).as_posix(): file for file in sorted(files)}

    def _imported(self, module: str) -> frozenset[str]:
        """Modules of ours that a module imports, and the packages that it lies in."""
        if module not in self._imports:
            file = self._file_of(module)
            assert file is not None
            names = {module, *_imports_of(file)}
            names |= {parent for name in names for parent in _parents(name)}
            self._imports[module] = frozenset(
                name for name in names - _WITHOUT_EFFECT - {module} if self._file_of(name) is not None
            )
        return self._imports[module]

    def _file_of(self, module: str) -> Path | None:
        if module.partition(".")[0] not in _OURS:
            return None
        path = self._root.joinpath(*module.split("."))
        return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports_of(file: Path) -> Iterator[str]:
    """Dotted names; `from a import b` gives a and a.b, since b may be a module."""
    for node in _running(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
