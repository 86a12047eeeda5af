"""The gateway as callers meet it: a real server, real models, a real database. Candidates that crash or hang are
detectors of the same protocol."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import delete

from fixtures.gateway import (
    KEY,
    START,
    Alarming,
    Crashing,
    Factory,
    Gated,
    Nameless,
    RefusingHoles,
    Site,
    Slow,
    build_models,
    decoded,
    image_id,
    png,
    wait_for,
)
from fixtures.tiny_project import CLASSES, EXTRA_CLASS, Project, free_port, read_json
from shadowline.core.atomic_files import write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params, Unplanned
from shadowline.data.labels import Label
from shadowline.inference.routing import traffic_bucket
from shadowline.models.detector import Detector
from shadowline.models.fingerprints import model_fingerprint
from shadowline.models.loader import load_detector
from shadowline.records.pair import DROPPED
from shadowline.records.tables import ModelRow
from shadowline.rollout.phases import Phase

AT = "2026-02-03T04:05:06+00:00"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return build_models(tmp_path_factory.mktemp("gateway") / "project")


@pytest.fixture
def factory(models: Project, tmp_path: Path) -> Factory:
    return Factory.begin(models, tmp_path / "site")


@pytest.fixture
def site(factory: Factory) -> Iterator[Site]:
    """A gateway at the beginning: dots in SHADOW, stripes in LEGACY."""
    factory.move(dots=Phase.SHADOW)
    with factory.serve() as site:
        yield site


@pytest.fixture(scope="module")
def door(models: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway for tests of what is refused; they leave no trace in it."""
    factory = Factory.begin(models, tmp_path_factory.mktemp("door"))
    factory.move(dots=Phase.SHADOW)
    with factory.serve() as site:
        yield site


# --- who answers, by phase ------------------------------------------------------------------------------------------


def test_the_legacy_model_alone_judges_before_the_rollout(factory: Factory, site: Site) -> None:
    data = png("stripes")
    found = site.inspect("stripes", data)
    legacy = factory.detector("legacy", "stripes")
    assert found["score"] == legacy.score([decoded(data)])[0]
    assert (found["threshold"], found["model_fingerprint"]) == (legacy.threshold, legacy.fingerprint)
    assert (found["answered_by"], found["class_name"], found["model_version"]) == ("legacy", "stripes", "3")
    assert found["decision"] == ("anomalous" if found["score"] > found["threshold"] else "normal")
    assert found["latency_ms"] > 0
    wait_for(lambda: not factory.judged_alone("stripes").empty)
    (alone,) = factory.judged_alone("stripes").to_dict("records")
    assert (alone["trace_id"], alone["legacy_score"], alone["candidate"]) == (found["trace_id"], found["score"], "")
    assert alone["answered_by"] == "legacy" and pd.isna(alone["candidate_score"]) and pd.isna(alone["candidate_error"])
    assert factory.pairs("stripes").empty


def test_in_the_shadow_both_judge_and_the_legacy_model_answers(factory: Factory, site: Site) -> None:
    data = png("dots", hole=True)
    answer = site.post(data, {"X-Trace-Id": "line-7.0042"}, class_name="dots", captured_at="2026-02-03T05:05:06+01:00")
    found = answer.json()
    (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    candidate, legacy = (factory.detector(role, "dots") for role in ("candidate", "legacy"))
    assert found["answered_by"] == pair["answered_by"] == "legacy"
    assert pair["legacy_score"] == found["score"] == legacy.score([decoded(data)])[0]
    assert pair["candidate_score"] == pytest.approx(candidate.score([decoded(data)])[0], abs=1e-9)
    assert (pair["candidate_threshold"], pair["legacy_threshold"]) == (candidate.threshold, legacy.threshold)
    assert (pair["candidate"], pair["legacy"]) == (candidate.fingerprint, legacy.fingerprint)
    assert (pair["image_id"], pair["trace_id"], found["trace_id"]) == (image_id(data), "line-7.0042", "line-7.0042")
    assert str(pair["captured_at"]) == AT.replace("T", " ")
    assert pair["candidate_error"] is None and pair["legacy_error"] is None
    assert pair["candidate_latency_ms"] > 0 and pair["legacy_latency_ms"] > 0


def test_a_canary_answers_its_share_and_an_image_never_changes_sides(factory: Factory) -> None:
    factory.move(dots=Phase.CANARY)
    factory.change("dots", share=0.3)
    images = [png("dots", number) for number in range(24)]
    with factory.serve() as site:
        first = [site.inspect("dots", image)["answered_by"] for image in images]
        again = [site.inspect("dots", image)["answered_by"] for image in reversed(images)]
        assert first == again[::-1]
        assert first == ["candidate" if traffic_bucket(image_id(image)) < 0.3 else "legacy" for image in images]
        assert {"candidate", "legacy"} == set(first)
        pairs = factory.wait_for_pairs("dots", 48)
    assert pairs["candidate_score"].notna().all() and pairs["legacy_score"].notna().all()


@pytest.mark.parametrize("phase", [Phase.LIVE, Phase.LEGACY_READ_ONLY])
def test_when_live_the_candidate_answers_and_the_legacy_model_judges_in_the_shadow(
    factory: Factory, phase: Phase
) -> None:
    factory.move(dots=phase)
    with factory.serve() as site:
        found = site.inspect("dots", png("dots"))
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    assert found["answered_by"] == pair["answered_by"] == "candidate"
    assert found["model_fingerprint"] == factory.state("dots").candidate
    assert pair["legacy_score"] == factory.detector("legacy", "dots").score([decoded(png("dots"))])[0]


def test_when_the_legacy_model_is_off_it_is_not_asked(factory: Factory) -> None:
    factory.move(dots=Phase.LEGACY_OFF)
    asked = Gated(factory.detector("legacy", "dots"))
    factory.overrides["legacy", "dots"] = lambda _: asked
    with factory.serve() as site:
        assert site.inspect("dots", png("dots"))["answered_by"] == "candidate"
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    assert pd.isna(pair["legacy_score"]) and pd.isna(pair["legacy_error"])
    assert asked.batches == []


def test_a_class_on_hold_is_served_as_before(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    factory.hold("dots")
    with factory.serve() as site:
        assert site.inspect("dots", png("dots"))["answered_by"] == "candidate"
        assert factory.wait_for_pairs("dots", 1)["legacy_score"].notna().all()


def test_a_rollback_and_a_new_share_reach_a_running_gateway(factory: Factory, site: Site) -> None:
    data = png("dots")
    factory.move(dots=Phase.LIVE)
    wait_for(lambda: site.inspect("dots", data)["answered_by"] == "candidate")
    factory.move(dots=Phase.ROLLED_BACK)
    wait_for(lambda: site.inspect("dots", data)["answered_by"] == "legacy")
    wait_for(lambda: not factory.judged_alone("dots").empty)
    assert site.client.get("/v1/rollout").json()["revision"] == factory.records.rollout.revision()


def test_the_models_of_one_location_are_loaded_once(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW, stripes=Phase.SHADOW)
    loaded: list[str] = []
    for name in CLASSES:
        factory.overrides["candidate", name] = lambda same: loaded.append(same.class_name) or same
    with factory.serve() as site:
        for name in CLASSES:
            site.inspect(name, png(name))
            assert factory.wait_for_pairs(name, 1)["candidate_error"].isna().all()
    assert len(loaded) == 1


# --- the class of an image ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_without_a_class_the_inspector_says_which_and_the_rollout_says_who_answers(
    factory: Factory, site: Site, name: str
) -> None:
    answers = [site.post(png(name, number)).json() for number in range(6)]
    found = [answer for answer in answers if answer["class_name"] is not None]
    assert len(found) >= 3  # a promised share of normal images may be taken for unknown
    for answer in found:
        assert (answer["class_name"], answer["answered_by"]) == (name, "legacy")
        assert answer["model_fingerprint"] == factory.state(name).legacy
        assert 0 < answer["class_confidence"] < 1
    assert site.inspect(name, png(name))["class_confidence"] is None


def test_an_unknown_product_is_answered_without_a_decision_and_asks_no_model(factory: Factory, site: Site) -> None:
    answer = site.post(png(EXTRA_CLASS))
    found = answer.json()
    assert answer.status_code == 200
    assert (found["class_name"], found["decision"], found["score"], found["threshold"]) == (None, None, None, None)
    assert found["nearest_class"] in CLASSES
    assert 0 < found["class_confidence"] < 0.5 and found["stop"] is True
    assert (found["image_id"], found["model_version"]) == (image_id(png(EXTRA_CLASS)), "3")
    assert site.metric("shadowline_unknown_products_total", nearest_class=found["nearest_class"]) == 1
    assert site.metric("shadowline_answers_total") == 0
    assert all(factory.pairs(name).empty for name in CLASSES)


def test_an_inspector_without_identities_leaves_the_class_to_the_caller(factory: Factory, tmp_path: Path) -> None:
    folder = tmp_path / "before"
    shutil.copytree(factory.models.layout.package, folder, ignore=shutil.ignore_patterns("identity"))
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "fingerprint": model_fingerprint(folder)})
    factory.overrides["candidate", "dots"] = lambda _: load_detector(str(folder), "dots")
    factory.move(dots=Phase.SHADOW)
    with factory.serve() as site:
        answer = site.post(png("dots"))
        assert (answer.status_code, answer.json()["error"][:19]) == (422, "class_name: missing")
        assert site.inspect("dots", png("dots"))["answered_by"] == "legacy"


def test_without_a_class_and_without_an_inspector_the_caller_is_told(factory: Factory) -> None:
    with factory.serve() as site:
        answer = site.post(png("dots"))
    assert answer.status_code == 422
    assert answer.json() == {"error": "class_name: missing, and no model here can tell classes apart; send it"}


def test_an_unknown_class_is_refused_with_the_known_ones(door: Site) -> None:
    answer = door.post(png("dots"), class_name="bolts")
    assert answer.status_code == 404
    assert answer.json() == {"error": "class 'bolts': no model of it is known here; known are dots, stripes"}


# --- classes outside the rollout ------------------------------------------------------------------------------------


def test_a_class_outside_the_plan_is_answered_by_its_legacy_model_or_by_the_champion(
    models: Project, tmp_path: Path
) -> None:
    factory = Factory.begin(models, tmp_path / "site", planned=["dots"])
    champion, legacy = (factory.detector(role, "stripes").fingerprint for role in ("candidate", "legacy"))
    with factory.serve() as site:
        assert site.inspect("stripes", png("stripes"))["model_fingerprint"] == legacy
        assert site.client.get("/v1/rollout").json()["unplanned"] == {"stripes": "legacy"}
        wait_for(lambda: len(factory.records.pairs.table("stripes", "", legacy)) == 1)
    factory.records.locations.set_champion({"stripes": champion}, START)
    with factory.serve(factory.params(unplanned=Unplanned.CHAMPION)) as site:
        assert site.inspect("stripes", png("stripes"))["model_fingerprint"] == champion
        assert site.inspect("dots", png("dots"))["answered_by"] == "legacy"  # as the rollout says
        assert site.ready()[0] == 200
        wait_for(lambda: len(factory.records.pairs.table("stripes", champion, "")) == 1)


def test_a_champion_goes_live_without_any_legacy_model_and_while_the_gateway_runs(
    models: Project, tmp_path: Path
) -> None:
    factory = Factory.begin(models, tmp_path / "site", planned=[])
    with factory.records.rollout.engine.begin() as connection:
        connection.execute(delete(ModelRow).where(ModelRow.role == "legacy"))
    with factory.serve() as site:
        answer = site.post(png("dots"), class_name="dots")
        assert (answer.status_code, answer.json()["error"][-9:]) == (404, " none yet")
        factory.records.locations.set_champion({"dots": factory.detector("candidate", "dots").fingerprint}, START)
        wait_for(lambda: site.post(png("dots"), class_name="dots").status_code == 200)
        found = site.post(png("dots")).json()  # it tells the class, too
        assert (found["class_name"] or found["nearest_class"]) == "dots"
        assert site.post(png("stripes"), class_name="stripes").status_code == 404


def test_where_the_preferred_model_cannot_be_loaded_the_other_one_answers_until_it_can(
    models: Project, tmp_path: Path
) -> None:
    factory = Factory.begin(models, tmp_path / "site", planned=["dots"])
    factory.records.locations.set_champion({"stripes": factory.detector("candidate", "stripes").fingerprint}, START)
    mended = threading.Event()

    def broken_at_first(detector: Detector) -> Detector:
        if not mended.is_set():
            raise OSError("share is away")
        return detector

    factory.overrides["legacy", "stripes"] = broken_at_first
    with factory.serve() as site:
        assert site.inspect("stripes", png("stripes"))["answered_by"] == "candidate"
        mended.set()
        wait_for(lambda: site.inspect("stripes", png("stripes"))["answered_by"] == "legacy")


# --- the same router outside the gateway ----------------------------------------------------------------------------

SAME = ("threshold", "decision", "class_name", "answered_by", "model_version")


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.LEGACY_DELETED])
def test_the_command_line_answers_as_the_gateway_does(
    factory: Factory, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    factory.move(dots=phase)
    monkeypatch.chdir(factory.models.root)
    for name, value in factory.environment().items():
        monkeypatch.setenv(name, value)
    paths = [factory.root / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(png("dots", number))
    with factory.serve() as site:
        told = [site.inspect("dots", path.read_bytes()) for path in paths]
        found = [site.post(path.read_bytes()) for path in paths]
    overlays = factory.root / "overlays"
    _, out, err = command("inspect", *map(str, paths), "--class", "dots", "--heatmap", str(overlays), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == len(list(overlays.glob("*.png"))) == 6, err
    assert [row["fingerprint"] for row in rows] == [answer["model_fingerprint"] for answer in told]
    assert [row["score"] for row in rows] == pytest.approx([answer["score"] for answer in told], abs=1e-6)
    assert [[row[name] for name in SAME] for row in rows] == [[answer[name] for name in SAME] for answer in told]
    _, out, _ = command("inspect", *map(str, paths), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    for name in ("class_name", "decision"):
        assert [row[name] for row in rows] == [response.json()[name] for response in found]


# --- heat maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.LIVE])
def test_a_heat_map_is_a_picture_of_the_images_size(factory: Factory, phase: Phase) -> None:
    factory.move(dots=phase)
    data = png("dots", hole=True)
    with factory.serve() as site:
        found = site.inspect("dots", data, heatmap="true")
        assert "heatmap" not in site.inspect("dots", data)
    overlay = Image.open(BytesIO(base64.b64decode(found["heatmap"])))
    assert overlay.format == "PNG"
    assert overlay.size == decoded(data).size
    assert (np.asarray(overlay) != np.asarray(decoded(data))).any()


# --- what is recorded -----------------------------------------------------------------------------------------------


def test_a_retry_of_the_same_capture_is_one_pair(factory: Factory, site: Site) -> None:
    for _ in range(3):
        site.inspect("dots", png("dots"), captured_at=AT)
    site.inspect("dots", png("dots"), captured_at="2026-02-03T04:05:07Z")
    factory.wait_for_pairs("dots", 2)
    wait_for(lambda: site.metric("shadowline_shadow_seconds_count", side="candidate") == 4)
    site.inspect("dots", png("dots", 1))
    assert len(factory.wait_for_pairs("dots", 3)) == 3


@pytest.mark.parametrize(
    ("claim", "suspect"),
    [
        ("0001-01-01T00:00:00Z", True),
        ("1969-07-20T20:17:40Z", True),
        ("2999-01-01T00:00:00Z", True),
        (AT, False),
        ("", False),
    ],
)
def test_the_clock_of_the_server_counts_and_a_callers_claim_is_kept(
    factory: Factory, claim: str, suspect: bool
) -> None:
    factory.move(dots=Phase.SHADOW)
    now = datetime.fromisoformat(AT) + timedelta(hours=3)
    with factory.serve(clock=lambda: now) as site:
        site.inspect("dots", png("dots"), **({"captured_at": claim} if claim else {}))
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    assert pair["received_at"] == now
    assert pair["captured_at"] == (datetime.fromisoformat(claim) if claim else now)
    assert pair["capture_suspect"] is suspect
    one = factory.state("dots")
    just_before = now - timedelta(microseconds=1)
    assert factory.records.pairs.counts("dots", one.candidate, one.legacy, just_before, now).num_pairs == 1


def test_a_full_shadow_queue_drops_and_records_and_keeps_nobody_waiting(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    stuck = Gated(factory.detector("candidate", "dots"))
    factory.overrides["candidate", "dots"] = lambda _: stuck
    with factory.serve(factory.params(shadow_queue=2)) as site:
        site.inspect("dots", png("dots", 0))
        wait_for(lambda: stuck.batches == [1])  # it is in work, and the queue is empty
        for number in range(1, 6):
            assert site.inspect("dots", png("dots", number))["answered_by"] == "legacy"
        pairs = factory.wait_for_pairs("dots", 3)
        assert set(pairs["candidate_error"]) == {DROPPED}
        assert pairs["legacy_score"].notna().all()
        assert site.metric("shadowline_shadow_dropped_total", class_name="dots", side="candidate") == 3
        assert site.metric("shadowline_shadow_queue") == 2
        stuck.gate.set()
        pairs = factory.wait_for_pairs("dots", 6)
    assert pairs["candidate_score"].notna().sum() == 3


def test_a_shadow_queue_is_bounded_in_bytes_too(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    with factory.serve(factory.params(shadow_queue_mb=0.001)) as site:
        site.inspect("dots", png("dots"))
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    assert pair["legacy_error"] == DROPPED
    assert pair["candidate_score"] is not None


# --- candidates that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "error", "kind"),
    [
        (Crashing, "MemoryError: noroom", "failed"),
        (Nameless, "score nan, threshold .*: not finite", "failed"),
        (Gated, "timeout: one batch took longer than 100 ms", "timeout"),
    ],
)
def test_where_the_candidate_fails_the_legacy_model_answers_and_the_pair_says_why(
    factory: Factory, broken: type, error: str, kind: str
) -> None:
    factory.move(dots=Phase.LIVE)
    candidate = broken(factory.detector("candidate", "dots"))
    factory.overrides["candidate", "dots"] = lambda _: candidate
    with factory.serve(factory.params(candidate_timeout_ms=100)) as site:
        for number in range(2):  # the second finds the model still hanging
            found = site.inspect("dots", png("dots", number))
            assert found["answered_by"] == "legacy"
            assert found["model_fingerprint"] == factory.state("dots").legacy
        pairs = factory.wait_for_pairs("dots", 2)
        assert site.metric("shadowline_model_errors_total", class_name="dots", side="candidate", kind=kind) == 2
        if isinstance(candidate, Gated):
            candidate.gate.set()
            wait_for(lambda: site.inspect("dots", png("dots", 2))["answered_by"] == "candidate")  # it came back
    assert set(pairs["answered_by"]) == {"legacy"}
    assert pairs["candidate_error"].str.fullmatch(error).all()
    assert pairs["legacy_score"].notna().all() and pairs["candidate_score"].isna().all()


def test_a_candidate_that_fails_in_the_shadow_is_on_record_and_harms_nobody(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    factory.overrides["candidate", "dots"] = Crashing
    with factory.serve() as site:
        assert site.inspect("dots", png("dots"))["answered_by"] == "legacy"
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    assert pair["candidate_error"] == "MemoryError: noroom"


def test_where_no_legacy_model_stands_behind_it_a_failure_is_said(factory: Factory) -> None:
    factory.move(dots=Phase.LEGACY_OFF)
    factory.overrides["candidate", "dots"] = Crashing
    with factory.serve() as site:
        answer = site.post(png("dots"), class_name="dots")
        assert answer.status_code == 503
        assert answer.json() == {"error": "class 'dots': no model answered; try again"}
        assert answer.headers["Retry-After"] == "1"
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
    assert (pair["answered_by"], pair["candidate_error"]) == ("candidate", "MemoryError: noroom")


def test_a_slow_batch_refuses_nobody_where_no_legacy_model_judges(factory: Factory) -> None:
    """Each batch takes six times what a candidate may take while a legacy model stands behind it."""
    factory.move(dots=Phase.LEGACY_DELETED)
    factory.overrides["candidate", "dots"] = Slow
    images = [png("dots", number) for number in range(12)]
    with factory.serve(factory.params(candidate_timeout_ms=50, batch_size=4)) as site, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda data: site.post(data, class_name="dots"), images))
        pairs = factory.wait_for_pairs("dots", 12)
    assert [answer.status_code for answer in answers] == [200] * 12
    assert pairs["candidate_error"].isna().all()


def test_the_same_slow_batch_is_left_to_the_legacy_model_while_it_judges(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    factory.overrides["candidate", "dots"] = Slow
    with factory.serve(factory.params(candidate_timeout_ms=50)) as site:
        assert site.inspect("dots", png("dots"))["answered_by"] == "legacy"


def test_a_candidate_whose_legacy_model_cannot_be_loaded_has_all_the_time(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    factory.overrides["candidate", "dots"] = Slow
    factory.overrides["legacy", "dots"] = lambda _: factory.detector("legacy", "stripes")
    with factory.serve(factory.params(candidate_timeout_ms=50)) as site:
        assert site.inspect("dots", png("dots"))["answered_by"] == "candidate"


def test_a_model_that_is_not_what_the_rollout_names_never_answers(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    other = load_detector(str(factory.models.layout.package), "stripes")
    factory.overrides["candidate", "dots"] = lambda _: other
    with factory.serve() as site:
        found = site.inspect("dots", png("dots"))
        assert found["answered_by"] == "legacy"
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
        status, body = site.ready()
    assert "the rollout names" in pair["candidate_error"]
    assert status == 503
    assert any(reason.startswith("class dots: candidate model: ValueError") for reason in body["reasons"])


def test_a_rollback_waits_for_no_model_that_is_being_loaded(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    gate, asked = threading.Event(), threading.Event()

    def slow(same: object) -> object:
        asked.set()
        assert gate.wait(60)
        return same

    factory.overrides["candidate", "dots"] = lambda same: Gated(same, gate=_open())  # its location is not shared
    factory.overrides["candidate", "stripes"] = slow  # type: ignore[assignment]
    with factory.serve() as site:
        assert site.inspect("dots", png("dots"))["answered_by"] == "candidate"
        factory.move(stripes=Phase.LIVE)
        assert asked.wait(30)
        factory.move(dots=Phase.ROLLED_BACK)
        wait_for(lambda: site.inspect("dots", png("dots"))["answered_by"] == "legacy")
        assert site.inspect("stripes", png("stripes"))["answered_by"] == "legacy"  # its old route is in force
        assert not gate.is_set()
        gate.set()
        wait_for(lambda: site.inspect("stripes", png("stripes"))["answered_by"] == "candidate")


def _open() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


# --- batches --------------------------------------------------------------------------------------------------------


def test_what_arrives_together_is_scored_together_and_as_if_alone(factory: Factory) -> None:
    gated = Gated(factory.detector("legacy", "dots"))
    factory.overrides["legacy", "dots"] = lambda _: gated
    images = [png("dots", number, hole=number % 2 == 0) for number in range(9)]
    with factory.serve(factory.params(batch_size=4)) as site, ThreadPoolExecutor(len(images)) as callers:
        first = callers.submit(site.inspect, "dots", images[0])
        wait_for(lambda: gated.batches == [1])
        rest = [callers.submit(site.inspect, "dots", image) for image in images[1:]]
        wait_for(lambda: site.metric("shadowline_in_flight") == len(images))
        gated.gate.set()
        scores = [future.result()["score"] for future in (first, *rest)]
    assert scores == list(gated.inner.score([decoded(image) for image in images]))
    assert sum(gated.batches) == len(images)
    assert max(gated.batches) == 4


def test_images_of_several_classes_pass_one_inspector_as_if_alone(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE, stripes=Phase.LIVE)
    wanted = [(name, png(name, number)) for number in range(4) for name in CLASSES]
    with factory.serve(factory.params(batch_window_ms=200)) as site, ThreadPoolExecutor(len(wanted)) as callers:
        found = list(callers.map(lambda request: site.inspect(*request), wanted))
    for (name, data), reply in zip(wanted, found, strict=True):
        assert (reply["answered_by"], reply["class_name"]) == ("candidate", name)
        alone = factory.detector("candidate", name).score([decoded(data)])[0]
        assert reply["score"] == pytest.approx(alone, abs=0.01)


def test_an_image_that_fails_takes_no_other_of_its_batch_along(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    factory.overrides["candidate", "dots"] = RefusingHoles
    images = [png("dots", number, hole=number == 2) for number in range(5)]
    with factory.serve(factory.params(batch_window_ms=200)) as site, ThreadPoolExecutor(len(images)) as callers:
        found = list(callers.map(lambda image: site.inspect("dots", image)["answered_by"], images))
    assert found == ["candidate", "candidate", "legacy", "candidate", "candidate"]


def test_more_requests_than_allowed_are_refused_at_once(factory: Factory) -> None:
    gated = Gated(factory.detector("legacy", "dots"))
    factory.overrides["legacy", "dots"] = lambda _: gated
    with factory.serve(factory.params(max_in_flight=1)) as site, ThreadPoolExecutor(1) as callers:
        first = callers.submit(site.inspect, "dots", png("dots"))
        wait_for(lambda: gated.batches == [1])
        answer = site.post(png("dots", 1), class_name="dots")
        gated.gate.set()
        assert first.result()["answered_by"] == "legacy"
    assert (answer.status_code, answer.json()) == (503, {"error": "1 requests in work already; try again"})
    assert answer.headers["Retry-After"] == "1"


# --- the database goes away -----------------------------------------------------------------------------------------


class Outage:
    """The database's folder is somewhere else."""

    def __init__(self, factory: Factory) -> None:
        self.folder = factory.root / "database"

    def __enter__(self) -> None:
        self.folder.rename(self.folder.with_name("elsewhere"))
        self.folder.write_text("a file where the folder was", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self.folder.unlink()
        self.folder.with_name("elsewhere").rename(self.folder)


def test_pairs_outlive_the_database_on_disk_and_are_replayed_once(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    with factory.serve(factory.params(database_timeout_ms=100)) as site:
        site.inspect("dots", png("dots", 0), captured_at=AT)
        factory.wait_for_pairs("dots", 1)
        with Outage(factory):
            for number in range(4):  # the first is a retry of what is in the database already
                assert site.inspect("dots", png("dots", number), captured_at=AT)["answered_by"] == "legacy"
            wait_for(lambda: site.metric("shadowline_pairs_spooled_total") == 4)
            wait_for(lambda: site.metric("shadowline_database_up") == 0)
            status, body = site.ready()
            assert status == 503
            assert body["reasons"][0] == "the database does not answer; the last rollout stays in force"
            assert body["reasons"][1].startswith("spool: ")
            assert site.metric("shadowline_spool_bytes") > 0
            labelled = site.client.post(
                "/v1/feedback", json={"class_name": "dots", "image_id": "0" * 64, "label": "normal", "by": "Ada"}
            )
            assert (labelled.status_code, labelled.json()["error"]) == (503, "the database does not answer; try again")
        pairs = factory.wait_for_pairs("dots", 4)
        wait_for(lambda: site.ready()[0] == 200)
        assert list((factory.root / "spool").glob("*.jsonl")) == []
    assert len(pairs) == 4
    assert pairs["candidate_score"].notna().all()


def test_what_a_dead_gateway_left_on_disk_the_next_one_replays_as_received_then(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    then = datetime.fromisoformat(AT)
    with factory.serve(clock=lambda: then) as site, Outage(factory):
        site.inspect("dots", png("dots"))
        wait_for(lambda: site.metric("shadowline_pairs_spooled_total") == 1)
        site.gateway.watcher.stop()  # type: ignore[union-attr]
        site.gateway.writer.close(5)  # type: ignore[union-attr]
    with factory.serve():
        assert factory.wait_for_pairs("dots", 1)["received_at"].tolist() == [then]


def test_inspection_goes_on_without_database_and_without_disk_and_nothing_is_lost(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    (factory.root / "spool").mkdir()
    (factory.root / "spool/pairs.jsonl").symlink_to("/dev/full")
    with factory.serve() as site:
        with Outage(factory):
            for number in range(3):
                assert site.inspect("dots", png("dots", number))["answered_by"] == "legacy"
            wait_for(lambda: site.metric("shadowline_pairs_waiting") == 3)
            status, body = site.ready()
            assert (status, body["lost_pairs"]) == (503, 0)
            assert any("pairs: 3 are in memory alone" in reason for reason in body["reasons"])
            assert any("No space left on device" in reason for reason in body["reasons"])
        factory.wait_for_pairs("dots", 3)
        wait_for(lambda: site.ready()[0] == 200)


# --- what inspectors look at ----------------------------------------------------------------------------------------


def reviewing(factory: Factory, share: float) -> Params:
    params = factory.params()
    return params.model_copy(update={"shadow": params.shadow.model_copy(update={"review_share": share})})


def kept_images(factory: Factory) -> set[str]:
    return {path.stem for path in Layout(factory.root).inspected.glob("*/*.png")}


@pytest.mark.parametrize(("share", "drawn"), [(0.0, False), (1.0, True)])
def test_chance_alone_draws_a_part_for_review_and_its_image_is_kept(
    factory: Factory, share: float, drawn: bool
) -> None:
    factory.move(dots=Phase.SHADOW)
    data = png("dots")
    with factory.serve(reviewing(factory, share)) as site:
        found = site.inspect("dots", data)
        assert (found["decision"], found["review"]) == ("normal", drawn)
        (pair,) = factory.wait_for_pairs("dots", 1).to_dict("records")
        assert (pair["review_share"], pair["review_drawn"]) == (share, drawn)
        parts = site.client.get("/v1/review").json()["parts"]
    assert [(part["image_id"], part["reasons"]) for part in parts] == [(image_id(data), ["drawn"])] * drawn
    assert kept_images(factory) == ({image_id(data)} if drawn else set())
    assert [Path(part["image_path"]).read_bytes() for part in parts] == [data] * drawn


def test_a_disagreement_waits_with_its_image_until_it_is_labelled(factory: Factory) -> None:
    """The model in the shadow alone raises the alarm, long after the caller has the answer."""
    factory.move(dots=Phase.SHADOW)
    factory.overrides["candidate", "dots"] = Alarming
    data = png("dots")
    with factory.serve(reviewing(factory, 0.0)) as site:
        assert site.inspect("dots", data)["decision"] == "normal"
        factory.wait_for_pairs("dots", 1)
        (part,) = site.client.get("/v1/review", params={"class_name": "dots"}).json()["parts"]
        assert part["reasons"] == ["disagreement", "alarm"]
        wait_for(lambda: kept_images(factory) == {image_id(data)})
        assert site.client.get("/v1/review", params={"class_name": "stripes"}).json() == {"parts": []}
        word = {"class_name": "dots", "trace_id": part["trace_id"], "label": "normal", "by": "Ada"}
        assert site.client.post("/v1/feedback", json=word).status_code == 200
        assert site.client.get("/v1/review").json() == {"parts": []}
        assert site.client.get("/v1/review", params={"limit": "0"}).status_code == 422
        assert httpx.get(f"http://127.0.0.1:{site.port}/v1/review").status_code == 401


def test_a_reference_part_brings_its_label_also_through_the_spool(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    with factory.serve() as site:
        site.inspect("dots", png("dots", hole=True), known_label="anomalous")
        factory.wait_for_pairs("dots", 1)
        with Outage(factory):
            site.inspect("dots", png("dots", 1), known_label="normal")
            wait_for(lambda: site.metric("shadowline_pairs_spooled_total") == 1)
        pairs = factory.wait_for_pairs("dots", 2)
        assert site.client.get("/v1/review").json() == {"parts": []}
    assert set(pairs["source"]) == {"reference"}
    assert dict(zip(pairs["image_id"], pairs["label"], strict=True)) == {
        image_id(png("dots", hole=True)): "anomalous",
        image_id(png("dots", 1)): "normal",
    }


# --- feedback -------------------------------------------------------------------------------------------------------


def test_an_inspectors_word_reaches_the_pair_by_image_and_by_trace(factory: Factory, site: Site) -> None:
    by_trace = site.post(png("dots", 0), {"X-Trace-Id": "t-1"}, class_name="dots").json()
    by_image = site.inspect("dots", png("dots", 1))
    factory.wait_for_pairs("dots", 2)
    word = {"class_name": "dots", "by": "Ada", "note": "a scratch"}
    first = site.client.post("/v1/feedback", json={**word, "trace_id": "t-1", "label": "anomalous"})
    second = site.client.post("/v1/feedback", json={**word, "image_id": by_image["image_id"], "label": "normal"})
    assert (first.status_code, second.status_code) == (200, 200)
    labels = factory.pairs("dots").set_index("image_id")["label"]
    assert labels[by_trace["image_id"]] == Label.ANOMALOUS
    assert labels[by_image["image_id"]] == Label.NORMAL


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"image_id": "0" * 64}, 404, "was never inspected"),
        ({"trace_id": "nobody"}, 404, "trace 'nobody' is on no pair"),
        ({"image_id": "0" * 64, "label": "unknown"}, 422, "label"),
        ({"image_id": "../../etc/passwd"}, 422, "image_id"),
        ({"image_id": "0" * 64, "trace_id": "t"}, 422, "one of them"),
        ({}, 422, "one of them"),
        ({"image_id": "0" * 64, "by": ""}, 422, "by: String should have at least 1 character"),
        ({"image_id": "0" * 64, "by": " \t"}, 422, "by: String should have at least 1 character"),
        ({"image_id": "0" * 64, "at": "2026-01-01T00:00:00Z"}, 422, "at: Extra inputs are not permitted"),
        ({"image_id": "0" * 64, "note": "a\0b"}, 422, "note: holds the character '\\x00'; leave it out"),
        ({"image_id": "0" * 64, "note": "\x1b[2J"}, 422, "note: holds the character '\\x1b'; leave it out"),
        ({"image_id": "0" * 64, "note": "\ud800"}, 422, "note: "),
        ({"image_id": "0" * 64, "by": "A\0da"}, 422, "by: holds the character '\\x00'; leave it out"),
        ({"image_id": "0" * 64, "by": "A\nda"}, 422, "by: holds the character '\\n'; leave it out"),
        ({"image_id": "0" * 64, "class_name": "do\0ts"}, 422, "class_name: holds the character '\\x00'; leave it out"),
        ({"trace_id": "t\0"}, 422, "trace_id: holds the character '\\x00'; leave it out"),
        ({"image_id": "0" * 64, "note": "a\tscratch,\nperhaps “two”"}, 404, "was never inspected"),
    ],
)
def test_feedback_that_says_nothing_usable_is_refused(
    door: Site, change: dict[str, str], status: int, error: str
) -> None:
    word = {"class_name": "dots", "label": "normal", "by": "Ada", **change}
    answer = door.client.post("/v1/feedback", content=json.dumps(word), headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert error in answer.json()["error"]


def test_feedback_that_says_a_thing_twice_is_refused(door: Site) -> None:
    word = '{"class_name": "dots", "image_id": "%s", "label": "normal", "by": "Ada", "label": "anomalous"}' % ("0" * 64)
    answer = door.client.post("/v1/feedback", content=word, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (422, "label: given twice; send it once")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("class_name=dots&class_name=stripes", "class_name: given twice; send it once"),
        ("clas_name=dots", "clas_name: Extra inputs are not permitted"),
        ("class_name=do%00ts", "class_name: holds the character '\\x00'; leave it out"),
    ],
)
def test_a_question_that_is_not_understood_is_refused(door: Site, query: str, error: str) -> None:
    answer = door.client.get(f"/v1/review?{query}")
    assert answer.status_code == 422
    assert error in answer.json()["error"]


# --- keys and uploads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/inspect", "/v1/feedback", "/v1/rollout", "/nowhere", "//v1/rollout"])
@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], f"{KEY}, another", KEY.upper()])
def test_without_a_right_key_nothing_is_answered(door: Site, path: str, key: str | None) -> None:
    headers = {} if key is None else {"X-API-Key": key}
    url = f"http://127.0.0.1:{door.port}{path}"
    answer = httpx.get(url, headers=headers) if path.endswith("rollout") else httpx.post(url, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"error": "X-API-Key is missing or wrong"})


def test_each_of_several_keys_opens_and_probes_need_none(door: Site) -> None:
    for key in (KEY, "another"):
        assert httpx.get(f"http://127.0.0.1:{door.port}/v1/rollout", headers={"X-API-Key": key}).status_code == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        assert httpx.get(f"http://127.0.0.1:{door.port}{path}").status_code == 200


def test_uploads_that_are_no_image_are_refused_by_name_and_nothing_is_recorded(factory: Factory, site: Site) -> None:
    good = png("dots")
    gif = BytesIO()
    decoded(good).save(gif, "GIF", save_all=True, append_images=[decoded(png("dots", 1))])
    for data, words in (
        (b"", "0 bytes"),
        (b"hello", "no readable image header"),
        (good[:-60], "the pixels end early"),
        (gif.getvalue(), "2 frames"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no readable image header"),
    ):
        answer = site.post(data, class_name="dots")
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["error"]
    assert factory.pairs("dots").empty


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_refused_while_it_is_read_once_it_is_too_large(factory: Factory, chunked: bool) -> None:
    params = factory.params()
    params = params.model_copy(update={"data": params.data.model_copy(update={"max_file_bytes": 50_000})})
    with factory.serve(params) as site:
        request = site.client.build_request(
            "POST", "/v1/inspect", files={"image": ("a.png", b"\x89PNG" + b"0" * 150_000)}, data={"class_name": "dots"}
        )
        if chunked:
            parts = (request.read()[start : start + 8_192] for start in range(0, len(request.read()), 8_192))
            headers = {"Content-Type": request.headers["Content-Type"]}
            answer = site.client.post("/v1/inspect", content=parts, headers=headers)
        else:
            answer = site.client.send(request)
        assert answer.status_code == 413
        assert "send a smaller image" in answer.json()["error"]
        small = site.post(b"\x89PNG" + b"0" * 60_000, class_name="dots")
        assert (small.status_code, "more than 50000 bytes" in small.json()["error"]) == (413, True)
        big_word = site.client.post("/v1/feedback", json={"note": "x" * 200_000})
        assert big_word.status_code == 413
        assert site.metric("shadowline_refusals_total", status="413") == 3


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(factory: Factory) -> None:
    params = factory.params()
    params = params.model_copy(update={"data": params.data.model_copy(update={"max_pixels": 1_000})})
    with factory.serve(params) as site:
        answer = site.post(png("dots"), class_name="dots")
    assert (answer.status_code, "at most 1000 in all" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"captured_at": "2026-02-03T04:05:06"}, "captured_at: Input should have timezone info"),
        ({"captured_at": "yesterday"}, "captured_at"),
        ({"captured_at": "0001-01-01T00:00:00+14:00"}, "before year 1 or after year 9999 in UTC; leave it out"),
        ({"captured_at": "9999-12-31T23:59:59-14:00"}, "before year 1 or after year 9999 in UTC; leave it out"),
        ({"heatmap": "perhaps"}, "heatmap"),
        ({"known_label": "unknown"}, "known_label: Input should be 'normal' or 'anomalous'"),
        ({"path": "/etc/passwd"}, "path: Extra inputs are not permitted"),
        ({"class_name": "x" * 65}, "class_name"),
        ({"class_name": "x" * 2_000}, "exceeded maximum size"),
    ],
)
def test_fields_that_mean_nothing_are_refused(door: Site, fields: dict[str, str], error: str) -> None:
    answer = door.post(png("dots"), **fields)
    assert answer.status_code in (400, 422)
    assert error in answer.json()["error"]


def test_what_is_said_twice_is_refused(door: Site) -> None:
    fields = [("class_name", (None, "dots")), ("class_name", (None, "stripes")), ("image", ("a.png", png("dots")))]
    answer = door.client.post("/v1/inspect", files=fields)
    assert (answer.status_code, answer.json()["error"]) == (422, "class_name: given twice; send it once")
    answer = door.client.post("/v1/inspect", files=[("image", (None, "dots")), ("image", ("a.png", png("dots")))])
    assert (answer.status_code, answer.json()["error"]) == (422, "image: given twice; send it once")
    twice = [("X-Trace-Id", "a"), ("X-Trace-Id", "b")]
    answer = door.client.post("/v1/inspect", files={"image": png("dots")}, headers=twice)
    assert (answer.status_code, answer.json()["error"]) == (422, "X-Trace-Id: given twice; send it once")


def test_requests_that_are_no_upload_are_refused(door: Site) -> None:
    post = door.client.post
    assert post("/v1/inspect", json={"image": "/etc/passwd"}).status_code == 415
    assert post("/v1/inspect", files={"picture": png("dots")}).json()["error"].startswith("image: missing")
    broken = post("/v1/inspect", content=b"--", headers={"Content-Type": "multipart/form-data"})
    assert (broken.status_code, "boundary" in broken.json()["error"]) == (400, True)
    bad_trace = door.post(png("dots"), {"X-Trace-Id": "a b"}, class_name="dots")
    assert (bad_trace.status_code, "X-Trace-Id" in bad_trace.json()["error"]) == (422, True)
    assert door.client.get("/nowhere").json() == {"error": "Not Found"}


@pytest.mark.parametrize(
    ("path", "content_type"), [("/v1/inspect", "multipart/form-data; boundary=b"), ("/v1/feedback", "application/json")]
)
def test_a_caller_that_hangs_up_is_counted_and_is_no_error(
    door: Site, caplog: pytest.LogCaptureFixture, path: str, content_type: str
) -> None:
    def counted() -> float:
        return door.metric("shadowline_refusals_total", status="499")

    before, server_log = counted(), logging.getLogger("uvicorn")
    server_log.addHandler(caplog.handler)
    with socket.create_connection(("127.0.0.1", door.port)) as caller:
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nX-API-Key: {KEY}\r\nContent-Type: {content_type}\r\n"
        caller.sendall(f"{head}Content-Length: 1000\r\n\r\n--b".encode())
        wait_for(lambda: door.metric("shadowline_in_flight") == 1)
    wait_for(lambda: counted() == before + 1)
    wait_for(lambda: door.metric("shadowline_in_flight") == 0)
    server_log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert door.metric("shadowline_refusals_total", status="500") == 0


def test_an_upload_that_never_ends_is_given_up(factory: Factory) -> None:
    def drip() -> Iterator[bytes]:
        yield b"--b\r\n"
        given_up.wait(30)

    given_up = threading.Event()
    with factory.serve(factory.params(upload_timeout_ms=50)) as site, ThreadPoolExecutor(1) as callers:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        asked = callers.submit(site.client.post, "/v1/inspect", content=drip(), headers=headers)
        wait_for(lambda: site.metric("shadowline_refusals_total", status="408") == 1)
        given_up.set()
        assert isinstance(asked.exception(), httpx.TransportError) or asked.result().status_code == 408


# --- what can be seen from outside ----------------------------------------------------------------------------------


def test_metrics_and_readiness_say_what_happened(factory: Factory, site: Site) -> None:
    found = site.inspect("dots", png("dots"))
    site.inspect("stripes", png("stripes"))
    site.post(b"hello", class_name="dots")
    factory.wait_for_pairs("dots", 1)
    wait_for(lambda: site.metric("shadowline_pairs_recorded_total") == 2)  # of dots both models judged, of stripes one
    labels = {"class_name": "dots", "side": "legacy"}
    assert site.metric("shadowline_answers_total", decision=found["decision"], **labels) == 1
    assert site.metric("shadowline_answer_seconds_count", **labels) == 1
    assert site.metric("shadowline_answer_seconds_bucket", le="+Inf", **labels) == 1
    assert site.metric("shadowline_refusals_total", status="422") == 1
    assert site.metric("shadowline_rollout_revision") == factory.records.rollout.revision()
    assert site.metric("shadowline_database_up") == 1
    status, body = site.ready()
    assert status == 200
    assert body == {
        "ready": True,
        "reasons": [],
        "revision": factory.records.rollout.revision(),
        "lost_pairs": 0,
        "worker": body["worker"],
    }
    assert site.client.get("/healthz").headers["X-Worker"] == str(body["worker"])
    rollout = site.client.get("/v1/rollout").json()
    assert [cls["phase"] for cls in rollout["classes"]] == ["shadow", "legacy"]


def test_without_a_rollout_the_gateway_waits_for_one(models: Project, tmp_path: Path) -> None:
    planned = Factory.begin(models, tmp_path / "planned")
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    with planned.serve(settings=planned.settings.model_copy(update={"database_url": url})) as site:
        assert site.ready() == (503, site.ready()[1])
        assert site.ready()[1]["reasons"] == [
            "no model is on record; promote a version, register a legacy model or begin a rollout"
        ]
        assert site.post(png("dots"), class_name="dots").json()["error"].endswith("known are none yet")
        Factory.begin(models, tmp_path, url)
        wait_for(lambda: site.ready()[0] == 200)
        assert site.inspect("dots", png("dots"))["answered_by"] == "legacy"


# --- processes ------------------------------------------------------------------------------------------------------


def answers_by_worker(site: Site, data: bytes) -> dict[str, str]:
    """Worker → who answered, of several requests at once, each on a connection of its own."""

    def ask(_: int) -> tuple[str, str]:
        url = f"http://127.0.0.1:{site.port}/v1/inspect"
        form = {"data": {"class_name": "dots"}, "files": {"image": data}}
        answer = httpx.post(url, headers={"X-API-Key": KEY}, timeout=60, **form)  # type: ignore[arg-type]
        return answer.headers["X-Worker"], answer.json()["answered_by"]

    with ThreadPoolExecutor(8) as callers:
        return dict(callers.map(ask, range(8)))


def test_a_rollback_reaches_every_worker_and_metrics_are_those_of_all(factory: Factory) -> None:
    factory.move(dots=Phase.LIVE)
    data = png("dots")
    with factory.serve_process("--workers", "2") as (site, _):
        before: dict[str, str] = {}
        wait_for(lambda: len(before.update(answers_by_worker(site, data)) or before) == 2, 120)
        assert set(before.values()) == {"candidate"}
        factory.move(dots=Phase.ROLLED_BACK)
        wait_for(lambda: site.metric("shadowline_rollout_revision") == factory.records.rollout.revision())
        after: dict[str, str] = {}  # the slowest worker has the new revision: no answer may be the candidate's
        wait_for(lambda: len(after.update(answers_by_worker(site, data)) or after) == 2, 120)
        assert after == dict.fromkeys(before, "legacy")
        num_candidate = site.metric("shadowline_answers_total", side="candidate")
        num_legacy = site.metric("shadowline_answers_total", side="legacy")
    assert num_candidate % 8 == num_legacy % 8 == 0
    assert num_candidate >= 8 and num_legacy >= 8


def test_sigterm_leaves_no_pair_behind(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    with factory.serve_process() as (site, process):
        for number in range(12):
            site.inspect("dots", png("dots", number))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    pairs = factory.pairs("dots")
    assert len(pairs) == 12, output
    assert pairs["candidate_score"].notna().all()
    assert KEY not in output


def test_what_is_in_work_is_answered_before_the_end(factory: Factory) -> None:
    gated = Gated(factory.detector("legacy", "dots"))
    factory.overrides["legacy", "dots"] = lambda _: gated
    with factory.serve() as site, ThreadPoolExecutor(1) as callers:
        asked = callers.submit(site.inspect, "dots", png("dots"))
        wait_for(lambda: gated.batches == [1])
        site.server.should_exit = True  # type: ignore[union-attr]
        wait_for(lambda: not _accepts(site))
        gated.gate.set()
        assert asked.result()["answered_by"] == "legacy"


def _accepts(site: Site) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{site.port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_work_in_the_shadow_that_the_end_cuts_short_is_recorded_as_dropped(factory: Factory) -> None:
    factory.move(dots=Phase.SHADOW)
    stuck = Gated(factory.detector("candidate", "dots"))
    factory.overrides["candidate", "dots"] = lambda _: stuck
    with factory.serve(factory.params(drain_ms=50)) as site:
        for number in range(3):
            site.inspect("dots", png("dots", number))
        wait_for(lambda: stuck.batches == [1])
    pairs = factory.pairs("dots")
    stuck.gate.set()
    assert list(pairs["candidate_error"]) == [DROPPED] * 3


def test_a_gateway_without_keys_stays_on_loopback(factory: Factory) -> None:
    command = ["shadowline", "serve", "--host", "0.0.0.0", "--port", str(free_port())]
    environment = factory.environment(GATEWAY_KEYS="")
    ended = subprocess.run(
        command, cwd=factory.models.root, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 2
    assert "no key is configured; set SHADOWLINE_GATEWAY_KEYS or serve on 127.0.0.1" in ended.stderr


def test_on_loopback_no_key_is_needed(factory: Factory) -> None:
    with factory.serve(settings=factory.settings.model_copy(update={"gateway_keys": SecretStr("")})) as site:
        assert httpx.get(f"http://127.0.0.1:{site.port}/v1/rollout").status_code == 200


# --- what /openapi.json promises ------------------------------------------------------------------------------------


def test_answers_are_what_the_schema_says(factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    factory.move(dots=Phase.SHADOW)
    factory.hold("dots")
    with factory.serve(reviewing(factory, 1.0)) as site:
        schema = site.client.get("/openapi.json").json()

        def check(path: str, status: int, answer: httpx.Response) -> None:
            operation = schema["paths"][path][answer.request.method.lower()]
            assert answer.status_code == status, answer.text
            found = operation["responses"][str(status)]["content"]["application/json"]["schema"]
            Draft202012Validator({**found, "components": schema["components"]}).validate(answer.json())

        word = {"class_name": "dots", "image_id": image_id(png("dots")), "label": "normal", "by": "Ada"}
        check("/v1/inspect", 200, site.post(png("dots"), class_name="dots"))
        check("/v1/inspect", 200, site.post(png("dots", 1), class_name="dots", heatmap="true"))
        check("/v1/inspect", 200, site.post(png("dots", 2)))
        unknown = site.post(png(EXTRA_CLASS))
        assert "nearest_class" in unknown.json()
        check("/v1/inspect", 200, unknown)
        check("/v1/inspect", 404, site.post(png("dots"), class_name="nobody"))
        check("/v1/inspect", 415, site.client.post("/v1/inspect"))
        check("/v1/inspect", 422, site.post(b"no image", class_name="dots"))
        check("/v1/inspect", 401, httpx.post(f"http://127.0.0.1:{site.port}/v1/inspect"))
        factory.wait_for_pairs("dots", 2)
        review = site.client.get("/v1/review")
        assert review.json()["parts"]
        check("/v1/review", 200, review)
        check("/v1/review", 422, site.client.get("/v1/review", params={"limit": 0}))
        check("/v1/feedback", 200, site.client.post("/v1/feedback", json=word))
        check("/v1/feedback", 404, site.client.post("/v1/feedback", json={**word, "image_id": "0" * 64}))
        check("/v1/feedback", 422, site.client.post("/v1/feedback", json={}))
        check("/v1/classes/{class_name}/images", 202, give(site, "bolt", png("dots")))
        check("/v1/classes/{class_name}/images", 422, give(site, "bolt", b"no image"))
        check("/v1/rollout", 200, site.client.get("/v1/rollout"))
        check("/healthz", 200, site.client.get("/healthz"))
        check("/readyz", 200, site.client.get("/readyz"))


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def test_a_rollout_on_any_database_is_followed_and_recorded(models: Project, tmp_path: Path, database_url: str) -> None:
    factory = Factory.begin(models, tmp_path / "site", database_url)
    factory.move(dots=Phase.LIVE)
    with factory.serve() as site:
        for _ in range(2):
            assert site.inspect("dots", png("dots"), captured_at=AT)["answered_by"] == "candidate"
        assert len(factory.wait_for_pairs("dots", 1)) == 1
        factory.move(dots=Phase.ROLLED_BACK)
        wait_for(lambda: site.inspect("dots", png("dots", 1), captured_at=AT)["answered_by"] == "legacy")
        word = {"class_name": "dots", "image_id": image_id(png("dots")), "label": "normal", "by": "Ada"}
        assert site.client.post("/v1/feedback", json=word).status_code == 200


# --- images of new products -----------------------------------------------------------------------------------------


def give(site: Site, name: str, data: bytes, **fields: str) -> httpx.Response:
    return site.client.post(f"/v1/classes/{name}/images", files={"image": ("x.png", data)}, data=fields)


def test_images_of_a_new_product_wait_in_its_inbox_each_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # wherever the server was started
    first, again, defect = (
        give(site, "bolt", png("dots")),
        give(site, "bolt", png("dots")),
        give(site, "bolt", png("dots", hole=True), kind="hole"),
    )
    assert [response.status_code for response in (first, again, defect)] == [202] * 3
    assert (first.json()["new"], again.json()["new"]) == (True, False)
    assert defect.json() == {
        "class_name": "bolt", "new": True, "num_normal": 1, "num_defects": 1, "phase": "few_shot",
        "missing": site.gateway.params.enrolment.bank_images - 1,
    }  # fmt: skip
    inbox = site.gateway.layout.inbox / "bolt"
    kept = sorted(path.relative_to(inbox) for path in inbox.rglob("*.png"))
    assert [path.parent.as_posix() for path in kept] == ["test/hole", "train/good"]
    assert (inbox / kept[1]).read_bytes() == png("dots")


@pytest.mark.parametrize(
    ("name", "data", "fields", "status"),
    [
        ("bolt", b"no image", {}, 422),
        ("Bolt", png("dots"), {}, 422),
        ("..%2f..%2fetc", png("dots"), {}, 404),
        ("bolt", png("dots"), {"kind": "../x"}, 422),
        ("bolt", png("dots"), {"colour": "red"}, 422),
    ],
)
def test_what_cannot_be_enrolled_is_refused_and_leaves_nothing(
    door: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, fields: dict[str, str],
    status: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert give(door, name, data, **fields).status_code == status
    assert not [*tmp_path.rglob("*.png"), *door.gateway.layout.inbox.rglob("*.png")]


def test_a_full_inbox_takes_no_more(factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with factory.serve(factory.params(max_inbox_images=1)) as site:
        assert give(site, "bolt", png("dots")).status_code == 202
        assert give(site, "bolt", png("dots", 1)).status_code == 507
