"""What waits for enrolment: not a class that a person has removed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from fixtures.learning import ROOT
from shadowline.records.stores import open_records
from shadowline.rollout.engine import retire
from tasks.enrolment import enrolment

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def test_no_poll_brings_a_removed_class_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of it may still lie in the bucket, and the gateway may still be sent some."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_DATABASE_URL", f"sqlite:///{tmp_path}/records.db")
    monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(enrolment, "list_legacy", list)
    monkeypatch.setattr(enrolment, "folders_of", lambda _: ["bolt", "nut"])
    taken: list[str] = []
    monkeypatch.setattr(enrolment.take_images, "fn", lambda name, *_: taken.append(name))
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    for name in ("bolt", "nut"):
        (tmp_path / f"data/inbox/{name}").mkdir(parents=True)
    rollout = open_records().rollout
    rollout.join("bolt", "starter", NOW, "enrolment")
    rollout.commit(retire(rollout.state(), rollout.state().of("bolt"), NOW, "Ada", "made no more"))
    assert [product.class_name for product in enrolment.list_enrolments(tmp_path)] == ["nut"]
    with disable_run_logger():
        assert "bolt" not in enrolment.collect_due.fn("s3://bucket/new", tmp_path)
    assert taken == ["nut"]
    rollout.join("bolt", "starter", NOW, "enrolment")  # a person enrols it again
    assert [product.class_name for product in enrolment.list_enrolments(tmp_path)] == ["bolt", "nut"]
