"""What DVC compares between two commits: metrics and plots that it keeps, of the classes of today alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from fixtures.learning import ROOT
from fixtures.report import write_inputs
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.summary import FiguresByClass, class_figures
from shadowline.stages.summary import write_comparison


def test_metrics_and_plots_are_in_dvc_s_cache() -> None:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    stage = content["stages"]["summary"]
    assert stage["metrics"] == ["data/summary.json", "data/class_metrics.json"]
    kept = {out for out in stage["outs"] if isinstance(out, str)}
    for plot in content["plots"]:
        ((name, definition),) = plot.items()
        sources = definition["y"] if isinstance(definition["y"], dict) else {name: definition["y"]}
        assert all(any(Path(source).is_relative_to(out) for out in kept) for source in sources), name


def test_every_class_has_figures_and_plots_and_a_class_that_is_gone_has_none(tmp_path: Path) -> None:
    layout = write_inputs(tmp_path, hardness={"bolt": 4.0}, defects={"bolt": ("crack",)})
    metrics = ClassMetrics.read(layout.metrics("bolt"))
    gone = layout.plots / "roc/gone.csv"
    gone.parent.mkdir(parents=True)
    gone.write_text("false_alarms,defects_found\n", encoding="utf-8")
    write_comparison({"bolt": metrics}, layout)
    assert FiguresByClass.read(layout.class_metrics).classes == {"bolt": class_figures(metrics)}
    counts = pd.read_csv(layout.plots / "scores/bolt.csv")[["normal", "anomalous"]].sum()
    assert tuple(counts) == (metrics.num_test_normal, metrics.num_test_anomalous)
    assert pd.read_csv(layout.plots / "roc/bolt.csv")["defects_found"].iloc[-1] == 1
    assert not gone.exists()
    assert {path.name for path in layout.plots.glob("*.csv")} == {"training_loss.csv", "validation_loss.csv"}
