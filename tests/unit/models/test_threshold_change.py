"""Only the threshold may differ: what a stored score can answer for, and what it cannot; and what the engine makes of
it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from shadowline.core.params import Params
from shadowline.evaluation.evidence import Evidence, slot_of
from shadowline.models.fingerprints import class_fingerprints
from shadowline.models.threshold_change import check_only_threshold_differs, read_deciding
from shadowline.rollout.engine import ActionKind, retune, step
from shadowline.rollout.observation import Observation
from shadowline.rollout.phases import BOTH_JUDGE, LEGAL_MOVES, TAKEN_OVER, Phase
from shadowline.rollout.rehearsal import Line, Reviews, SimulatedCandidate, rehearse
from shadowline.rollout.state import ClassState, RolloutState
from shadowline.rollout.weighing import weigh

START = datetime(2026, 1, 5, 6, tzinfo=UTC)
NOW = START + timedelta(days=40)
CALIBRATION = {
    "threshold": 3.0,
    "target_fpr": 0.05,
    "smoothing_sigma": 1.0,
    "recipe": {"weights": [0.5, 0.5], "pools": [{"share": 0.01, "scale": {"median": 0.0, "sigma": 1.0}}]},
    "map_scales": [{"median": 0.0, "sigma": 1.0}],
}


def packaged(folder: Path, calibration: dict[str, Any] = CALIBRATION, **files: str) -> Path:
    """As much of a package as decides on the classes bolt and nut."""
    names = ("encoder.safetensors", "encoder.json", "decoder.safetensors", "banks/bolt.safetensors")
    contents = {name: name for name in (*names, "banks/nut.safetensors")}
    contents["calibration.json"] = json.dumps({"bolt": calibration, "nut": CALIBRATION})
    for name, text in (contents | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_another_threshold_and_its_promise_are_a_tuning(tmp_path: Path) -> None:
    tuned = packaged(
        tmp_path / "b", CALIBRATION | {"threshold": 2.5, "target_fpr": 0.1}, **{"banks/nut.safetensors": "x"}
    )
    before, after = read_deciding(packaged(tmp_path / "a"), "bolt"), read_deciding(tuned, "bolt")
    check_only_threshold_differs(before, after)
    assert (before.threshold, after.threshold) == (3.0, 2.5)
    assert before.fingerprint != after.fingerprint == class_fingerprints(tuned)["bolt"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"smoothing_sigma": 2.0}, "calibration.smoothing_sigma"),
        ({"recipe": CALIBRATION["recipe"] | {"weights": [1.0, 0.0]}}, "calibration.recipe.weights"),  # type: ignore[operator]
        ({"map_scales": [{"median": 0.1, "sigma": 1.0}]}, "calibration.map_scales"),
        ({"more": 1}, "calibration.more"),
    ],
)
def test_anything_else_of_the_calibration_is_a_new_candidate(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    before = read_deciding(packaged(tmp_path / "a"), "bolt")
    after = read_deciding(packaged(tmp_path / "b", CALIBRATION | {"threshold": 2.5} | change), "bolt")
    with pytest.raises(ValueError, match=rf"differs from .* in {named}, .* a new candidate goes through shadow mode"):
        check_only_threshold_differs(before, after)


@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "encoder.json", "decoder.safetensors", "banks/bolt.safetensors"]
)
def test_every_file_that_scores_the_class_must_be_the_same(tmp_path: Path, name: str) -> None:
    before = read_deciding(packaged(tmp_path / "a"), "bolt")
    after = read_deciding(packaged(tmp_path / "b", **{name: "other"}), "bolt")
    with pytest.raises(ValueError, match=f"in file.{name}, not only in its threshold"):
        check_only_threshold_differs(before, after)


def test_a_class_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class 'gear': not in .* it knows bolt, nut"):
        read_deciding(packaged(tmp_path / "a"), "gear")


# --- the engine -----------------------------------------------------------------------------------------------------


def state_of(phase: Phase, *others: Phase) -> RolloutState:
    def one(name: str, phase: Phase) -> ClassState:
        answering = START + timedelta(days=20) if phase in TAKEN_OVER | {Phase.CANARY} else None
        held = {"held_from": Phase.LIVE, "held_at": START} if phase is Phase.HELD else {}
        share = 1.0 if phase in TAKEN_OVER else 0.1 if phase is Phase.CANARY else 0.0
        since = START + timedelta(days=21)
        return ClassState(
            name, 1, phase, since, "old", "new", share, days_before=3, evidence_since=START, answering_since=answering,
            **held,  # type: ignore[arg-type]
        )  # fmt: skip

    return RolloutState((one("bolt", phase), *(one(f"class_{n}", each) for n, each in enumerate(others))), 7)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_class_is_tuned_where_both_models_judge_and_nowhere_else(phase: Phase) -> None:
    state = state_of(phase)
    if phase not in BOTH_JUDGE:
        with pytest.raises(
            ValueError, match=rf"is in {phase}; a threshold is tuned in shadow, canary, live, legacy_read_"
        ):
            retune(state, "bolt", "tuned", NOW, "Ada", "why")
        return
    done = retune(state, "bolt", "tuned", NOW, "Ada", "why")
    expected = replace(state.of("bolt"), candidate="tuned", since=NOW, days_before=0, reason="why")
    assert done.state == RolloutState((expected,), 8)
    (event,) = done.events
    assert (event.revision, event.by, event.source, event.after, event.is_move) == (8, "Ada", phase, expected, False)


@pytest.mark.parametrize("fingerprint", ["old", "new"])
def test_a_model_that_is_at_work_there_is_no_tuning(fingerprint: str) -> None:
    with pytest.raises(ValueError, match="is at work there already"):
        retune(state_of(Phase.LIVE), "bolt", fingerprint, NOW, "Ada", "why")


def test_where_every_class_is_live_the_version_that_holds_the_new_threshold_becomes_champion() -> None:
    kinds = [action.kind for action in retune(state_of(Phase.LIVE, Phase.LIVE), "bolt", "t", NOW, "Ada", "w").actions]
    assert kinds == [ActionKind.PROMOTE]
    assert not retune(state_of(Phase.LIVE, Phase.CANARY), "bolt", "t", NOW, "Ada", "w").actions


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    phase=st.sampled_from(sorted(BOTH_JUDGE)), missed=st.sampled_from([0.0, 0.1, 0.9]), days=st.integers(0, 60),
    later=st.integers(0, 30),
)  # fmt: skip
def test_no_tick_after_a_tuning_moves_illegally_or_on_the_days_before_it(
    params: Params, phase: Phase, missed: float, days: int, later: int
) -> None:
    """The evidence, decided again, may be good or bad and as long as it wants."""
    state = retune(state_of(phase), "bolt", "tuned", NOW, "Ada", "why").state
    now = NOW + timedelta(days=later)
    table = rehearse(Line(), SimulatedCandidate(missed=missed), Reviews(), days, seed=days)
    closed = slot_of(now)
    evidence = Evidence(table.where(table.slot < closed), closed, slot_of(START + timedelta(days=20)))
    seen = weigh(state.of("bolt"), evidence, (), params.shadow, params.rollout)
    after = step(state, Observation(now, {}, (seen,)), params.rollout).state.of("bolt")
    assert after.phase is phase or after.phase in LEGAL_MOVES[phase]
    waits = {Phase.CANARY: params.rollout.canary_days, Phase.LIVE: params.rollout.stabilisation_days}.get(phase, 0)
    if later < waits:
        assert (after.phase, after.share) == (phase, state.of("bolt").share) or after.phase is Phase.ROLLED_BACK
