"""Writes what is made from other files: docs/reference/*.md, docs/measured.md, and the templates of a new project.

python docs/generate.py             # write the pages that are out of date; `make docs` calls this
python docs/generate.py --check     # write nothing, name the pages that are out of date, exit code 1 if there are any

`tests/unit/docs/test_reference.py` checks that every entry has a text.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import typer
import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from typer.core import TyperArgument, TyperGroup
from typer.main import get_command

from shadowline.cli.app import app
from shadowline.core import settings as settings_module
from shadowline.core.params import Params
from shadowline.core.settings import Settings
from shadowline.gateway.app import build_app
from shadowline.gateway.lifecycle import Gateway
from shadowline.gateway.metrics import Metrics

DOCS = Path(__file__).parent
_NOTE = "<!-- Written by docs/generate.py. Change the code that it describes, then run `make docs`. -->\n"
_SUBJECTS = {"number, 0 to 1": "share", "`critical`, `advisory`": "severity"}  # of a comment that begins with "of"
_MAX_DEFAULT = 60  # characters of a value in a table

# --- markdown -------------------------------------------------------------------------------------------------------


def _cell(text: object) -> str:
    return re.sub(r"\s+", " ", str(text)).strip().replace("|", "\\|")


def _code(text: object) -> str:
    return f"`{_cell(text)}`" if str(text) else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    """A comment as a sentence: large first letter, full stop."""
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('…') else '.'}" if text else ""


# --- comments beside fields -------------------------------------------------------------------------------------------


@cache
def _comments(path: Path) -> dict[int, str]:
    """Line → the comment on it."""
    source = io.StringIO(path.read_text(encoding="utf-8"))
    tokens = tokenize.generate_tokens(source.readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def field_comments(model: type) -> dict[str, str]:
    """Field or member of a class → the comment that stands beside it, without those that steer tools."""
    path = Path(inspect.getsourcefile(model) or "")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == model.__name__)
    found: dict[str, str] = {}
    for node in body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name):
            comment = _comments(path).get(node.end_lineno or 0, "")
            found[target.id] = "" if comment.startswith(("fmt:", "noqa", "type:")) else comment
    return found


# --- params.yaml ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One key of params.yaml; `name` is dotted, with `<name>` for a class's name and `[]` for an item of a list."""

    name: str
    kind: str  # type and range, in words
    default: str  # empty where the key must be given
    shipped: str  # value in the repository's params.yaml, where there is one value
    meaning: str
    is_section: bool


def parameters() -> list[Parameter]:
    schema = Params.model_json_schema()
    shipped = yaml.safe_load((DOCS.parent / "params.yaml").read_text(encoding="utf-8"))
    return list(_walk(schema, schema, "", shipped))


def _models() -> dict[str, type]:
    """Name → every model and enumeration that params.yaml is made of."""
    from shadowline.core import params as package
    from shadowline.core.params import base

    return {name: value for module in (package, base) for name, value in vars(module).items() if inspect.isclass(value)}


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1 and "$ref" in options[0]:  # a section that may be absent
        node = options[0]
    while "$ref" in node:
        node = {**schema["$defs"][node["$ref"].rsplit("/", 1)[1]], "title": node["$ref"].rsplit("/", 1)[1]}
    return node


def _walk(node: dict[str, Any], schema: dict[str, Any], prefix: str, shipped: Any) -> Iterator[Parameter]:
    comments = field_comments(_models()[node["title"]])
    for key, field in node["properties"].items():
        value = shipped.get(key) if isinstance(shipped, dict) else None
        resolved, name = _resolve(field, schema), f"{prefix}{key}"
        inner, suffix = _inner(resolved, schema)
        default = _value(field["default"]) if field.get("default") is not None else "none" if "default" in field else ""
        text = comments.get(key, "") or _docstring(inner)
        kind = "section" if suffix == "." else _kind(field, schema)
        if text.startswith("of ") and kind in _SUBJECTS:
            text = f"{_SUBJECTS[kind]} {text}"
        yield Parameter(
            name=name,
            kind=kind,
            default=default,
            shipped=_value(value) if value is not None and inner is None else "",
            meaning=_sentence(text),
            is_section=inner is not None,
        )
        if inner is not None:
            below = value if suffix == "." else None
            yield from _walk(inner, schema, f"{name}{suffix}", below)


def _inner(node: dict[str, Any], schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The model that a key leads to, directly or as the values of a mapping or a list, and how that is written."""
    if "properties" in node:
        return node, "."
    if (values := _values(node, schema)) is not None:
        return (values, ".<name>.") if "properties" in values else (None, "")
    items = _resolve(node["items"], schema) if isinstance(node.get("items"), dict) else {}
    return (items, "[].") if "properties" in items else (None, "")


def _values(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """What the values of a mapping are; None of anything else."""
    patterns = list(node.get("patternProperties", {}).values())
    values = patterns[0] if patterns else node.get("additionalProperties")
    return _resolve(values, schema) if isinstance(values, dict) else None


def _docstring(node: dict[str, Any] | None) -> str:
    text = (_models()[node["title"]].__doc__ or "").strip() if node is not None else ""
    return text.split("\n\n")[0]


def _kind(node: dict[str, Any], schema: dict[str, Any]) -> str:
    node = _resolve(node, schema)
    if "anyOf" in node:
        return " or ".join(_kind(option, schema) for option in node["anyOf"] if option.get("type") != "null")
    if "enum" in node or "const" in node:
        return ", ".join(_code(value) for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        if "prefixItems" in node:
            return f"list of {len(node['prefixItems'])}: {_kind(node['prefixItems'][0], schema)}"
        return f"list of {_kind(node['items'], schema)}"
    if node.get("type") == "object":
        values = _values(node, schema)
        return f"mapping to {_kind(values, schema)}" if values is not None and "properties" not in values else "mapping"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    return f"{names[node['type']]}{_range(node)}"


def _range(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[key]:g}" for key, sign in signs.items() if key in node]
    return f", {' and '.join(bounds)}" if bounds else ""


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value or '""'
    return text if len(text) <= _MAX_DEFAULT else "see the file"


def params_page() -> str:
    entries = parameters()
    parts = [
        "# params.yaml\n",
        "Every hyper-parameter, gate and policy number of a project. Unknown keys are refused, and the error names "
        "the nearest right one. Where no default is given, the key must be in the file. The column *shipped* is the "
        "value in the repository's own `params.yaml`, which is made for the demo.\n\n"
        "In the names below, `<name>` stands for a class name, and `[]` for an item of a list.\n",
    ]
    top = [entry for entry in entries if "." not in entry.name and not entry.is_section]
    parts.append(_parameter_table(top))
    for section in (entry for entry in entries if "." not in entry.name and entry.is_section):
        below = [entry for entry in entries if entry.name.startswith(f"{section.name}.")]
        parts += [f"## {section.name}\n", f"{section.meaning}\n", _parameter_table(below)]
    return "\n".join(parts)


def _parameter_table(entries: Iterable[Parameter]) -> str:
    return _table(
        ("key", "type", "default", "shipped", "meaning"),
        [(_code(e.name), e.kind, _code(e.default), _code(e.shipped), e.meaning) for e in entries],
    )


# --- environment variables --------------------------------------------------------------------------------------------

OTHER_VARIABLES = {  # read elsewhere than in Settings
    "SHADOWLINE_FORK_SERVER": "Set by a flow for its stages: the socket of the process that forks them (decision 35).",
    "SHADOWLINE_PROGRESS": "`json`: progress as JSON lines on stderr; a flow sets it for its stages.",
    "SHADOWLINE_IMAGE_ROOT": "Folder below which a model that MLflow serves may read paths; without it, base64 only.",
}
TEST_VARIABLES = {
    "SHADOWLINE_CHROMIUM": "A Chromium, for the tests that open the report in a browser.",
    "SHADOWLINE_FAULT_SECONDS": "How long the tests of failing stores keep a store down.",
    "SHADOWLINE_TEST_EFFORT": "How many times as many random examples and kills the tests try; see `make soak`.",
}
USED_VARIABLES = {  # of other tools
    "PREFECT_API_URL": "The Prefect server that `shadowline deploy` installs the deployments on, and that runs report "
    "to; without it, each run has a server of its own.",
    "PREFECT_HOME": "Prefect's files; a command that runs a flow keeps them in `.shadowline/prefect` of the project.",
    "NO_PROXY": "Hosts that are asked directly; behind a proxy, every command adds the addresses of the loopback.",
    "OMP_NUM_THREADS": "Threads of one process; `shadowline serve` with several workers divides the processor by it.",
    "PROMETHEUS_MULTIPROC_DIR": "Where workers share their metrics; `shadowline serve` sets it.",
    "AWS_ACCESS_KEY_ID": "With the other `AWS_` variables: credentials for `s3://` locations.",
}


@dataclass(frozen=True)
class Variable:
    name: str
    default: str
    meaning: str


def variables() -> list[Variable]:
    comments = field_comments(Settings)
    return [
        Variable(f"SHADOWLINE_{name.upper()}", _setting(field.default), _sentence(comments[name]))
        for name, field in Settings.model_fields.items()
    ]


def _setting(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def environment_page() -> str:
    set_for_others = {**settings_module._OFFLINE, **settings_module._PATIENT}
    return "\n".join(
        [
            "# Environment variables\n",
            "Where things are, and secrets. They are read from the environment and from nowhere else, so that none of "
            "them gets into git. An empty default means that the thing is off or absent.\n",
            "## Shadowline\n",
            _table(
                ("variable", "default", "meaning"),
                [(_code(each.name), _code(each.default), each.meaning) for each in variables()]
                + [(_code(name), "", meaning) for name, meaning in OTHER_VARIABLES.items()],
            ),
            "## Other tools\n",
            _table(("variable", "meaning"), [(_code(name), meaning) for name, meaning in USED_VARIABLES.items()]),
            "Every `shadowline` command sets these where you have not, so that no tool calls out and each waits long "
            "enough for a server that restarts:\n",
            _table(("variable", "value"), [(_code(name), _code(value)) for name, value in set_for_others.items()]),
            "`HF_HUB_OFFLINE` is left alone where `SHADOWLINE_ALLOW_NETWORK` is true.\n",
            "## Tests only\n",
            _table(("variable", "meaning"), [(_code(name), meaning) for name, meaning in TEST_VARIABLES.items()]),
        ]
    )


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(command: Any = None, path: str = "shadowline") -> Iterator[tuple[str, Any]]:
    """Path and command of every group and command, depth first."""
    command = get_command(app) if command is None else command
    yield path, command
    if isinstance(command, TyperGroup):
        context = typer.Context(command, info_name=path)  # type: ignore[arg-type, unused-ignore]
        for name in command.list_commands(context):  # type: ignore[arg-type, unused-ignore]
            yield from commands(command.get_command(context, name), f"{path} {name}")  # type: ignore[arg-type, unused-ignore]


def options_of(command: Any) -> list[Any]:
    return [each for each in command.params if each.name not in {"install_completion", "show_completion"}]


def cli_page() -> str:
    parts = [
        "# Commands\n",
        "Exit codes: 0 fine, 1 the verdict is negative, 2 the input cannot be used. Every command prints this text "
        "with `--help`. `shadowline --install-completion` sets up completion for your shell, `--show-completion` "
        "prints it.\n",
    ]
    for path, command in commands():
        if path == "shadowline":
            continue
        level = "#" * min(1 + path.count(" "), 4)
        parts += [f"{level} {path}\n", f"{inspect.cleandoc(command.help or '')}\n"]
        if not isinstance(command, TyperGroup):
            parts.append(f"```text\n{_usage(path, command)}\n```\n")
        if rows := [_option_row(each) for each in options_of(command)]:
            parts.append(_table(("", "default", "meaning"), rows))
    return "\n".join(parts)


def _usage(path: str, command: Any) -> str:
    arguments = [each for each in options_of(command) if isinstance(each, TyperArgument)]
    options = [each for each in options_of(command) if not isinstance(each, TyperArgument)]
    required = [f"{each.opts[0]} {each.name.upper()}" for each in options if each.required]
    rest = ["[OPTIONS]"] if any(not each.required for each in options) else []
    return " ".join([path, *map(_argument, arguments), *required, *rest])


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]") + ("…" if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option_row(option: Any) -> tuple[str, str, str]:
    name = (
        _argument(option) if isinstance(option, TyperArgument) else " / ".join([*option.opts, *option.secondary_opts])
    )
    plain = option.default is None or option.default in ("", False) or callable(option.default)
    default = (
        "required"
        if option.required
        else ""
        if plain
        else _code(str(option.default).lower() if option.default is True else option.default)
    )
    return _code(name), default, option.help or ""


# --- HTTP -------------------------------------------------------------------------------------------------------------


def openapi() -> dict[str, Any]:
    """What the gateway itself says at /openapi.json; nothing of it is started."""
    nothing = cast(Gateway, SimpleNamespace(keys=(), params=None, traffic=None, metrics=None))
    return build_app(nothing).openapi()


def http_page() -> str:
    schema = openapi()
    schema["$defs"] = schema["components"]["schemas"]
    paths = schema["paths"].items()
    operations = {f"{method.upper()} {path}": about for path, methods in paths for method, about in methods.items()}
    guarded = [about["responses"] for about in operations.values() if "security" in about]
    answers = {status: answer for responses in guarded for status, answer in responses.items()}
    parts = [
        "# HTTP\n",
        "`shadowline serve` answers at these addresses, and describes them itself at `/openapi.json`. Where "
        "`SHADOWLINE_GATEWAY_KEYS` is set, send one of the keys as `X-API-Key`; without keys only callers on the same "
        "machine are served. Every answer names the process that gave it in the header `X-Worker`. A refused request "
        'gets `{"error": "…"}`, and with status 503 the header `Retry-After`.\n',
        _table(
            ("status", "meaning"),
            [(status, answers[status]["description"]) for status in sorted(answers) if status >= "400"],
        ),
    ]
    for name, about in operations.items():
        parts += [f"## {name}\n", f"{about['summary']}. {_cell(about['description'])}\n"]
        if rows := list(_request_rows(about, schema)):
            parts.append(_table(("field", "in", "type", "needed", "meaning"), rows))
        parts += _answers(about, schema)
    return "\n".join(parts)


def _request_rows(operation: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for each in operation.get("parameters", ()):
        kind, text = _http_kind(each["schema"], schema), _sentence(each["description"])
        yield _code(each["name"]), each["in"], kind, _needed(each.get("required", False)), text
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        body, place = _resolve(content["schema"], schema), "form" if media.startswith("multipart") else "body"
        for name, about in body["properties"].items():
            needed = _needed(name in body.get("required", ()))
            yield _code(name), place, _http_kind(about, schema), needed, _sentence(about["description"])


def _answers(operation: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """A table for each form of a good answer that has fields."""
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if int(status) < 300:
            for form in (_resolve(option, schema) for option in content.get("anyOf", [content])):
                if "properties" in form:
                    yield f"Answer {status}: {form['description']}\n"
                    yield _table(
                        ("field", "type", "meaning"),
                        [
                            (_code(name), _http_kind(about, schema), _sentence(about.get("description", "")))
                            for name, about in form["properties"].items()
                        ],
                    )


def _needed(required: bool) -> str:
    return "yes" if required else "no"


def _http_kind(node: dict[str, Any], schema: dict[str, Any]) -> str:
    if node.get("type") == "null":
        return "null"
    if node.get("format") == "binary":
        return "file"
    options = [option for option in node.get("anyOf", [node]) if option.get("type") != "null"]
    lengths = [f", at most {option['maxLength']} characters" for option in options if "maxLength" in option]
    defaults = [f", default {_setting(node['default'])}"] if node.get("default") not in (None, "") else []
    return " or ".join(_kind(option, schema) for option in options) + "".join([*lengths, *defaults])


# --- metrics ----------------------------------------------------------------------------------------------------------


def metric_families() -> list[tuple[str, str, str, str]]:
    """Name, type, labels and help of everything at /metrics."""
    found: list[Any] = [each for each in vars(Metrics()).values() if isinstance(each, MetricWrapperBase)]
    suffix = {"counter": "_total"}
    return [
        (f"{each._name}{suffix.get(each._type, '')}", each._type, ", ".join(each._labelnames), each._documentation)
        for each in found
    ]


def metrics_page() -> str:
    rows = [(_code(name), kind, _code(labels), _sentence(text)) for name, kind, labels, text in metric_families()]
    return "\n".join(
        [
            "# Metrics\n",
            "What the gateway shows at `/metrics`. With several workers the numbers of all of them come together. A "
            "histogram has the usual `_bucket`, `_sum` and `_count`.\n",
            _table(("metric", "type", "labels", "meaning"), rows),
            "`side` is the model that answered or judged, `status` the HTTP status, `kind` the kind of failure.\n",
        ]
    )


# --- measured figures -------------------------------------------------------------------------------------------------


def measured_page() -> str:
    measured = json.loads((DOCS / "measured.json").read_text(encoding="utf-8"))
    columns = ("figure", "value", "baseline", "machine", "commit", "command", "date")
    machines = [f"* *{name}*: {text}" for name, text in measured["machines"].items()]
    parts = ["# Measured\n", f"{measured['about']}\n", "\n".join(machines) + "\n"]
    for group in measured["groups"]:
        rows = [
            [*(row.get(key, "") for key in columns[:5]), _code(row["command"]), row["date"]] for row in group["figures"]
        ]
        parts += [f"## {group['title']}\n", *([f"{group['about']}\n"] if group.get("about") else [])]
        parts.append(_table(columns, rows))
    return "\n".join([*parts, *_soak_section()])


def _soak_section() -> list[str]:
    """The last run of `make soak`."""
    soak = json.loads((DOCS / "soak.json").read_text(encoding="utf-8"))
    rows = [[part["what"], "passed" if part["passed"] else "failed", part["minutes"]] for part in soak["parts"]]
    about = f"The last run of `make soak`, of {soak['date']} at commit {soak['commit']}, on two processor cores.\n"
    return ["## Soak tests\n", about, _table(("what", "result", "minutes"), rows)]


# --- the templates of `shadowline init` -------------------------------------------------------------------------------

TEMPLATES = DOCS.parent / "shadowline/project/templates"
_HEAD = """\
# Every hyper-parameter, gate and policy number of this project, with its unit. Unknown keys are refused. What each key
# means is in docs/reference/params.md of Shadowline, where the other pages lie that are named below as docs/….

"""
_CLASSES = """\
# One entry per product class. `source` names an importer, `location` is what it reads.
classes:
{{ entries }}

"""


def params_template() -> str:
    """The repository's params.yaml without anything of the demo: its classes, its migration, its notes."""
    text = (DOCS.parent / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"\A(#.*\n|\n)+", _HEAD, text)
    text = re.sub(
        r"^# One entry per product class\.(.*\n)+?(?=\w+:.*\n(?<!classes:\n))", _CLASSES, text, flags=re.MULTILINE
    )
    text = re.sub(r"^demo:.*\n(?:[ #].*\n|\n)*", "", text, flags=re.MULTILINE)
    for key in ("consistent_size", "consistent_mode"):
        text = re.sub(rf"^(    {key}): (\w+)", rf"\1: {{{{ {key} or '\2' }}}}", text, flags=re.MULTILINE)
    text = re.sub(r"^(  classes): \[.*\]", r"\1: [{{ names }}]", text, flags=re.MULTILINE)
    return re.sub(r"[;,] (?:demo: 1\.0 apart|its weights are not part of the demo)", "", text)


def templates() -> dict[Path, str]:
    """Path → text of the templates that follow the repository's own files."""
    same = {
        "pipeline.yaml": "dvc.yaml",
        "dvc_config": ".dvc/config",
        "dvc_gitignore": ".dvc/.gitignore",
        "dvcignore": ".dvcignore",
        "prompts.yaml": "prompts/default.yaml",
    }
    texts = {name: (DOCS.parent / own).read_text(encoding="utf-8") for name, own in same.items()}
    return {TEMPLATES / name: text for name, text in {**texts, "params.yaml.j2": params_template()}.items()}


# --- files ------------------------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """Path → text of every generated file."""
    texts = {
        "reference/cli.md": cli_page(),
        "reference/http.md": http_page(),
        "reference/params.md": params_page(),
        "reference/environment.md": environment_page(),
        "reference/metrics.md": metrics_page(),
        "measured.md": measured_page(),
    }
    return {DOCS / name: f"{_NOTE}\n{text.rstrip()}\n" for name, text in texts.items()} | templates()


def stale_pages() -> list[Path]:
    return [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(check: bool) -> int:
    texts, stale = pages(), stale_pages()
    for path in stale:
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(DOCS.parent)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
