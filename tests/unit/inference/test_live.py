"""The command line and Python ask the same router as the gateway, with and without a rollout."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shadowline.core.params import Params
from shadowline.inference.live import LiveModels, live_models
from shadowline.inference.routing import unplanned_classes
from shadowline.records.model_locations import LEGACY, ModelLocation
from shadowline.records.stores import Records, open_records

NOW = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Brightness:
    """A detector of one class: the brighter the image, the more anomalous."""

    fingerprint: str
    class_name: str
    threshold: float = 0.5
    memory_bytes: int = 0
    bit_depth: int = 8

    def score(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array([float(np.asarray(image).mean()) / 255 for image in images])

    def maps(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.stack([np.asarray(image.convert("L"), dtype=np.float64) for image in images])


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = open_records(f"sqlite:///{tmp_path}/records.db")
    yield opened
    opened.pairs.engine.dispose()


def _png(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (8, 8), value).save(data, format="PNG")
    return data.getvalue()


def _record(records: Records, *names: str) -> None:
    places = [ModelLocation(f"{name}-model", name, LEGACY, f"models/{name}", "1") for name in names]
    records.locations.upsert_model(places, NOW)


def _live(records: Records, params: Params) -> LiveModels:
    return LiveModels(records, params, load=lambda location, name: Brightness(f"{name}-model", name))


def test_where_no_model_answers_at_the_gateway_none_is_live(records: Records, params: Params) -> None:
    assert live_models(records, params) is None


def test_a_legacy_model_answers_before_any_rollout_as_at_the_gateway(records: Records, params: Params) -> None:
    _record(records, "bolt")
    assert live_models(records, params) is not None
    live = _live(records, params)
    outside = unplanned_classes(records.rollout.state(), records.locations.known_models(), params.gateway.unplanned)
    assert outside.keys() == live.routes.keys() == {"bolt"}
    bright, dark = (live.inspect(_png(value), "bolt") for value in (255, 0))
    assert (bright.decision, bright.stop, bright.to_dict()["stop"]) == ("anomalous", True, True)
    assert (dark.decision, dark.stop, dark.to_dict()["stop"]) == ("normal", False, False)
    assert (dark.to_dict()["answered_by"], dark.model_version, dark.fingerprint) == ("legacy", "1", "bolt-model")


def test_a_product_that_is_being_enrolled_is_judged_by_its_starter(records: Records, params: Params) -> None:
    _record(records, "bolt", "washer")
    records.rollout.join("washer", "washer-model", NOW, "enrolment")
    assert _live(records, params).inspect(_png(255), "washer").to_dict()["fingerprint"] == "washer-model"


def test_a_class_without_a_model_is_refused_with_those_that_have_one(records: Records, params: Params) -> None:
    _record(records, "bolt")
    with pytest.raises(ValueError, match="class 'nut': no model of it answers here, but of bolt; --model asks one"):
        _live(records, params).inspect(_png(0), "nut")
    with pytest.raises(ValueError, match="no model at work can tell classes apart; name the class with --class"):
        _live(records, params).inspect(_png(0))
