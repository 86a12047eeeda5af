"""The contract with the one MLflow that the project pins: its tables, its client, and what neither can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from tasks.backup.consistency import read_registry
from tasks.backup.databases import dump_database
from tasks.integrations.artifact_locations import COLUMNS, move_artifacts
from tasks.integrations.registry_comparison import WITNESS_TAG

PINNED = "3.17.2"
ELSEWHERE = {  # columns that speak of places, and not of artifacts that this project has
    ("datasets", "dataset_source"),
    ("evaluation_dataset_records", "source"),
    ("mcp_server_versions", "source"),
    ("workspaces", "trace_archival_location"),
}
_SPEAKS_OF_A_PLACE = re.compile(r"(^|_)(location|uri|path|source)$")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run and a registered version. Not to be changed."""
    root = tmp_path_factory.mktemp("store")
    client = client_of(root)
    experiment = client.create_experiment("plant", artifact_location=str(root / "mlruns/1"))
    run = client.create_run(experiment)
    client.create_registered_model("inspector")
    for number in (1, 2):
        tags = {"git_commit": f"commit-{number}", WITNESS_TAG: f"{40 + number}:hash"}
        client.create_model_version("inspector", f"{root}/mlruns/1/models/m-{number}", run.info.run_id, tags)
    client.set_registered_model_alias("inspector", "challenger", "1")
    return root


@pytest.fixture
def engine(store: Path, tmp_path: Path) -> Iterator[Engine]:
    """Of a copy that may be changed."""
    with dump_database(f"sqlite:///{store}/mlflow.db", tmp_path / "copy") as copy:
        path = copy.path
    engine = create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


def client_of(root: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")


def values(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        found = [connection.execute(text(f"SELECT {name} FROM {table}")).scalars() for table, name in COLUMNS]
        return {value for column in found for value in column if value}


def test_the_columns_are_those_of_the_pinned_mlflow(engine: Engine) -> None:
    assert mlflow.__version__ == PINNED, (
        f"MLflow {mlflow.__version__}: look through its tables for places of files, then name it here"
    )
    look = inspect(engine)
    places = {
        (table, column["name"])
        for table in look.get_table_names()
        for column in look.get_columns(table)
        if _SPEAKS_OF_A_PLACE.search(column["name"])
    }
    assert set(COLUMNS) <= places
    assert places - set(COLUMNS) == ELSEWHERE


def test_what_lies_in_a_moved_folder_moves_and_all_else_stays(engine: Engine, store: Path) -> None:
    before = values(engine)
    move_artifacts(engine, {f"{store}/mlruns/1": "/new/mlruns/1", f"{store}/mlruns/1/mod": "/not/whole"})
    expected = {value.replace(f"{store}/mlruns/1/", "/new/mlruns/1/") for value in before}
    assert values(engine) == {value.replace(f"{store}/mlruns/1", "/new/mlruns/1") for value in expected}
    assert "/new/mlruns/1/models/m-1" in values(engine)


def test_a_store_without_a_column_is_refused_by_version_and_left_as_it_is(engine: Engine, store: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE runs RENAME COLUMN artifact_uri TO artifact_place"))
        connection.execute(text("DROP TABLE logged_models"))
    message = rf"no runs\.artifact_uri, logged_models\.artifact_location, in which MLflow {re.escape(PINNED)} would say"
    with pytest.raises(ValueError, match=message):
        move_artifacts(engine, {f"{store}/mlruns/1": "/new"})
    with engine.connect() as connection:
        assert connection.execute(text("SELECT source FROM model_versions")).scalars().first().startswith(str(store))


def test_the_client_makes_relative_locations_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why there is anything to move: where this fails, MLflow has learned what decision 0032 asks for."""
    monkeypatch.chdir(tmp_path)
    client = client_of(tmp_path)
    for number, relative in enumerate(("mlruns/1", "file:mlruns/2", "./mlruns/3")):
        experiment = client.get_experiment(client.create_experiment(str(number), artifact_location=relative))
        assert str(tmp_path) in experiment.artifact_location


def test_the_client_reads_the_copy_and_writes_nothing_into_it(store: Path, tmp_path: Path) -> None:
    with dump_database(f"sqlite:///{store}/mlflow.db", tmp_path / "tracking") as copy:
        before = copy.path.read_bytes()
        found = read_registry(mlflow.MlflowClient(copy.read_only_url), "inspector")
        assert copy.path.read_bytes() == before
        assert copy.read_only_url != copy.read_only_url, "MLflow keeps a connection for every address"
    assert [version.uri for version in found.versions] == ["models:/inspector/1", "models:/inspector/2"]
    assert [version.storage for version in found.versions] == [f"{store}/mlruns/1/models/m-{n}" for n in (1, 2)]
    assert found.commits == ("commit-1", "commit-2")
    assert found.locations["1"] == f"{store}/mlruns/1"
    assert (found.inspector, found.num_entries) == ("models:/inspector/1", 42)


def test_a_second_copy_in_the_same_place_is_read_anew(tmp_path: Path) -> None:
    client = client_of(tmp_path)
    for number in (1, 2):
        client.create_registered_model(f"model-{number}")
        client.create_model_version(f"model-{number}", f"/models/{number}")
        with dump_database(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "tracking") as copy:
            found = read_registry(mlflow.MlflowClient(copy.read_only_url), "model-1")
        assert len(found.versions) == number
        copy.path.unlink()
    assert read_registry(client, "nobody").inspector == ""
