"""Classes of every size, from counts to the verdict: splits, recipe, threshold, identity and gates, on made scores."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.learning import ROOT
from shadowline.core.params import load_params
from shadowline.data.class_forecast import ClassCounts, ClassForecast, forecast_class
from shadowline.evaluation.gates import ClassEvidence, GateEvidence, Verdict, evaluate_gates
from shadowline.evaluation.metrics import auroc, bootstrap, practicality
from shadowline.models.calibration import CalibrationResult, calibrate
from shadowline.models.class_identification import ClassIdentity, Identities

PARAMS = load_params(ROOT / "params.yaml")
FEW_RECIPES = {"bank_weights": (0.0, 1.0), "poolings": ((0.1,), (0.1, 1.0))}  # the targets are those that are shipped
SIDE, WIDTH = 6, 8  # patches along a map's side, numbers of an embedding
# normal training images, normal test images, defects. MVTec AD: Bergmann et al., CVPR 2019, table 1
MVTEC_AD = {
    "carpet": (280, 28, 89), "grid": (264, 21, 57), "leather": (245, 32, 92), "tile": (230, 33, 84),
    "wood": (247, 19, 60), "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109),
    "hazelnut": (391, 40, 70), "metal_nut": (220, 22, 93), "pill": (267, 26, 141), "screw": (320, 41, 119),
    "toothbrush": (60, 12, 30), "transistor": (213, 60, 40), "zipper": (240, 32, 119),
}  # fmt: skip
OWN = {
    "sixty": ClassCounts(unassigned=60),
    "fewest": ClassCounts(unassigned=21),
    "no_defects": ClassCounts(train=150, test=30),
    "no_test_normals": ClassCounts(train=150, defects=12),
    "own_val": ClassCounts(train=150, val=10, test=30, defects=12),
    "one_defect": ClassCounts(train=150, test=30, defects=1),
}


def maps(rng: np.random.Generator, count: int, sigmas: float = 0.0) -> np.ndarray:
    """(B, 3, P) raw maps; `sigmas` lifts a corner of the second."""
    made = rng.normal(size=(count, 3, SIDE * SIDE))
    made[:, 1, :4] += sigmas
    return made


def evidence_of(forecast: ClassForecast, number: int) -> tuple[ClassEvidence, CalibrationResult]:
    rng, splits = np.random.default_rng(number), forecast.splits
    result = calibrate(
        forecast.class_name,
        maps(rng, splits.selecting),
        {"known defects": maps(rng, splits.tune or splits.selecting, 9.0)},
        maps(rng, splits.calibrating),
        PARAMS.calibration_of(forecast.class_name).model_copy(update=FEW_RECIPES),
    )
    raw = np.r_[maps(rng, splits.test_normal), maps(rng, splits.test_anomalous, 9.0)]
    anomalous = np.arange(len(raw)) >= splits.test_normal
    scores = result.calibration.score_raw(raw)
    measured = practicality(scores, anomalous)
    value = bootstrap(auroc, scores, anomalous, resamples=20, confidence=0.95, seed=7).value
    evidence = ClassEvidence(
        class_name=forecast.class_name,
        auroc=value,
        legacy_auroc=value,
        separation=measured.separation,
        flip_share=0.0,
        saturation=0.0,
        miss_rate=0.0,
        false_alarms=0,
        num_normal=forecast.splits.test_normal,
        target_fpr=result.calibration.target_fpr,
    )
    return evidence, result


def identity_of(forecast: ClassForecast, number: int) -> ClassIdentity:
    rng = np.random.default_rng(number)
    centre = 20.0 * rng.normal(size=WIDTH)
    known, val = (centre + rng.normal(size=(count, WIDTH)) for count in (forecast.splits.train, forecast.splits.val))
    return ClassIdentity.fit(known, val, PARAMS.identification, class_name=forecast.class_name, fingerprint="encoder")


def judged(forecasts: list[ClassForecast]) -> tuple[Verdict, dict[str, CalibrationResult]]:
    rows = [evidence_of(forecast, number) for number, forecast in enumerate(forecasts)]
    evidence = tuple(row[0] for row in rows)
    names = tuple(forecast.class_name for forecast in forecasts)
    verdict = evaluate_gates(
        GateEvidence(names, evidence, memory_mb=100.0, latency_ms=20.0, raw_latency_ms=20.0, latency_reliable=True),
        PARAMS.gates,
    )
    return verdict, dict(zip(names, (row[1] for row in rows), strict=True))


def forecasts_of(*names: str) -> list[ClassForecast]:
    counts = {name: ClassCounts(train=c[0], test=c[1], defects=c[2]) for name, c in MVTEC_AD.items()} | OWN
    return [forecast_class(name, counts[name], PARAMS) for name in names]


@pytest.mark.parametrize("names", [tuple(MVTEC_AD), tuple(OWN), *((name,) for name in OWN)])
def test_classes_of_every_size_come_to_a_verdict_and_keep_the_rate_that_was_forecast(names: tuple[str, ...]) -> None:
    forecasts = forecasts_of(*names)
    assert [forecast.problems for forecast in forecasts] == [()] * len(names)
    verdict, results = judged(forecasts)
    assert verdict.passed, verdict.reasons
    identities = {forecast.class_name: identity_of(forecast, number) for number, forecast in enumerate(forecasts)}
    for forecast in forecasts:
        calibration = results[forecast.class_name].calibration
        false_alarms, rejected, _ = forecast.rates
        assert calibration.promised_fpr == false_alarms.promised
        over = np.mean(np.array(results[forecast.class_name].calibrating_scores) > calibration.threshold)
        assert over <= calibration.promised_fpr
        assert identities[forecast.class_name].unknown_share == rejected.promised
    stacked = Identities.of(identities)
    assert stacked.identify(np.full(WIDTH, 1e3, dtype=np.float32)).class_name is None
    for name, identity in identities.items():
        assert stacked.identify(identity.mean_D).class_name == name
