"""Nothing in the project reads or writes a pickle: read off the syntax trees of every source file and test.

That the layers hold is checked by the contracts of import-linter in pyproject.toml (`make lint`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.learning import ROOT

FILES = sorted(path for folder in ("shadowline", "tasks", "flows", "tests") for path in (ROOT / folder).rglob("*.py"))
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imported(tree: ast.AST) -> Iterator[str]:
    """The first name of every import, lazy ones and `import_module("…")` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            target = node.args[0] if node.args else None
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield target.value.split(".")[0]


def called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def pickling(tree: ast.AST) -> list[str]:
    """What in a file reads or writes a pickle, in words."""
    found = [f"import {name}" for name in imported(tree) if name in PICKLES]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        function = ast.unparse(call.func)
        if given.get("allow_pickle") or called(call) in {"read_pickle", "to_pickle"}:
            found.append(function)
        if function in {"torch.load", "torch.save"} and given.get("weights_only") is not True:
            found.append(function)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_reads_or_writes_a_pickle(path: Path) -> None:
    assert not pickling(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import dill as d",
        "import importlib\nimportlib.import_module('shelve')",
        "__import__('marshal')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "frame.to_pickle(path)",
    ],
)
def test_a_pickle_is_found_wherever_it_hides(code: str) -> None:
    assert pickling(ast.parse(code))


@pytest.mark.parametrize("code", ["from . import pickle", "x = 'import pickle'", "torch.load(path, weights_only=True)"])
def test_what_only_looks_like_a_pickle_is_none(code: str) -> None:
    assert not pickling(ast.parse(code))
