"""What a served model answers: a row for each row, null where there is nothing, and a reason where it cannot judge."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from shadowline.data.images import ImageLimits, open_within
from shadowline.models.pyfunc.dataframe_io import ANSWER, answer_rows

_LIMITS = ImageLimits(max_pixels=10_000, max_file_bytes=100_000)


def _png() -> str:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(data, format="PNG")
    return base64.b64encode(data.getvalue()).decode()


def _judge(image: bytes | Path, class_name: str | None) -> dict[str, Any]:
    """Opens the image as a model does; an image without a class is of no known product."""
    open_within(image, _LIMITS)
    if class_name is None:
        return {"score": None, "threshold": None, "decision": None, "stop": True, "class_name": None, "latency_ms": 1.0}
    return {"score": 0.5, "threshold": 1.0, "decision": "normal", "stop": False, "class_name": class_name}


def _answer(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    """As `mlflow models serve` writes it: refuses NaN, which is no JSON."""
    table = answer_rows(pd.DataFrame(list(rows)), _judge, "3", "f" * 64)
    assert tuple(table.columns) == ANSWER
    answers: list[dict[str, Any]] = json.loads(json.dumps(table.to_dict(orient="records"), allow_nan=False))
    return answers


def test_an_unknown_product_among_known_ones_has_null_and_must_not_pass() -> None:
    known, unknown = _answer({"image": _png(), "class_name": "bolt"}, {"image": _png()})
    assert known == {
        "score": 0.5, "threshold": 1.0, "decision": "normal", "stop": False, "class_name": "bolt",
        "model_version": "3", "fingerprint": "f" * 64, "error": None,
    }  # fmt: skip
    assert (unknown["score"], unknown["decision"], unknown["stop"], unknown["error"]) == (None, None, True, None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"image": "no base64!"}, "column image: not base64"),
        ({"image": base64.b64encode(b"GIF89a, almost").decode()}, "image"),
        ({"path": "../secret.png"}, "not below SHADOWLINE_IMAGE_ROOT"),
        ({"path": "missing.png"}, "missing.png"),
        ({"class_name": "bolt"}, "row without an image"),
    ],
)
def test_a_bad_row_says_why_and_the_others_are_answered(
    bad: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHADOWLINE_IMAGE_ROOT", str(tmp_path))
    good, refused = _answer({"image": _png(), "class_name": "bolt"}, bad)
    assert (good["decision"], good["error"]) == ("normal", None)
    assert (refused["score"], refused["decision"], refused["stop"]) == (None, None, True)
    assert reason in refused["error"]
    assert refused["model_version"] == "3"
