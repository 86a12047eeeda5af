"""What a docstring shows exists: the functions and classes that its examples call, and their keyword arguments."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.learning import ROOT

FILES = sorted(path for folder in ("shadowline", "tasks", "flows") for path in (ROOT / folder).rglob("*.py"))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
OURS = {node.name for path in FILES for node in ast.parse(path.read_bytes()).body if isinstance(node, Definition)} | {
    "Path"
}  # an example need not import what it uses


def examples(docstring: str) -> Iterator[ast.Module]:
    """The blocks of a docstring that are Python and call something."""
    for block in re.split(r"\n\s*\n", docstring):
        lines = [re.sub(r"\s#\s.*$", "", line).replace("…", "...") for line in block.splitlines()]
        try:
            tree = ast.parse(textwrap.dedent("\n".join(lines)))
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):
            yield tree


def unknown(tree: ast.Module) -> list[str]:
    """What the examples of a module's docstrings call and nobody defines, in words."""
    defined = {node.name: node for node in ast.walk(tree) if isinstance(node, Definition)}
    known = {*OURS, *defined, *dir(builtins), *_imported(tree), *_assigned(tree)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | Definition) and (docstring := ast.get_docstring(node)):
            for example in examples(docstring):
                names = known | _imported(example) | _assigned(example)
                for call in (part for part in ast.walk(example) if isinstance(part, ast.Call)):
                    found += _faults(call, names, defined)
    return found


def _faults(call: ast.Call, names: set[str], defined: dict[str, Definition]) -> list[str]:
    if isinstance(call.func, ast.Name):
        called = call.func.id
        if called not in names:
            return [called]
        target = defined.get(called)
        if isinstance(target, ast.FunctionDef) and target.args.kwarg is None:
            arguments = {each.arg for each in (*target.args.args, *target.args.kwonlyargs)}
            return [f"{called}({word.arg}=)" for word in call.keywords if word.arg and word.arg not in arguments]
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner = defined.get(call.func.value.id)
        if isinstance(owner, ast.ClassDef) and not owner.bases:
            methods = {part.name for part in owner.body if isinstance(part, Definition)}
            return [] if call.func.attr in methods else [f"{owner.name}.{call.func.attr}"]
    return []


def _imported(tree: ast.AST) -> set[str]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return {(alias.asname or alias.name).partition(".")[0] for node in nodes for alias in node.names}


def _assigned(tree: ast.AST) -> set[str]:
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_example_names_what_exists(path: Path) -> None:
    assert not unknown(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("example", "fault"),
    [
        ("train_all(data)", "train_all"),
        ("fit(data, speed=3)", "fit(speed=)"),
        ("Bank.open(path)", "Bank.open"),
        ("x = gone(1)      # a comment", "gone"),
    ],
)
def test_an_example_of_something_that_is_gone_is_found(example: str, fault: str) -> None:
    code = f'"""What it is.\n\n    {example}\n"""\ndef fit(data): ...\nclass Bank:\n    def load(path): ...\n'
    assert unknown(ast.parse(code)) == [fault]


def test_prose_and_what_exists_are_none() -> None:
    prose = "Calls nothing (see there).\n\n    fit(data)\n    Bank.load(path)\n"
    code = f'"""{prose}"""\ndef fit(data): ...\nclass Bank:\n    def load(path): ...\n'
    assert unknown(ast.parse(code)) == []
