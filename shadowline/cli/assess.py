"""`shadowline assess`: whether a migration suits a factory, and which classes go first."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from shadowline.cli.output import Table, coloured, print_tables, say
from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.rollout.assessment import ADVICE, Assessment, Economy, Goal, Suitability
from shadowline.rollout.assessment import assess as assess_inventory
from shadowline.rollout.inventory import load_inventory


def assess(
    inventory: Annotated[Path, typer.Argument(help="YAML: the site, and one entry per single-class model.")],
    out: Annotated[Path | None, typer.Option(help="Write the waves here, for `shadowline rollout plan`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Judge by an inventory of single-class models whether to migrate, and propose waves, low risk first.

    Exit code 0: suitability High or Medium, 1: Low, 2: the inventory cannot be used.

    Example: `shadowline assess docs/examples/inventory.yaml --out plan.json`
    """
    assessment = assess_inventory(load_inventory(inventory), load_params(Layout().params), datetime.now(UTC))
    if out is not None:
        write_json(out, assessment.plan())
    if as_json:
        typer.echo(json.dumps({**asdict(assessment), **assessment.plan()}))
    else:
        _print(assessment)
    raise typer.Exit(1 if assessment.suitability is Suitability.LOW else 0)


def _print(assessment: Assessment) -> None:
    met = sum(row.met for row in assessment.checklist)
    checklist = Table("item", "met", "found", "what would meet it", title="Suitability")
    for row in assessment.checklist:
        is_met = coloured("yes", "green") if row.met else coloured("no", "red")
        checklist.add_row(row.name, is_met, row.found, "" if row.met else row.action)
    waves = Table("wave", "class", "why", title="Proposed waves")
    for number, wave in enumerate(assessment.waves, start=1):
        for name in wave:
            waves.add_row(str(number), name, assessment.reasons[name].partition(": ")[2])
    print_tables(checklist)
    say(f"{met} of {len(assessment.checklist)} met: {assessment.suitability} – {ADVICE[assessment.suitability]}", "")
    print_tables(_goal_table(assessment.goals), _economy_table(assessment.economy), waves)


def _goal_table(goals: tuple[Goal, ...]) -> Table:
    table = Table("goal", "today", "bound", "expected", title="What the migration must bring")
    for goal in goals:
        numbers = (_number(value, goal.unit) for value in (goal.today, goal.bound))
        expected = "to be measured" if goal.expected is None else _number(goal.expected, goal.unit)
        table.add_row(goal.name, *numbers, expected)
    return table


def _economy_table(economy: Economy) -> Table:
    table = Table(f"{economy.num_classes} classes, $", "single-class", "multi-class", "saved", title="Economics")
    rows = {
        "build": (economy.single.build, economy.multi.build),
        "a year": (economy.single.yearly, economy.multi.yearly),
        f"{economy.horizon_years} years": (economy.single.total, economy.multi.total),
        "a new class": (economy.new_class_single, economy.new_class_multi),
        "a year, as paid today": (economy.paid_today, economy.multi.yearly),
    }
    for name, (single, multi) in rows.items():
        table.add_row(name, f"{single:,.0f}", f"{multi:,.0f}", f"{1 - multi / single:.0%}" if single else "-")
    never = "never"
    table.add_row("cheaper to build from class", "", str(economy.break_even_class or never), "")
    months = never if economy.payback_months is None else f"{economy.payback_months:.1f}"
    table.add_row("months to pay the build", "", months, "")
    return table


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f} $" if unit == "$" else f"{value:.1f} h" if unit == "h" else f"{value:.3f}"
