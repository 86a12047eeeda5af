"""What MLflow knows of a version, who may become champion, and that a registered model scores as its directory does."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.tiny_project import CLASSES, MODEL, Project, free_port, kill, read_json, wait_until
from shadowline import Inspector
from shadowline.core.params import load_params
from shadowline.models.fingerprints import class_fingerprints

# Printed by a process of its own: scores of the same images by every way to the same model.
_SCORES = """
import json, sys
import mlflow, pandas as pd
from shadowline import Inspector
images = sys.argv[1:]
scores = {}
for location in ("models/inspector", "models:/inspector/1", "models:/inspector@challenger"):
    inspector = Inspector.load(location)
    results = [inspector.inspect(image, "dots") for image in images]
    scores[location] = [[one.score, one.model_version] for one in results]
model = mlflow.pyfunc.load_model("models:/inspector/1")
answer = model.predict(pd.DataFrame({"path": images, "class_name": ["dots"] * len(images)}))
scores["pyfunc"] = answer[["score", "model_version"]].values.tolist()
print(json.dumps(scores))
"""


_FIXED = ("git_commit", "dvc_lock_sha256", "params_hash", "encoder_fingerprint", "fingerprint", "verdict")
_AS_JSON = {"num_images", "class_fingerprints"}
_OF_REPRODUCTION = {"audit_entry", "data_url", "encoder_source_sha256", "environment", "files_sha256", "results_run"}


def test_a_version_carries_all_that_an_auditor_needs(in_finished: Project) -> None:
    from tasks.integrations.mlflow_registry import list_versions

    (version,) = list_versions(MODEL)
    config = read_json(in_finished.layout.package / "config.json")
    lock = (in_finished.root / "dvc.lock").read_bytes()
    assert version.tags.keys() == {*_FIXED, *_AS_JSON, *_OF_REPRODUCTION}
    assert {name: version.tags[name] for name in _FIXED} == {
        "git_commit": in_finished.git("rev-parse", "HEAD"),
        "dvc_lock_sha256": hashlib.sha256(lock).hexdigest(),
        "params_hash": load_params(in_finished.layout.params).hash(),
        "encoder_fingerprint": config["encoder_fingerprint"],
        "fingerprint": config["fingerprint"],
        "verdict": "passed",
    }
    assert version.class_fingerprints == class_fingerprints(in_finished.layout.package)
    assert set(version.class_fingerprints) == set(CLASSES)
    images = json.loads(version.tags["num_images"])
    assert images == {name: {"test": 20, "train": 32, "val": 8} for name in CLASSES}


def test_a_champion_is_replaced_only_by_naming_exactly_which(in_project: Project) -> None:
    from tasks.integrations.mlflow_registry import client, describe_version, promote

    tracking = client()
    first = tracking.get_model_version(MODEL, "1")
    for verdict in ("passed", "not passed"):
        tracking.create_model_version(MODEL, first.source, tags={"verdict": verdict})
    with pytest.raises(ValueError, match="champion of inspector is version None, not 7"):
        promote(MODEL, "1", replaces="7")
    assert promote(MODEL, "1", replaces=None).aliases == ("challenger", "champion")
    with pytest.raises(ValueError, match="champion of inspector is version 1, not None"):
        promote(MODEL, "2", replaces=None)
    with pytest.raises(ValueError, match="champion of inspector is version 1, not 2"):
        promote(MODEL, "2", replaces="2")
    with pytest.raises(ValueError, match="verdict 'not passed'; only a passed version can lead"):
        promote(MODEL, "3", replaces="1")
    assert promote(MODEL, "2", replaces="1").aliases == ("champion",)
    assert describe_version(tracking, MODEL, "1").aliases == ("challenger", "previous")


def test_promote_names_what_it_promoted_and_refuses_the_rest_with_code_2(in_project: Project, command: Any) -> None:
    assert command("promote", "1", "--replaces", "7")[0] == 2
    assert command("promote", "1") == (0, "models:/inspector/1 is champion\n", "")
    code, out, _ = command("models", "--json")
    assert code == 0
    assert [(load["version"], load["aliases"]) for load in json.loads(out)] == [("1", ["challenger", "champion"])]


def test_a_version_scores_like_its_directory_in_a_fresh_process(finished: Project, monkeypatch: Any) -> None:
    monkeypatch.setenv("SHADOWLINE_IMAGE_ROOT", str(finished.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.root}/mlflow.db")
    images = ["factory/dots/test/hole/000.png", "factory/dots/test/good/000.png"]
    answer = finished.run(sys.executable, "-c", _SCORES, *images, check=True)
    found = json.loads(answer.stdout.splitlines()[-1])
    own = [Inspector.load(finished.layout.package).inspect(finished.root / image, "dots").score for image in images]
    assert [score for score, _ in found["models/inspector"]] == own
    for location in ("models:/inspector/1", "models:/inspector@challenger", "pyfunc"):
        assert found[location] == [[score, "1"] for score in own]


def test_a_served_version_answers_the_same_and_reads_no_path_outside_its_root(
    finished: Project, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SHADOWLINE_IMAGE_ROOT", str(finished.root / "factory"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.root}/mlflow.db")
    port = free_port()
    options = ("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    server = finished.start("mlflow", "models", "serve", "--model-uri", f"models:/{MODEL}/1", *options)
    image = finished.root / "factory/stripes/test/hole/001.png"
    encoded = base64.b64encode(image.read_bytes()).decode()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            wait_until(lambda: _answers(http), server)
            served = _invoke(http, {"image": encoded, "class_name": "stripes"}).json()["predictions"]
            inside = _invoke(http, {"path": "stripes/test/hole/001.png", "class_name": "stripes"}).json()["predictions"]
            paths = ("../params.yaml", str(finished.root / "params.yaml"), "stripes/test/good/000.png")
            rows = [{"path": path, "class_name": "stripes"} for path in paths]
            outside, absolute, good = _invoke(http, *rows).json()["predictions"]
            example = json.loads(_example(finished).read_text(encoding="utf-8"))
            answered = http.post("/invocations", json=example)
    finally:
        kill(server)
    own = Inspector.load(finished.layout.package).inspect(image, "stripes")
    expected = {
        "score": own.score,
        "threshold": own.threshold,
        "decision": "anomalous",
        "stop": True,
        "class_name": "stripes",
        "model_version": "1",
        "fingerprint": own.fingerprint,
        "error": None,
    }
    assert served == inside == [expected]
    for answer in (outside, absolute):
        assert answer["score"] is None and answer["stop"] and "not below SHADOWLINE_IMAGE_ROOT" in answer["error"]
    assert isinstance(good["score"], float) and good["error"] is None
    assert answered.status_code == 200 and answered.json()["predictions"][0]["error"] is None


def _example(project: Project) -> Path:
    """The input example that is logged with the only version."""
    (path,) = project.root.glob("mlruns/*/models/*/artifacts/serving_input_example.json")
    return path


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def _invoke(http: httpx.Client, *rows: dict[str, str]) -> httpx.Response:
    return http.post("/invocations", json={"dataframe_records": rows})


def test_paths_are_refused_where_no_root_is_named(in_finished: Project, monkeypatch: Any) -> None:
    import mlflow
    import pandas as pd

    from tasks.integrations.mlflow_registry import client

    client()
    monkeypatch.delenv("SHADOWLINE_IMAGE_ROOT", raising=False)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}/1")
    answer = model.predict(pd.DataFrame({"path": ["factory/dots/test/good/000.png"]}))
    assert "not below SHADOWLINE_IMAGE_ROOT; set it to the folder" in answer["error"][0]


def test_an_unknown_alias_says_where_to_look(in_finished: Project) -> None:
    with pytest.raises(ValueError, match=r"models:/inspector@nobody: .*`shadowline models` lists what is registered"):
        Inspector.load(f"models:/{MODEL}@nobody")


def test_a_model_store_that_is_away_fails_with_the_reason(monkeypatch: Any) -> None:
    from mlflow.exceptions import MlflowException

    from tasks.integrations.mlflow_registry import start_run

    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(MlflowException, match="Connection refused"):
        start_run.fn("shadowline", {"seed": 7})
