"""What the documents show can be typed: commands parse, YAML is legal, parameters and variables exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from fixtures.documents import DOCS, Block, blocks, documents, generator, living_documents, prose
from fixtures.learning import ROOT
from shadowline.cli.app import app
from shadowline.core.params import Params
from shadowline.models.external.onnx import OnnxDescription

PAGES = pytest.mark.parametrize("path", living_documents(), ids=lambda path: str(path.relative_to(ROOT)))


# --- commands -----------------------------------------------------------------------------------------------------


def command_lines(block: Block) -> Iterator[str]:
    """The lines of a console block that a person types, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield line.removeprefix("$ ")


def parse(line: str) -> None:
    """Raises for a line that calls shadowline with a command or option that does not exist, or without one it needs."""
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if not words or Path(words[0]).name != "shadowline":
        return
    command: Any = get_command(app)
    path, words = "shadowline", words[1:]
    while isinstance(command, TyperGroup):
        if not words or words[0].startswith("-"):
            return  # `shadowline --help` and its like
        context = typer.Context(command, info_name=path)  # type: ignore[arg-type, unused-ignore]
        path, command = f"{path} {words[0]}", command.get_command(context, words[0])  # type: ignore[arg-type, unused-ignore]
        if command is None:
            raise ValueError(f"{path}: no such command")
        words = words[1:]
    command.make_context(path, words)


@pytest.mark.parametrize(
    "line",
    [
        "shadowline made-up",
        "shadowline rollout made-up",
        "shadowline inspect photo.png --made-up 3",
        "SHADOWLINE_DEVICE=cpu .venv/bin/shadowline rollout approve made-up bolt --by Ada",
        "shadowline rollout approve canary bolt",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)made-up|by"):
        parse(line)


@PAGES
def test_commands_parse(path: Path) -> None:
    for block in blocks(path):
        for line in command_lines(block) if block.language == "console" else ():
            parse(line)


def test_examples_in_the_help_parse() -> None:
    examples = [
        found
        for _, command in generator().commands()
        for found in re.findall(r"Example: `([^`]+)`", command.help or "")
    ]
    assert len(examples) > 40
    for example in examples:
        parse(example)


@PAGES
def test_commands_in_prose_exist(path: Path) -> None:
    """`shadowline rollout status` in the middle of a sentence; arguments may be left out there."""
    known = [name for name, _ in generator().commands()]
    for words in re.findall(r"`(shadowline(?: [a-z][a-z-]*)*)", prose(path)):
        assert any(
            words == name or words.startswith(f"{name} ") for name in known if name != "shadowline" or words == name
        )


def test_console_blocks_show_what_is_typed() -> None:
    """A block whose commands lack the prompt would be checked by nobody."""
    silent = [
        str(block)
        for path in living_documents()
        for block in blocks(path)
        if block.language in {"console", "bash", "sh", "shell"} and not list(command_lines(block))
    ]
    assert silent == []


# --- YAML, Python, parameters, variables ------------------------------------------------------------------------------


@cache
def known_keys() -> set[str]:
    return {parameter.name.replace("[]", "") for parameter in generator().parameters()}


def keys_of(value: Any, prefix: str = "") -> Iterator[str]:
    """Every key of nested mappings and lists, dotted, with `<name>` in the place of a class's name."""
    if isinstance(value, list):
        for item in value:
            yield from keys_of(item, prefix)
    if isinstance(value, dict):
        for key, below in value.items():
            name = "<name>" if prefix == "classes." else key
            yield f"{prefix}{name}"
            yield from keys_of(below, f"{prefix}{name}.")


def unknown_keys(text: str) -> list[str]:
    """Keys that are not of params.yaml, in a block that holds at least one of its sections."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not set(content) & set(Params.model_fields):
        return []
    open_ended = ("demo.sabotage.", "demo.remedy.", "demo.guard_bounds.")  # by class or guard
    found = [key for key in keys_of(content) if not key.startswith(open_ended)]
    return [key for key in found if key not in known_keys() | {"classes.<name>"}]


def test_an_unknown_key_is_found() -> None:
    assert unknown_keys("train: {steps: 5, stepz: 5}\nclasses: {bolt: {made_up: 1}}") == [
        "train.stepz",
        "classes.<name>.made_up",
    ]
    assert unknown_keys((ROOT / "params.yaml").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_and_python_blocks_are_legal(path: Path) -> None:
    for block in blocks(path):
        if block.language in {"yaml", "yml"}:
            assert unknown_keys(block.text) == [], block
        if block.language == "python":
            ast.parse(block.text)


def test_the_description_of_an_onnx_model_is_legal() -> None:
    shown = [block.text for block in blocks(DOCS / "how-to/legacy-models.md") if block.language == "json"]
    assert [OnnxDescription.model_validate(json.loads(text)).class_name for text in shown] == ["bolt"]


@PAGES
def test_parameters_in_prose_exist(path: Path) -> None:
    sections = "|".join(name for name in Params.model_fields if name not in {"seed", "classes"})
    named = re.findall(rf"`((?:{sections})\.[a-z_.]+[a-z])`", prose(path))
    files = {name for name in named if name.endswith((".yaml", ".json", ".py", ".md"))}
    assert sorted(set(named) - files - known_keys()) == []


@PAGES
def test_variables_exist(path: Path) -> None:
    named = set(re.findall(r"SHADOWLINE_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
    known = {variable.name for variable in generator().variables()}
    assert named - known - set(generator().OTHER_VARIABLES) - set(generator().TEST_VARIABLES) == set()
