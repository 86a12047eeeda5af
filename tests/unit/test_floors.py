"""The three floors of the house, and what no floor may do: read off the syntax trees of every source file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

SOURCES = sorted(path for folder in ("shadowline", "tasks", "flows") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
ORCHESTRATION = {"prefect", "dvc", "mlflow", "great_expectations", "tasks", "flows"}
NETWORKS = {"timm", "torchvision", "open_clip"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
DOOR = ROOT / "shadowline/backbones.py"
ASKS_MLFLOW = {"shadowline/inspector.py": "resolve", "shadowline/detectors/pyfunc.py": "load_model"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The first name and the line of every import at or below `node`, lazy ones included."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.split(".")[0], child.lineno
        elif isinstance(child, ast.Call) and _calls(child, "import_module", "__import__"):
            target = child.args[0] if child.args else None
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield target.value.split(".")[0], child.lineno


def modules(tree: ast.Module) -> Iterator[str]:
    """The full dotted name of everything imported, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _calls(call: ast.Call, *names: str) -> bool:
    function = call.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in names


def lazy_lines(tree: ast.Module, *, inside: str = "") -> set[int]:
    """Lines inside functions or for type checkers only; with a name, of that module-level function alone."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes += [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    if inside:
        nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == inside]
    return {line for node in nodes for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def reaches_up(path: Path) -> set[tuple[str, int]]:
    """What a file of the library imports from above, and where, beyond what it may.

    1. One function each may ask MLflow, at the moment it is called: for a `models:/` URI, and for a legacy model that
       is a pyfunc, which only MLflow can load.
    2. Commands compose the house: anything, but lazily.
    3. shadowline/pyfunc_*.py is code that MLflow loads, so it may name MLflow itself; nothing else may load it (see
       below).
    """
    tree, is_pyfunc = tree_of(path), name_of(path).startswith("shadowline/pyfunc_")
    lazy: set[int] = set()
    if name_of(path) in ASKS_MLFLOW:
        lazy = lazy_lines(tree, inside=ASKS_MLFLOW[name_of(path)])
    elif path.parent.name == "commands" or is_pyfunc:
        lazy = lazy_lines(tree)
    found = {(name, line) for name, line in imports(tree) if name in ORCHESTRATION and line not in lazy}
    return {(name, line) for name, line in found if not (is_pyfunc and name == "mlflow")}


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).startswith("shadowline/")], ids=name_of)
def test_the_library_knows_no_orchestrator_and_no_tracker(path):
    assert not reaches_up(path)


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).startswith("shadowline/")], ids=name_of)
def test_the_library_never_loads_the_code_that_mlflow_loads(path):
    assert not [name for name in modules(tree_of(path)) if name.startswith("shadowline.pyfunc")]


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).startswith("tasks/")], ids=name_of)
def test_tasks_know_no_flows(path):
    assert "flows" not in {name for name, _ in imports(tree_of(path))}


@pytest.mark.parametrize("path", [p for p in [*SOURCES, *TESTS] if p != DOOR], ids=name_of)
def test_there_is_one_door_to_networks(path):
    assert not {(name, line) for name, line in imports(tree_of(path)) if name in NETWORKS}


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_nothing_reads_or_writes_a_pickle(path):
    """No such import, no `torch.load` that would unpickle, no `allow_pickle=True`, no frame's own `to_pickle`."""
    tree = tree_of(path)
    assert not {(name, line) for name, line in imports(tree) if name in PICKLES}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        assert not given.get("allow_pickle"), call.lineno
        assert not _calls(call, "read_pickle", "to_pickle"), call.lineno
        if ast.unparse(call.func) in {"torch.load", "torch.save"}:
            assert given.get("weights_only") is True, call.lineno


# --- the rules themselves can fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import mlflow",
        "import mlflow.pyfunc as p",
        "from mlflow import pyfunc",
        "def f():\n    import mlflow",
        "class A:\n    def f(self):\n        from mlflow.tracking import x",
        "if True:\n    import mlflow",
        "import importlib\nimportlib.import_module('mlflow.pyfunc')",
        "__import__('mlflow')",
    ],
)
def test_an_import_is_found_wherever_it_hides(code):
    assert "mlflow" in {name for name, _ in imports(ast.parse(code))}


@pytest.mark.parametrize("code", ["from . import mlflow", "import shadowline.mlflow", "x = 'import mlflow'"])
def test_what_only_looks_like_an_import_is_none(code):
    assert "mlflow" not in {name for name, _ in imports(ast.parse(code))}


def test_only_lines_that_do_not_run_at_import_are_lazy():
    tree = ast.parse(
        "import a\ndef resolve():\n    import b\ndef other():\n    import c\nif TYPE_CHECKING:\n    import d\n"
    )
    assert lazy_lines(tree) == {2, 3, 4, 5, 6, 7}
    assert lazy_lines(tree, inside="resolve") == {2, 3}


def test_there_is_something_to_look_at():
    assert {"shadowline/inspector.py", "shadowline/backbones.py", "tasks/validation.py"} <= set(map(name_of, SOURCES))
    assert NETWORKS & {name for name, _ in imports(tree_of(DOOR))}
