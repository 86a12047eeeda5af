"""A project whose images, models and archives lie in S3, behind a door that fails 30 % of the calls and cuts 10 %.

SHADOWLINE_FAULT_SECONDS=60 pytest tests/integration/test_artifacts_s3.py    # the store down for a whole minute
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest

from fixtures.effort import EFFORT
from fixtures.faulty_s3 import Faults, FaultyS3
from fixtures.s3 import forget_settings, s3_server
from fixtures.tiny_project import MODEL, Project
from shadowline import Inspector
from shadowline.core.settings import prepare_environment

BUCKET = "plant"
STORMY = Faults(failing=0.3, cutting=0.1) if EFFORT > 1 else Faults(failing=0.12, cutting=0.04)
DOWN_S = float(os.environ.get("SHADOWLINE_FAULT_SECONDS", "5"))


@dataclass(frozen=True)
class Plant:
    """A project with its store, the door before it, and a client that no fault reaches."""

    project: Project
    door: FaultyS3
    behind: Any

    def objects(self, prefix: str) -> dict[str, bytes]:
        pages = self.behind.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: self.behind.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def plant(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A computed project that is known to no registry and no remote yet."""
    project = finished.copy(tmp_path_factory.mktemp("s3") / "project")
    (project.root / "mlflow.db").unlink()
    with (
        s3_server(BUCKET) as address,
        FaultyS3(address, seed=11) as door,
        pytest.MonkeyPatch.context() as patch,
        project.inside(),
    ):
        for name in ("DATA", "ARTIFACTS", "ARCHIVE"):
            patch.setenv(f"SHADOWLINE_{name}_URL", f"s3://{BUCKET}/{name.lower()}")
        patch.setenv("SHADOWLINE_S3_ENDPOINT", door.address)
        patch.setenv("SHADOWLINE_S3_ENCRYPTION", "AES256")
        yield Plant(project, door, boto3.client("s3", endpoint_url=address))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As when the store had been away for longer than anybody waits."""
    from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

    from tasks.integrations.dvc_remote import push_data
    from tasks.integrations.mlflow_registry import log_results, register

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for task in (log_results, register, push_data):
        monkeypatch.setattr(task, "retries", 0)
    yield
    _cached_get_s3_client.cache_clear()  # it has read the variable


def versions() -> list[str]:
    from tasks.integrations.mlflow_registry import list_versions

    return [version.version for version in list_versions(MODEL)]


@pytest.mark.usefixtures("impatient")
def test_a_store_that_stays_away_ends_the_run_in_red_by_its_name_and_registers_nothing(plant: Plant) -> None:
    plant.door.close_for(3600)
    from flows.retrain import retrain

    state = retrain(return_state=True)
    plant.door.close_for(0)
    assert state.is_failed()
    print(state.message)
    assert plant.door.address in str(state.message)
    assert versions() == []


def test_the_next_run_registers_without_computing_through_failing_and_cut_calls_and_a_store_that_is_down(
    plant: Plant,
) -> None:
    from flows.retrain import retrain

    before = plant.door.counts
    plant.door.faults = STORMY
    plant.door.close_for(DOWN_S)
    result = retrain()
    print(before, plant.door.counts, sep="\n")
    assert all(stage.skipped for stage in result.stages if stage.name not in ("cost", "summary")), result.stages
    assert versions() == ["1"]
    counts = plant.door.counts
    assert min(counts.failed, counts.cut_sending + counts.cut_answering, counts.retried) > 0
    assert retrain().version.version == "1"
    assert versions() == ["1"]


def test_every_object_is_whole_and_encrypted_as_the_settings_say(plant: Plant) -> None:
    data = plant.objects("data/files/md5/")
    assert len(data) > 50
    assert not [key for key, body in data.items() if _md5_of(key) != hashlib.md5(body).hexdigest()]
    kept = plant.objects("artifacts/")
    package = plant.project.layout.package
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*") if path.is_file()}
    found = {key.partition("/artifacts/inspector/")[2]: body for key, body in kept.items() if "/inspector/" in key}
    assert found == {name: path.read_bytes() for name, path in files.items()}
    report = plant.project.layout.report.read_bytes()
    assert report in kept.values()
    for key in (*kept, *list(data)[:5]):
        assert plant.behind.head_object(Bucket=BUCKET, Key=key)["ServerSideEncryption"] == "AES256"


def test_an_upload_whose_beginning_was_answered_to_nobody_holds_no_bytes(plant: Plant, tmp_path: Path) -> None:
    """MLflow and DVC cannot know of it: the bucket's lifecycle rule removes it."""
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    prepare_environment()
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(9 << 20))
    plant.door.faults = Faults(cutting=0.7, only="?uploads")
    for number in range(4):
        S3ArtifactRepository(f"s3://{BUCKET}/artifacts/large").log_artifact(str(large), str(number))
    assert [len(body) for body in plant.objects("artifacts/large").values()] == [9 << 20] * 4
    begun = plant.behind.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    for upload in begun:
        assert "Parts" not in plant.behind.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])


def _md5_of(key: str) -> str:
    """What an object of DVC's remote promises by its name."""
    return "".join(key.split("/")[-2:]).removesuffix(".dir")


def test_a_model_loads_through_the_door_and_is_the_packaged_one(plant: Plant) -> None:
    plant.door.faults = STORMY
    loaded = Inspector.load(f"models:/{MODEL}@challenger")
    own = Inspector.load(plant.project.layout.package)
    image = plant.project.root / "factory/dots/test/hole/000.png"
    assert loaded.fingerprint == own.fingerprint
    assert loaded.inspect(image, "dots").score == own.inspect(image, "dots").score


def test_a_legacy_model_is_registered_archived_proven_and_deleted_through_the_door(plant: Plant) -> None:
    from shadowline.models.loader import load_detector
    from shadowline.records.stores import open_records
    from tasks.rollout.legacy_models import archive_legacy, delete_legacy, list_legacy, prove_archive, restore_legacy

    plant.door.faults = replace(STORMY, failing=0.1, cutting=0.05)  # 250 files a model, one after the other
    answer = plant.project.run("shadowline", "legacy", "import", "--all")
    assert answer.returncode == 0, answer.stderr
    fingerprint = open_records().locations.current_legacy()["dots"]
    stored = archive_legacy("dots", fingerprint)
    prove_archive("dots", fingerprint, plant.project.root)
    assert len(legacy_models(plant)) == 2
    assert delete_legacy("dots", fingerprint) == 1
    assert len(legacy_models(plant)) == 1
    print(plant.door.counts)
    assert {status.place.class_name for status in list_legacy() if status.is_registered} == {"stripes"}
    (body,) = plant.objects("archive/").values()
    assert hashlib.sha256(body).hexdigest() == stored.sha256
    folder = restore_legacy("dots", fingerprint, plant.project.root / "data/restored")
    assert np.isfinite(load_detector(str(folder), "dots").threshold)


def legacy_models(plant: Plant) -> set[str]:
    """Where MLflow keeps one."""
    return {key.partition("/legacy/")[0] for key in plant.objects("artifacts/") if "/legacy/" in key}


# --- where an experiment keeps its files ----------------------------------------------------------------------------


def test_a_new_experiment_goes_where_the_settings_say_and_an_old_one_stays_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_log: pytest.LogCaptureFixture, plant: Plant
) -> None:
    from tasks.integrations.mlflow_registry import client, start_run

    def place(name: str) -> str:
        run_id = start_run.fn(name, {"seed": 7})
        return str(client().get_run(run_id).info.artifact_uri)

    with monkeypatch.context() as before:
        before.delenv("SHADOWLINE_ARTIFACTS_URL")
        assert not place("old").startswith("s3://")
    with prefect_log.at_level(logging.WARNING):
        assert not place("old").startswith("s3://")
        assert place("new").startswith(f"s3://{BUCKET}/artifacts/new/")
    (line,) = {record.getMessage() for record in prefect_log.records if "keeps its files" in record.getMessage()}
    assert line.startswith("experiment old keeps its files in ")


def test_what_the_user_has_set_for_mlflows_s3_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)
    monkeypatch.setenv("SHADOWLINE_S3_ENDPOINT", "https://minio.plant.local:9000")
    monkeypatch.setenv("SHADOWLINE_S3_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    prepare_environment()
    assert os.environ["MLFLOW_S3_ENDPOINT_URL"] == "https://minio.plant.local:9000"
    assert json.loads(os.environ["MLFLOW_S3_UPLOAD_EXTRA_ARGS"]) == {"ServerSideEncryption": "aws:kms"}
    assert (os.environ["AWS_MAX_ATTEMPTS"], os.environ["AWS_RETRY_MODE"]) == ("3", "legacy")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "https://another.local")
    prepare_environment()
    assert os.environ["MLFLOW_S3_ENDPOINT_URL"] == "https://another.local"
