"""The assessment of a factory: the checklist, the goals, the formulas at the worked example's numbers, the waves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.learning import ROOT
from shadowline.core.atomic_files import write_json
from shadowline.core.params import Params
from shadowline.rollout.assessment import Assessment, Suitability, assess, economy, propose_waves
from shadowline.rollout.inventory import Inventory, load_inventory
from shadowline.rollout.plan import EXAMPLE, load_plan

NOW = datetime(2026, 3, 2, tzinfo=UTC)
WORKED, DEMO = ROOT / "docs/examples/inventory.yaml", ROOT / "docs/examples/inventory-demo.yaml"


def entry(name: str, **changes: Any) -> dict[str, Any]:
    """A model that may go first."""
    facts = {"auroc": 0.98, "storage_mb": 100, "hours_per_month": 4, "yearly_cost": 4000, "critical": False}
    return {"class": name, **facts, "stable": True, "baseline_known": True, "material": name, "size": "m", **changes}


def inventory(*models: dict[str, Any], **site: Any) -> Inventory:
    """Six models that meet every item of the checklist, where none are given."""
    facts = {
        "normal_images_per_class": 200,
        "consistent_imaging": True,
        "accelerator_gb": 8,
        "cloud": False,
        "new_products_per_year": 12,
        "engineer_rate": 100,
        "accelerator_rate": 2,
    }
    entries = models or tuple(entry(f"c{number}") for number in range(6))
    return Inventory.model_validate({"site": {**facts, **site}, "models": entries})


def in_waves_of(params: Params, size: int) -> Params:
    return params.model_copy(update={"rollout": params.rollout.model_copy(update={"wave_size": size})})


def found(params: Params, *models: dict[str, Any], **site: Any) -> Assessment:
    return assess(inventory(*models, **site), params, NOW)


# --- economics ------------------------------------------------------------------------------------------------------


def test_fifteen_classes_cost_what_the_worked_example_says(params):
    costs = economy(inventory(*(entry(f"c{n}") for n in range(15))), params.assessment)
    assert (costs.single.build, costs.multi.build) == (24_240, 1_608)
    assert (costs.single.yearly, costs.multi.yearly) == (27_640, 5_232)
    assert (costs.single.total, costs.multi.total) == (107_160, 17_304)
    assert round(1 - costs.multi.build / costs.single.build, 2) == 0.93
    assert round(1 - costs.multi.yearly / costs.single.yearly, 2) == 0.81
    assert round(1 - costs.multi.total / costs.single.total, 2) == 0.84


def test_a_new_class_and_the_break_even_are_those_of_the_worked_example(params):
    costs = economy(inventory(), params.assessment)
    assert (costs.new_class_single, costs.new_class_multi) == (1_616, 50)
    assert costs.break_even_class == 2


def test_the_multi_class_model_costs_the_same_for_any_number_of_classes(params):
    few, many = (
        economy(inventory(*(entry(f"c{n}") for n in range(count))), params.assessment).multi for count in (5, 50)
    )
    assert few == many


def test_fifty_classes_follow_the_formula(params):
    costs = economy(inventory(*(entry(f"c{n}") for n in range(50))), params.assessment)
    assert (costs.single.build, costs.single.yearly) == (80_800, 56_200)


def test_rates_of_the_site_enter_every_cost(params):
    costs = economy(inventory(engineer_rate=50, accelerator_rate=10), params.assessment)
    assert costs.new_class_single == 8 * 50 + 8 * 60
    assert costs.multi.build == 12 * 50 + 4 * 60
    assert costs.multi.yearly == 16 * 60 + 26 * 50 + 1_000


def test_break_even_is_the_first_class_at_which_the_multi_class_model_is_cheaper(params):
    policy = params.assessment
    dear = policy.model_copy(update={"multi": policy.multi.model_copy(update={"prepare_hours": 100})})
    costs = economy(inventory(), dear)
    n = costs.break_even_class
    assert n == 8
    assert costs.multi.build + n * 50 <= n * 1_616
    assert costs.multi.build + (n - 1) * 50 > (n - 1) * 1_616
    endless = policy.model_copy(update={"new_class_hours": 17})
    assert economy(inventory(), endless).break_even_class is None


def test_a_factory_that_pays_less_today_than_the_model_would_cost_never_gets_the_build_back(params):
    assert economy(inventory(entry("a", yearly_cost=5_232)), params.assessment).payback_months is None
    paid = economy(inventory(entry("a", yearly_cost=5_232 + 1_608)), params.assessment)
    assert paid.payback_months == pytest.approx(12)


# --- suitability and goals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "change"),
    [
        ("normal images per class", {"normal_images_per_class": 99}),
        ("consistent imaging", {"consistent_imaging": False}),
        ("accelerator or cloud", {"accelerator_gb": 7.9}),
        ("frequent new products", {"new_products_per_year": 3}),
    ],
)
def test_each_fact_of_the_site_fails_its_own_item_alone_and_says_what_would_meet_it(params, item, change):
    rows = found(params, **change).checklist
    assert [row.name for row in rows if not row.met] == [item]
    assert all(row.action for row in rows)
    assert all(row.met for row in found(params).checklist)


def test_too_few_or_too_easy_models_fail_their_items(params):
    four = found(params, *(entry(f"c{n}", hours_per_month=5) for n in range(4)))
    assert [row.name for row in four.checklist if not row.met] == ["product classes"]
    easy = found(params, *(entry(f"c{n}", hours_per_month=3) for n in range(6)))
    assert [row.name for row in easy.checklist if not row.met] == ["high burden of maintenance"]


def test_a_cloud_stands_for_an_accelerator(params):
    assert found(params, accelerator_gb=0, cloud=True).suitability is Suitability.HIGH


def test_six_items_are_high_four_or_five_medium_fewer_low(params):
    worse = {"consistent_imaging": False, "accelerator_gb": 0, "new_products_per_year": 0, "normal_images_per_class": 0}
    steps = [found(params, **dict(list(worse.items())[:count])).suitability for count in range(5)]
    assert [str(step) for step in steps] == ["High", "Medium", "Medium", "Low", "Low"]


def test_the_goals_are_in_the_factory_s_own_numbers(params):
    auroc, cost, hours = assess(load_inventory(WORKED), params, NOW).goals
    assert auroc.today == pytest.approx(0.985) and auroc.bound == pytest.approx(0.975)
    assert (cost.today, cost.bound, cost.expected) == (48_000, 24_000, 5_232)
    assert (hours.today, hours.bound, hours.expected) == (40, pytest.approx(12), 3.5)
    assert (auroc.met, cost.met, hours.met) == (None, True, True)


def test_an_auroc_that_nobody_knows_is_unknown_and_not_zero(params):
    goals = found(params, *(entry(f"c{n}", auroc=None, baseline_known=False) for n in range(6))).goals
    assert (goals[0].today, goals[0].bound) == (None, None)


# --- waves ----------------------------------------------------------------------------------------------------------


def test_low_risk_goes_first(params):
    models = inventory(
        entry("critical", critical=True),
        entry("unstable", stable=False),
        entry("unmeasured", baseline_known=False),
        entry("alone"),
        entry("twin_b", material="steel"),
        entry("twin_a", material="steel"),
    ).models
    waves = propose_waves(models, 2)
    assert waves == (("twin_a", "twin_b"), ("alone", "unmeasured"), ("unstable", "critical"))
    assert propose_waves(tuple(reversed(models)), 2) == waves


def test_every_class_goes_exactly_once_and_no_wave_is_larger_than_the_policy(params):
    waves = assess(load_inventory(WORKED), in_waves_of(params, 5), NOW).waves
    assert [len(wave) for wave in waves] == [5, 5, 2]
    names = [model.class_name for model in load_inventory(WORKED).models]
    assert sorted(name for wave in waves for name in wave) == sorted(names)


def test_the_worked_example_is_suited_and_its_pilot_is_bottle_cable_wood(params):
    result = assess(load_inventory(WORKED), in_waves_of(params, 3), NOW)
    assert result.suitability is Suitability.HIGH
    assert result.waves[0] == ("bottle", "cable", "wood")
    assert result.reasons["cable"] == "wave 1: not critical, stable, baseline known, similar to bottle, wood"
    assert result.reasons["transistor"] == "wave 4: critical, changes often, baseline known, similar to no other"


def test_the_demo_s_inventory_names_the_demo_s_classes(params):
    result = assess(load_inventory(DEMO), params, NOW)
    assert result.suitability is Suitability.MEDIUM
    assert {name for wave in result.waves for name in wave} == set(params.classes)


def test_a_rollout_reads_the_plan_that_an_assessment_writes(params, tmp_path):
    plan = assess(load_inventory(DEMO), in_waves_of(params, 2), NOW).plan()
    write_json(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json").waves == plan["waves"]
    (tmp_path / "plan.json").write_text(EXAMPLE, encoding="utf-8")
    assert load_plan(tmp_path / "plan.json").waves == [["textile", "carpet"], ["bolt"]]


def test_the_plan_holds_what_a_rollout_begins_with(params):
    plan = assess(load_inventory(DEMO), in_waves_of(params, 2), NOW).plan()
    assert plan.keys() == {"waves", "reasons", "assessed_at"}
    assert plan["waves"] == [["solar_mono", "solar_poly"], ["textile"]]
    assert plan["reasons"].keys() == set(params.classes)
    assert datetime.fromisoformat(plan["assessed_at"]) == NOW


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auroc": 98.5}, "models.0.auroc: Input should be less than or equal to 1"),
        ({"auroc": float("nan")}, "models.0.auroc: Input should be a finite number"),
        ({"auroc": None}, "class 'bolt': baseline_known, but no auroc"),
        ({"hours_per_month": -1}, "models.0.hours_per_month: Input should be greater than or equal to 0"),
        ({"crtical": True}, "models.0.crtical: Extra inputs are not permitted"),
        ({"class": "../bolt"}, "models.0.class: String should match pattern"),
    ],
)
def test_an_inventory_that_cannot_be_true_is_refused_with_the_place(change, message, tmp_path):
    raw = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    raw["models"] = [entry("bolt", **change)]
    with pytest.raises(ValueError, match=message) as refused:
        load_inventory(write(raw, tmp_path))
    assert str(refused.value).startswith("inventory.yaml: ")


def test_a_class_with_two_models_or_no_model_at_all_is_refused(tmp_path):
    raw = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"classes \['bolt'\] occur more than once"):
        load_inventory(write({**raw, "models": [entry("bolt"), entry("bolt")]}, tmp_path))
    with pytest.raises(ValueError, match="models: Tuple should have at least 1 item"):
        load_inventory(write({**raw, "models": []}, tmp_path))


def test_a_file_that_is_missing_or_no_yaml_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"docs/examples/inventory.yaml shows what it holds"):
        load_inventory(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("site: [", encoding="utf-8")
    with pytest.raises(ValueError, match="not YAML"):
        load_inventory(tmp_path / "broken.yaml")


def write(raw: object, folder: Path) -> Path:
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path
