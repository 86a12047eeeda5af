"""Progress reads well where it goes: bars on a terminal, plain lines in a pipe, JSON for the flow above a stage."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from shadowline.core.progress import BarProgress, JsonProgress, PlainProgress, default_progress


def test_in_a_pipe_progress_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHADOWLINE_PROGRESS", raising=False)
    stream = io.StringIO()
    progress = PlainProgress(stream)
    with progress.task("fetch", total=3) as task:
        for name in ("a.whl", "b.whl", "cam[left]\n.whl"):
            task.advance(note=name)
    progress.message("done [/urgent]")
    progress.metric("train/loss", 0.5, step=1)
    assert stream.getvalue() == "fetch: 0 of 3\nfetch: 3 of 3, 0 s cam[left]\\n.whl\ndone [/urgent]\n"
    assert isinstance(default_progress(), PlainProgress)


def test_between_its_ends_a_long_task_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 8))
    monkeypatch.setattr("shadowline.core.progress.time.monotonic", lambda: float(next(now)))
    stream = io.StringIO()
    with PlainProgress(stream).task("features bolt", total=6) as task:
        for _ in range(6):
            task.advance()
    assert stream.getvalue().splitlines() == [
        "features bolt: 0 of 6",
        "features bolt: 3 of 6, 24 s",
        "features bolt: 6 of 6, 48 s",
    ]


def test_a_flow_asks_its_stages_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.integrations.dvc_pipeline import _environment

    monkeypatch.setenv("SHADOWLINE_PROGRESS", _environment()["SHADOWLINE_PROGRESS"])
    progress = default_progress()
    assert isinstance(progress, JsonProgress)
    stream = io.StringIO()
    JsonProgress(stream).message("cam[left]")
    assert json.loads(stream.getvalue()) == {"event": "message", "text": "cam[left]"}


def test_a_bar_interprets_no_name() -> None:
    stream = io.StringIO()
    progress = BarProgress(Console(file=stream, force_terminal=True, width=120, color_system=None))
    with progress.task("see [/urgent]", total=1) as task:
        task.advance(note="cam[left]/1.png")
    progress.message("[red]1[/] \x1b[2J :smile:")
    shown = stream.getvalue()
    assert "see [/urgent]" in shown and "cam[left]/1.png" in shown
    assert "[red]1[/] \\x1b[2J :smile:" in shown
