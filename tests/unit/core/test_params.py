"""params.yaml: unknown keys are refused by name, values by bound, and equal meaning has one hash."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from fixtures.learning import ROOT
from shadowline.core.params import EncoderParams, Params, TrainParams, load_params


@pytest.fixture
def raw() -> dict:
    """The project's params as plain, editable values."""
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def load(tmp_path):
    """Writes values as a params.yaml and loads it."""

    def write_and_load(values: object) -> Params:
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return load_params(path)

    return write_and_load


def set_at(values: dict, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


def error_of(load, values: object) -> list[str]:
    with pytest.raises(ValueError) as caught:
        load(values)
    assert not isinstance(caught.value, ValidationError), "a user reads one line per key, not pydantic's report"
    return str(caught.value).splitlines()


def test_the_project_s_own_file_is_valid(params):
    assert set(params.train.classes) <= set(params.classes)
    assert isinstance(params.train, TrainParams)


# --- unknown and missing keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("train.lrr", "train.lr"),
        ("trian", "train"),
        ("encoder.layer", "encoder.layers"),
        ("validation.severity.min_norml", "validation.severity.min_normal"),
        ("classes.solar_mono.sorce", "classes.solar_mono.source"),
        ("gates.max_latency", "gates.max_latency_ms"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one_at_any_depth(wrong, right, raw, load):
    set_at(raw, wrong, 1)
    assert error_of(load, raw) == [f"params.yaml: unknown key {wrong}; did you mean {right}?"]


def test_an_unknown_key_far_from_all_others_gets_no_guess(raw, load):
    raw["train"]["xyzzy"] = 1
    assert error_of(load, raw) == ["params.yaml: unknown key train.xyzzy"]


def test_every_wrong_key_has_a_line_of_its_own(raw, load):
    raw["train"]["lrr"], raw["gates"]["max_dropp"] = 1, 1
    assert sorted(error_of(load, raw)) == [
        "params.yaml: unknown key gates.max_dropp; did you mean gates.max_drop?",
        "params.yaml: unknown key train.lrr; did you mean train.lr?",
    ]


def leaves(model: type[Params]) -> list[str]:
    """The dotted names of all fields, nested models opened."""
    names = []
    for name, field in model.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        names += [f"{name}.{leaf}" for leaf in leaves(field.annotation)] if nested else [name]
    return names


@pytest.mark.parametrize("dotted", leaves(Params))
def test_no_value_has_a_fallback_in_the_code(dotted, raw, load):
    """What is left out of the file is an error that names it; only an encoder from the hub has no location."""
    *parents, last = dotted.split(".")
    values = raw
    for parent in parents:
        values = values[parent]
    del values[last]
    if dotted == "encoder.location":
        assert load(raw).encoder.location == ""
    else:
        assert error_of(load, raw) == [f"params.yaml: {dotted}: Field required"]


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dotted", "value", "reason"),
    [
        ("train.lr", 0, "greater than 0"),
        ("train.steps", 0, "greater than 0"),
        ("train.dropout", 1.0, "less than 1"),
        ("train.token_fraction", 0.0, "greater than 0"),
        ("train.token_fraction", 1.1, "less than or equal to 1"),
        ("train.hard_factor", -0.1, "greater than or equal to 0"),
        ("train.precision", "float16", "'auto', 'float32' or 'bfloat16'"),
        ("train.classes", [], "at least 1 item"),
        ("train.warmup_steps", -1, "greater than or equal to 0"),
        ("data.val_share", 1.5, "less than or equal to 1"),
        ("bank.shrinkage", "ledoit", "'ledoit_wolf' or 'oas'"),
        ("calibration.target_fpr", 0.0, "greater than 0"),
        ("calibration.target_fpr", 1.0, "less than 1"),
        ("calibration.bank_weights", [], "at least 1 item"),
        ("validation.severity.min_normal", "fatal", "'critical' or 'advisory'"),
        ("encoder.weights", "url", "'wheel', 'file' or 'hub'"),
        ("seed", "seven", "valid integer"),
        ("classes", {}, "at least 1 item"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_key_and_bound(dotted, value, reason, raw, load):
    set_at(raw, dotted, value)
    lines = error_of(load, raw)
    assert any(line.startswith(f"params.yaml: {dotted}: ") and reason in line for line in lines), lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.warmup_steps": 160, "train.steps": 160}, "warmup_steps 160 must be below steps 160"),
        ({"encoder.layers": [2, 3, 4]}, "layers [2, 3, 4] must be ascending, distinct and divisible into 2 groups"),
        ({"encoder.layers": [3, 2]}, "layers [3, 2] must be ascending, distinct and divisible into 2 groups"),
        ({"encoder.layers": [2, 2]}, "layers [2, 2] must be ascending, distinct and divisible into 2 groups"),
        ({"encoder.layers": []}, "layers [] must be ascending, distinct and divisible into 2 groups"),
        ({"encoder.crop": 238}, "crop 238 is larger than resize 224"),
        ({"train.classes": ["textile", "bolt"]}, "train.classes names ['bolt'], not among classes"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes, message, raw, load):
    for dotted, value in changes.items():
        set_at(raw, dotted, value)
    (line,) = error_of(load, raw)
    assert message in line


def test_a_class_s_own_promise_stands_in_for_the_common_one_and_nothing_is_left_of_a_class_that_goes(raw, load):
    params = load(raw)
    assert (params.promise("solar_poly"), params.promise("textile"), params.promise("unheard")) == (0.04, 0.05, 0.05)
    assert params.calibration_of("solar_poly") == params.calibration.model_copy(update={"target_fpr": 0.04})
    raw["train"]["classes"].remove("solar_poly")
    del raw["classes"]["solar_poly"]
    assert load(raw).promise("solar_poly") == 0.05


def test_the_old_place_of_the_promises_names_the_new_one(raw, load):
    raw["calibration"]["class_target_fpr"] = {"solar_poly": 0.07}
    assert error_of(load, raw) == [
        "params.yaml: unknown key calibration.class_target_fpr; it is classes.<name>.target_fpr now"
    ]


@pytest.mark.parametrize("name", ["Solar", "../etc", "a/b", "", "-x", "a b", "x" * 65, "ä"])
def test_a_class_name_is_safe_as_a_file_name(name, raw, load):
    raw["classes"][name] = dict(raw["classes"]["textile"])
    assert any("classes" in line and "pattern" in line for line in error_of(load, raw))


def test_a_missing_file_names_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; run from the project's root"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "hello"])
def test_a_file_that_is_no_mapping_is_refused(text, tmp_path):
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"params.yaml: expected a mapping at the top level"):
        load_params(tmp_path / "params.yaml")


# --- frozen, and one hash per meaning -------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "field"), [("train", "lr"), ("gates", "max_drop"), (None, "seed")])
def test_params_are_frozen(part, field, params):
    with pytest.raises(ValidationError, match="frozen"):
        setattr(getattr(params, part) if part else params, field, 1)


def test_sequences_are_frozen_too(params):
    assert isinstance(params.encoder, EncoderParams)
    assert isinstance(params.encoder.layers, tuple)
    assert all(isinstance(shares, tuple) for shares in params.calibration.poolings)


def shuffled(value: object, rng: random.Random) -> object:
    """The same mapping with its keys in another order, at every depth; lists keep theirs."""
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key], rng) for key in rng.sample(list(value), len(value))}


def test_the_hash_ignores_order_comments_and_formatting(raw, load, params, tmp_path):
    rewritten = Path(tmp_path / "flow.yaml")
    text = yaml.safe_dump(shuffled(raw, random.Random(0)), default_flow_style=True, sort_keys=False)
    rewritten.write_text(f"# another comment\n{text}", encoding="utf-8")
    assert load_params(rewritten).hash() == params.hash() == load(raw).hash()


def test_the_hash_ignores_how_a_number_is_written(raw, load, params):
    raw["train"]["lr"], raw["gates"]["max_memory_mb"] = "2.0e-3", 1024.0
    assert load(raw).hash() == params.hash()


@pytest.mark.parametrize(
    ("dotted", "value"), [("seed", 8), ("train.lr", 0.0021), ("encoder.layers", [2, 3]), ("gates.max_drop", 0.021)]
)
def test_the_hash_knows_every_value(dotted, value, raw, load, params):
    set_at(raw, dotted, value)
    assert load(raw).hash() != params.hash()


def test_a_class_more_is_another_hash(raw, load, params):
    raw["classes"]["bolt"] = dict(raw["classes"]["textile"])
    assert load(raw).hash() != params.hash()
