"""The generated pages are up to date, and everything that a user can set or call has an entry with a text in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.documents import DOCS, generator
from fixtures.learning import ROOT
from shadowline.core.params import Params
from shadowline.core.settings import Settings
from shadowline.gateway.app import probes, router
from shadowline.gateway.metrics import Metrics

_CODE = ("shadowline", "tasks", "flows")


def missing(names: set[str], page: str) -> list[str]:
    """Those of `names` that have no entry: no heading, and no code at the beginning of a row, with a text behind it."""
    text = (DOCS / "reference" / page).read_text(encoding="utf-8")
    rows = {found[1] for found in re.finditer(r"^\| `([^`]+)` \|.*\S.*\|$", text, re.MULTILINE)}
    headings = {found[1].strip() for found in re.finditer(r"^#+ (.+)\n\n(?=\w)", text, re.MULTILINE)}
    return sorted(name for name in names if not {name, f"{name}.", f"`{name}`"} & (rows | headings))


@pytest.mark.parametrize("page", ["cli.md", "http.md", "params.md", "environment.md", "metrics.md"])
def test_a_name_without_an_entry_is_found(page: str) -> None:
    assert missing({"shadowline_made_up"}, page) == ["shadowline_made_up"]


def test_generated_pages_are_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path in generator().stale_pages()]
    assert not stale, f"run `python docs/generate.py`, and commit {stale}"


def test_every_parameter_has_an_entry() -> None:
    def keys(model: type, prefix: str = "") -> set[str]:
        """Independent of the generator: fields of models that are directly fields of models."""
        found = set()
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            nested = hasattr(inner, "model_fields")
            found |= keys(inner, f"{prefix}{name}.") if nested else {f"{prefix}{name}"}
        return found

    assert missing(keys(Params) - {"classes"}, "params.md") == []
    class_keys = {
        f"classes.<name>.{name}" for name in Params.model_fields["classes"].annotation.__args__[1].model_fields
    }
    assert missing(class_keys, "params.md") == []


def test_every_parameter_has_a_text() -> None:
    assert [parameter.name for parameter in generator().parameters() if not parameter.meaning] == []


def test_every_environment_variable_has_an_entry() -> None:
    used = {
        name
        for folder in _CODE
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"SHADOWLINE_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8"))
    }
    fields = {f"SHADOWLINE_{name.upper()}" for name in Settings.model_fields}
    assert missing(used | fields | in_tests(), "environment.md") == []


def in_tests() -> set[str]:
    """Variables that a person may set for the tests."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    return {found for text in texts for found in re.findall(r"environ(?:\.get)?[\[(]\"(SHADOWLINE_\w+)", text)}


def test_every_command_has_an_entry_and_every_option_a_text() -> None:
    found = dict(generator().commands())
    found.pop("shadowline")
    assert len(found) > 40
    assert missing(set(found), "cli.md") == []
    silent = [
        f"{path} {each.name}"
        for path, command in found.items()
        for each in generator().options_of(command)
        if not each.help
    ]
    assert silent == []


def test_every_route_has_an_entry() -> None:
    routes = [*router.routes, *probes.routes]
    names = {f"{method} {route.path}" for route in routes for method in route.methods}  # type: ignore[attr-defined]
    assert {"POST /v1/inspect", "GET /healthz"} < names
    assert missing(names, "http.md") == []


def test_every_metric_has_an_entry() -> None:
    rendered = Metrics().render().decode()
    names = set(re.findall(r"^# TYPE (shadowline_\w+) ", rendered, re.MULTILINE))
    made_at = {name for name in names if name.endswith("_created")}
    assert missing(names - made_at, "metrics.md") == []


def test_figures_of_the_readme_are_measured_ones() -> None:
    """README repeats the demo's table; every figure of it stands in docs/measured.json, with where it came from."""
    measured = (DOCS / "measured.json").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (?:textile|solar_\w+) \| (0\..*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M
    )
    figures = {figure for row in rows for figure in re.split(r" \| | \(", row.replace(")", ""))}
    assert len(figures) > 12
    assert sorted(figure for figure in figures if figure not in measured) == []


def test_every_decision_is_in_the_site() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [path.name for path in sorted((DOCS / "decisions").glob("*.md")) if path.name not in listed] == []


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Strictly: a page outside of the navigation, a broken link or anchor is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert len(pages) > 50
    loaded = {found for page in pages for found in re.findall(r"<(?:script|link|img|iframe)[^>]*https?://[^>]*>", page)}
    assert loaded == set()
    drawings = [path.read_text(encoding="utf-8").replace("http://www.w3.org", "") for path in DOCS.glob("*.svg")]
    assert drawings and not any("http" in drawing for drawing in drawings)
