"""What errors and help texts name exists: options, parameters, tools, deployments, labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import get_args

import pytest

from fixtures.documents import generator
from fixtures.learning import ROOT
from shadowline.core.params import Params

_PACKAGES = ("shadowline", "tasks", "flows")
_HOLE = "…"  # in the place of a value that a text is filled with
_TOOLS = frozenset({"dvc", "git", "make", "mlflow", "pip", "prefect", "python", "shadowline"})


@cache
def trees() -> list[tuple[str, ast.Module]]:
    """Path and syntax tree of every module."""
    paths = [path for package in _PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


@cache
def raised() -> list[tuple[str, str]]:
    """Place and text of every string in a `raise` statement."""
    statements = ((path, node) for path, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Raise))
    return [(f"{path}:{line}", text) for path, node in statements for line, text in _strings(node)]


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else _HOLE for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def test_every_option_that_an_error_names_exists() -> None:
    known = {
        name
        for _, command in generator().commands()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    named = [
        (place, option)
        for place, text in raised()
        if "verify_pack.py" not in place  # a program of its own, inside of a pack
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"`(?!shadowline)[^`]*`", "", text))
    ]
    assert len(named) > 10
    assert [(place, option) for place, option in named if option not in known] == []


def test_every_parameter_that_an_error_names_exists() -> None:
    known = {parameter.name for parameter in generator().parameters()}
    sections = "|".join(Params.model_fields)
    named = [
        (place, key)
        for place, text in raised()
        for key in re.findall(rf"(?<![\w./`'…-])((?:{sections})\.[a-z_]+(?:\.[a-z_]+)*)(?![\w/(:])", text)
    ]
    assert len(named) > 10
    files = (".json", ".yaml", ".parquet", ".db", ".html")
    assert [(place, key) for place, key in named if key not in known and not key.endswith(files)] == []


def test_every_tool_that_an_error_suggests_is_one_that_is_there() -> None:
    commands = [(place, line) for place, text in raised() for line in re.findall(r"run `([^`]+)`", text)]
    assert len(commands) > 10
    assert [(place, line) for place, line in commands if line.split()[0] not in _TOOLS] == []


def test_the_help_of_deploy_names_every_deployment() -> None:
    from flows.deployments import make_deployments
    from shadowline.core.params import load_params

    names = [f"{made.flow_name}/{made.name}" for made in make_deployments(load_params(ROOT / "params.yaml").schedule)]
    help_text = dict(generator().commands())["shadowline deploy"].help or ""
    assert len(names) > 5
    assert [name for name in names if name not in help_text] == []
    assert len(re.findall(r"\w/\w", help_text.partition("Example:")[0])) == len(names)


@pytest.mark.parametrize("command", ["shadowline feedback", "shadowline review label"])
def test_the_help_of_a_label_offers_those_that_are_taken(command: str) -> None:
    parameters = dict(generator().commands())[command].params
    (label,) = [parameter for parameter in parameters if parameter.name == "label"]
    assert get_args(label.type_descriptor.annotation) == ("normal", "anomalous")
