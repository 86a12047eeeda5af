"""Assesses a migration for a factory: whether it suits, its goals, its costs, and which classes go first.

    inventory = load_inventory(Path("docs/examples/inventory.yaml"))
    result = assess(inventory, params, datetime.now(UTC))
    result.suitability, result.goals, result.economy.break_even_class, result.plan()["waves"]

Where checklist, goals and formulas come from: docs/decisions/0008; their numbers stand in params.yaml.
Money is in $, AUROC and shares in 0…1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from shadowline.core.params import AssessmentParams, EffortParams, Params
from shadowline.rollout.inventory import Inventory, LegacyEntry, Site

WEEKS_PER_YEAR, MONTHS_PER_YEAR = 52, 12


class Suitability(StrEnum):
    """How well a migration suits a factory."""

    HIGH = "High"
    MEDIUM = "Medium"
    LOW = "Low"


ADVICE = {
    Suitability.HIGH: "go: start with the first wave",
    Suitability.MEDIUM: "pilot: migrate the first wave alone, then assess again",
    Suitability.LOW: "stay with the single-class models",
}


@dataclass(frozen=True)
class ChecklistRow:
    """One item of the suitability checklist."""

    name: str
    met: bool
    found: str  # what the inventory says, with the bound
    action: str  # what would meet it


@dataclass(frozen=True)
class Goal:
    """What the migration must reach, in this factory's own numbers."""

    name: str
    unit: str
    today: float | None  # None where the inventory does not say
    bound: float | None  # the goal
    expected: float | None  # by the formulas; None: only a measurement can tell

    @property
    def met(self) -> bool | None:
        """Whether the formulas predict it; None where only a measurement can tell."""
        return None if self.expected is None or self.bound is None else self.expected <= self.bound


@dataclass(frozen=True)
class Cost:
    """$ to build, to keep for a year, and in all over the horizon."""

    build: float
    yearly: float
    total: float


@dataclass(frozen=True)
class Economy:
    """The multi-class model against single-class models, as formulas; and against what the factory pays today."""

    num_classes: int
    horizon_years: int
    single: Cost
    multi: Cost
    new_class_single: float  # $
    new_class_multi: float  # $
    break_even_class: int | None  # from this number of classes on, `multi` is cheaper to build; None: never
    paid_today: float  # $ a year, by the inventory
    payback_months: float | None  # until what is saved against today has paid the build; None: never


@dataclass(frozen=True)
class Assessment:
    suitability: Suitability
    checklist: tuple[ChecklistRow, ...]
    goals: tuple[Goal, ...]
    economy: Economy
    waves: tuple[tuple[str, ...], ...]
    reasons: dict[str, str]  # class → why it goes when it goes
    assessed_at: datetime

    def plan(self) -> dict[str, Any]:
        """What `shadowline rollout plan` reads, as JSON values."""
        waves = [list(wave) for wave in self.waves]
        return {"waves": waves, "reasons": self.reasons, "assessed_at": self.assessed_at.isoformat()}


def assess(inventory: Inventory, params: Params, now: datetime) -> Assessment:
    checklist = tuple(_checklist(inventory, params))
    waves = propose_waves(inventory.models, params.rollout.wave_size)
    return Assessment(
        suitability=_suitability(sum(row.met for row in checklist), params.assessment),
        checklist=checklist,
        goals=_goals(inventory, params),
        economy=economy(inventory, params.assessment),
        waves=waves,
        reasons=_reasons(inventory.models, waves),
        assessed_at=now,
    )


# --- suitability and goals ------------------------------------------------------------------------------------------


def _checklist(inventory: Inventory, params: Params) -> Iterator[ChecklistRow]:
    """The six items of section 9.1."""
    site, policy, needed = inventory.site, params.assessment, params.validation.min_normal
    count, images, hours = len(inventory.models), site.normal_images_per_class, _hours(inventory)
    gigabytes, new = site.accelerator_gb, site.new_products_per_year
    yield ChecklistRow(
        "product classes", count >= policy.min_classes, f"{count}, need {policy.min_classes}",
        "wait until there are more; a few models are cheap to keep",
    )  # fmt: skip
    yield ChecklistRow(
        "normal images per class", images >= needed, f"{images}, need {needed}", "collect more normal images"
    )
    yield ChecklistRow(
        "consistent imaging", site.consistent_imaging, "yes" if site.consistent_imaging else "no",
        "fix light, angle and background first",
    )  # fmt: skip
    yield ChecklistRow(
        "accelerator or cloud", site.cloud or gigabytes >= policy.min_accelerator_gb,
        "cloud" if site.cloud else f"{gigabytes:g} GB, need {policy.min_accelerator_gb:g}",
        "rent one in a cloud for the training",
    )  # fmt: skip
    yield ChecklistRow(
        "high burden of maintenance", hours >= policy.high_burden_hours,
        f"{hours:g} h a month, high from {policy.high_burden_hours:g}", "there is little to save in hours",
    )  # fmt: skip
    yield ChecklistRow(
        "frequent new products", new >= policy.frequent_new_products,
        f"{new} a year, frequent from {policy.frequent_new_products}", "there is little to save in onboarding",
    )  # fmt: skip


def _suitability(num_met: int, policy: AssessmentParams) -> Suitability:
    if num_met >= policy.high_items:
        return Suitability.HIGH
    return Suitability.MEDIUM if num_met >= policy.medium_items else Suitability.LOW


def _goals(inventory: Inventory, params: Params) -> tuple[Goal, ...]:
    policy, site = params.assessment, inventory.site
    aurocs = [model.auroc for model in inventory.models if model.auroc is not None]
    auroc = sum(aurocs) / len(aurocs) if aurocs else None
    aim = None if auroc is None else auroc - params.gates.max_mean_drop
    paid, hours = _paid(inventory), _hours(inventory)
    affordable, bearable = paid * (1 - policy.min_cost_cut), hours * (1 - policy.min_maintenance_cut)
    return (
        Goal("mean image AUROC, at least", "", auroc, aim, None),
        Goal("yearly cost, at most", "$", paid, affordable, _cost(policy.multi, 1, site, policy).yearly),
        Goal("maintenance a month, at most", "h", hours, bearable, _monthly_hours(policy)),
    )


def _hours(inventory: Inventory) -> float:
    return math.fsum(model.hours_per_month for model in inventory.models)


def _paid(inventory: Inventory) -> float:
    return math.fsum(model.yearly_cost for model in inventory.models)


def _monthly_hours(policy: AssessmentParams) -> float:
    """Hours a month of the multi-class model: retraining and monitoring."""
    yearly = policy.retrainings_per_year * policy.multi.retrain_hours
    return (yearly + WEEKS_PER_YEAR * policy.multi.monitor_hours_per_week) / MONTHS_PER_YEAR


# --- economics, section 7.2 -----------------------------------------------------------------------------------------


def economy(inventory: Inventory, policy: AssessmentParams) -> Economy:
    """Both ways to inspect the inventory's classes, at the site's rates."""
    site, count = inventory.site, len(inventory.models)
    single, multi = _cost(policy.single, count, site, policy), _cost(policy.multi, 1, site, policy)
    per_model = _build(policy.single, site)
    added = policy.new_class_hours * site.engineer_rate
    paid = _paid(inventory)
    saved = paid - multi.yearly
    return Economy(
        num_classes=count,
        horizon_years=policy.horizon_years,
        single=single,
        multi=multi,
        new_class_single=per_model,
        new_class_multi=added,
        break_even_class=_break_even(multi.build, per_model, added),
        paid_today=paid,
        payback_months=MONTHS_PER_YEAR * multi.build / saved if saved > 0 else None,
    )


def _cost(effort: EffortParams, num_models: int, site: Site, policy: AssessmentParams) -> Cost:
    both = site.engineer_rate + site.accelerator_rate
    build = num_models * _build(effort, site)
    retraining = policy.retrainings_per_year * num_models * effort.retrain_hours * both
    monitoring = WEEKS_PER_YEAR * effort.monitor_hours_per_week * site.engineer_rate
    yearly = retraining + monitoring + effort.fixes_per_year
    return Cost(build, yearly, build + policy.horizon_years * yearly)


def _build(effort: EffortParams, site: Site) -> float:
    """$ of one model."""
    by_hand = (effort.prepare_hours + effort.validate_hours) * site.engineer_rate
    return by_hand + effort.train_hours * (site.engineer_rate + site.accelerator_rate)


def _break_even(build: float, per_model: float, added: float) -> int | None:
    """The smallest n with build + n · added ≤ n · per_model."""
    return max(1, math.ceil(build / (per_model - added))) if per_model > added else None


# --- waves, section 9.4 ---------------------------------------------------------------------------------------------


def propose_waves(models: Sequence[LegacyEntry], wave_size: int) -> tuple[tuple[str, ...], ...]:
    """Low risk first: not critical before critical, then stable, then with a baseline, then large similar groups.

    The order within equal risk is by group and name, so that the same inventory gives the same waves.
    """
    sizes = Counter(model.group for model in models)

    def risk(model: LegacyEntry) -> tuple[bool, bool, bool, int, tuple[str, str], str]:
        return (
            model.critical,
            not model.stable,
            not model.baseline_known,
            -sizes[model.group],
            model.group,
            model.class_name,
        )

    ordered = [model.class_name for model in sorted(models, key=risk)]
    return tuple(tuple(ordered[start : start + wave_size]) for start in range(0, len(ordered), wave_size))


def _reasons(models: Sequence[LegacyEntry], waves: Sequence[Sequence[str]]) -> dict[str, str]:
    number = {name: index for index, wave in enumerate(waves, start=1) for name in wave}
    return {model.class_name: f"wave {number[model.class_name]}: {_why(model, models)}" for model in models}


def _why(model: LegacyEntry, models: Sequence[LegacyEntry]) -> str:
    mates = sorted(other.class_name for other in models if other.group == model.group and other is not model)
    facts = (
        "critical" if model.critical else "not critical",
        "stable" if model.stable else "changes often",
        "baseline known" if model.baseline_known else "no baseline",
        f"similar to {', '.join(mates)}" if mates else "similar to no other",
    )
    return ", ".join(facts)
