"""The HTML report: one self-contained file, without scripts, that needs nothing from outside.

    build_report(Layout(Path(".")), load_params(Path("params.yaml")))

It reads what the stages wrote (evaluation_data.py), draws it (figures.py, gallery.py, migration.py) and fills
report.html.j2. Equal inputs give equal bytes. The page forbids itself scripts and foreign content by a
Content-Security-Policy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.evaluation.gates import GateCheck
from shadowline.report import figures, formatting
from shadowline.report.evaluation_data import ClassContents, Contents, read_contents
from shadowline.report.gallery import Group, gallery, shots_per_kind
from shadowline.report.migration import migration_section

HERE = Path(__file__).parent


@dataclass(frozen=True)
class ClassSection:
    """One class as the template shows it."""

    anchor: str
    contents: ClassContents
    failed: tuple[GateCheck, ...]
    whisker: Markup
    charts: tuple[figures.Figure, ...]
    galleries: tuple[Group, ...]
    promise: str


def build_report(layout: Layout, params: Params) -> Path:
    """Write `layout.report` in one step, so that a reader never sees half a page, and return its path.

    Raises FileNotFoundError and ValueError as `read_contents` does.
    """
    page = render(read_contents(layout), layout, params)
    target = layout.report
    with replace_file(target) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return target


def render(contents: Contents, layout: Layout, params: Params) -> str:
    checks = contents.summary.verdict.checks
    summary = contents.summary
    costs = [figures.memory(summary, params.gates.max_memory_mb), figures.latency(summary, params.gates.max_latency_ms)]
    costs += [figures.stage_times(contents.timings)] if contents.timings else []
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            stylesheet=stylesheet(),
            contents=contents,
            summary=summary,
            params=params,
            totals=formatting.Totals.of(contents.classes),
            headline=formatting.headline(summary),
            in_numbers=formatting.headline_numbers(contents),
            failed=[check for check in checks if not check.passed],
            passed=[check for check in checks if check.passed],
            sections=_sections(contents, layout, params),
            axis=figures.auroc_axis(cls.metrics for cls in contents.classes),
            migration=migration_section(contents.timeline) if contents.timeline else None,
            training=figures.training(contents.history) if contents.history else (),
            costs=[figure for figure in costs if figure is not None],
            costs_in_words=formatting.costs(summary),
            docs_link=_relative(layout.validation / "docs/index.html", layout) if contents.docs_exist else "",
            splits=_splits(contents),
        )
    )


def stylesheet() -> Markup:
    """The CSS in the head of every page."""
    return Markup((HERE / "report.css").read_text(encoding="utf-8"))


def environment() -> Environment:
    """Templates of this folder, autoescaped, with the functions of formatting.py as filters."""
    loaded = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Any] = {
        "number": formatting.number,
        "percent": formatting.percent,
        "unit": formatting.unit,
        "duration": formatting.duration,
        "words": formatting.label_text,
        "join": formatting.join_words,
        "plural": formatting.plural,
    }
    loaded.filters.update(filters)
    loaded.globals["of_check"] = formatting.of_check
    return loaded


def _sections(contents: Contents, layout: Layout, params: Params) -> list[ClassSection]:
    axis = figures.auroc_axis(cls.metrics for cls in contents.classes)
    limit = shots_per_kind(len(contents.classes))
    return [
        ClassSection(
            anchor=f"class-{position}",
            contents=each,
            failed=tuple(
                check for check in contents.summary.verdict.checks if not check.passed and check.subject == each.name
            ),
            whisker=figures.auroc_whisker(each.metrics, axis),
            charts=_charts(each, params),
            galleries=gallery(
                each, layout.root, params.data, limit=limit, coverage=params.encoder.crop / params.encoder.resize
            ),
            promise=formatting.promise(each.metrics, params.evaluation.confidence),
        )
        for position, each in enumerate(contents.classes, start=1)
    ]


def _charts(contents: ClassContents, params: Params) -> tuple[figures.Figure, ...]:
    drawn = (
        figures.score_histogram(contents),
        figures.roc(contents),
        figures.robustness(contents.metrics, params.gates.max_flip_share),
    )
    return tuple(figure for figure in drawn if figure is not None)


def _splits(contents: Contents) -> list[str]:
    """The names of the splits that occur, in the order of their first appearance."""
    return list(dict.fromkeys(name for counts in contents.summary.num_images.values() for name in counts))


def _relative(path: Path, layout: Layout) -> str:
    return Path(os.path.relpath(path, layout.report.parent)).as_posix()
