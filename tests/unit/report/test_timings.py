from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.learning import ROOT
from fixtures.report import write_inputs
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from tasks.integrations.dvc_pipeline import StageRun
from tasks.training.reporting import write_report

MISSING = "The time of each stage was not recorded"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = write_inputs(tmp_path, hardness={"bolt": 5.0}, defects={"bolt": ("scratch",)})
    layout.timings.unlink()
    return layout


def report_after(layout: Layout, *runs: StageRun) -> str:
    return write_report.fn(layout, load_params(ROOT / "params.yaml"), list(runs)).read_text(encoding="utf-8")


def test_the_report_shows_the_times_that_the_flow_recorded(layout: Layout) -> None:
    page = report_after(layout, StageRun("train", skipped=False, seconds=61.0))
    assert MISSING not in page
    assert "Seconds per stage" in page and "61.0\u202fs" in page


def test_a_skipped_stage_keeps_the_time_of_its_last_run(layout: Layout) -> None:
    report_after(layout, StageRun("train", skipped=False, seconds=61.0), StageRun("bank", skipped=False, seconds=5.0))
    page = report_after(layout, StageRun("train", skipped=True, seconds=0.0), StageRun("bank", False, seconds=6.0))
    assert "Not run again, because nothing that they read had changed: train." in page
    assert "6.0\u202fs" in page
