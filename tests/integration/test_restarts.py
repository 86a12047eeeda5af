"""PostgreSQL goes away and comes back under everything that works on it: MLflow, the records, Prefect's own server."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from fixtures.gateway import Factory, build_models, png, wait_for
from fixtures.postgres import Postgres
from fixtures.tiny_project import MODEL, Project, build_project, free_port, kill, read_json, wait_until
from shadowline.rollout.observation import Order, OrderKind
from shadowline.rollout.phases import Phase

AWAY_S = 2.0
STEPS = 200  # at most


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    """On a connection of its own; nothing where the tables are not there yet."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    except SQLAlchemyError:
        return []
    finally:
        engine.dispose()


# --- single calls ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracking_url(postgres: Postgres) -> str:
    """MLflow's tables in PostgreSQL."""
    return postgres.create_database()


@pytest.fixture
def tracked(tracking_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", tracking_url)
    return tracking_url


def test_points_made_while_the_database_is_away_are_all_in_the_run_once(postgres: Postgres, tracked: str) -> None:
    from tasks.integrations.mlflow_registry import client, start_run
    from tasks.training.live_metrics import live_metrics

    run_id = start_run.fn("curves", {"seed": 7})
    with live_metrics(run_id) as add:
        for step in range(40):
            if step == 10:
                postgres.stop()
            if step == 30:
                postgres.start()
            add("train/loss", 1.0 / (step + 1), step)
            time.sleep(0.1)
        postgres.restart()
        for step in range(40, 60):
            add("train/loss", 1.0 / (step + 1), step)
    found = client().get_metric_history(run_id, "train/loss")
    assert sorted(point.step for point in found) == list(range(60))
    assert {point.step: point.value for point in found}[59] == 1.0 / 60


def test_points_that_no_database_takes_do_not_stop_the_training_that_makes_them(
    postgres: Postgres, tracked: str, monkeypatch: pytest.MonkeyPatch, prefect_log: pytest.LogCaptureFixture
) -> None:
    from tasks.integrations.mlflow_registry import start_run
    from tasks.training import live_metrics

    run_id = start_run.fn("curves", {"seed": 7})
    monkeypatch.setattr(live_metrics, "_PATIENCE_S", 0.0)
    with postgres.stopped(), live_metrics.live_metrics(run_id) as add:
        for step in range(5):
            add("train/loss", 0.5, step)
    assert any("5 points of its curves are lost" in record.getMessage() for record in prefect_log.records)


def test_a_registry_that_is_away_is_not_one_without_a_challenger(postgres: Postgres, tracked: str) -> None:
    from tasks.integrations.mlflow_registry import (
        CHALLENGER,
        challenger_fingerprints,
        challenger_if_known,
        client,
        promote,
    )

    tracking = client()
    tracking.create_registered_model("waiting")
    tracking.create_model_version(
        "waiting", "somewhere", tags={"verdict": "passed", "class_fingerprints": '{"a": "f"}'}
    )
    tracking.set_registered_model_alias("waiting", CHALLENGER, "1")
    assert challenger_fingerprints("nobody") == {}
    with postgres.stopped():
        with pytest.raises(MlflowException):
            challenger_fingerprints("waiting")
        with pytest.raises(MlflowException):
            promote("waiting", "1", None)
        assert challenger_if_known("waiting") == {}  # a tick, which may have to roll back
    assert challenger_if_known("waiting") == {"a": "f"}
    assert challenger_fingerprints("waiting") == {"a": "f"}


# --- the gateway and the tick ---------------------------------------------------------------------------------------


def test_a_rollback_ordered_while_the_database_restarts_arrives_and_no_pair_is_lost(
    postgres: Postgres, tmp_path: Path
) -> None:
    factory = Factory.begin(build_models(tmp_path / "models"), tmp_path / "site", postgres.create_database())
    factory.move(dots=Phase.LIVE)
    one = factory.state("dots")
    answered: Counter[str] = Counter()
    done = threading.Event()

    def on_record() -> pd.DataFrame:
        return factory.records.pairs.table("dots", one.candidate, one.legacy)

    def load() -> None:
        while not done.is_set():
            at = datetime.now(UTC).isoformat()
            answered[site.inspect("dots", png("dots"), captured_at=at)["answered_by"]] += 1

    def come_back_and_go_again() -> None:
        time.sleep(0.5)
        postgres.start()
        for _ in range(2):
            with postgres.stopped():
                time.sleep(0.5)

    with factory.serve(factory.params(database_timeout_ms=200)) as site:
        calling, restarting = threading.Thread(target=load), threading.Thread(target=come_back_and_go_again)
        calling.start()
        wait_for(lambda: answered["candidate"] > 3)
        postgres.stop()
        wait_for(lambda: site.metric("shadowline_database_up") == 0)
        with pytest.raises(SQLAlchemyError):
            roll_back(factory)
        restarting.start()
        refused = 1 + insist(lambda: roll_back(factory))
        restarting.join()
        wait_for(lambda: answered["legacy"] > 3)
        done.set()
        calling.join()
        wait_for(lambda: site.ready()[0] == 200 and site.metric("shadowline_spool_bytes") == 0)
        wait_for(lambda: len(on_record()) == answered["candidate"])
        num_spooled = site.metric("shadowline_pairs_spooled_total")
    print(f"answered {dict(answered)}, refused {refused}, spooled {num_spooled:g}, on record {len(on_record())}")
    assert factory.state("dots").phase is Phase.ROLLED_BACK
    assert num_spooled > 0
    assert not on_record()["captured_at"].duplicated().any()


def roll_back(factory: Factory) -> None:
    """`shadowline rollout rollback`: the order, and a tick that follows it."""
    from tasks.rollout.tick import tick_once

    records = factory.records
    if records.approvals.next_order() is None:
        records.approvals.order(Order(OrderKind.ROLL_BACK, ("dots",), "Ada", "complaint 4711"), datetime.now(UTC))
    state = records.rollout.state()
    challenger = {cls.class_name: cls.candidate for cls in state.classes}
    tick_once.fn(records, challenger, datetime.now(UTC), factory.params())


def insist(work: Callable[[], None]) -> int:
    """As a person who tries again; how often it was refused."""
    for refused in range(200):
        try:
            work()
        except (SQLAlchemyError, ValueError):
            time.sleep(0.05)
        else:
            return refused
    raise AssertionError("it was never taken")


# --- a whole retraining ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnPostgres(Project):
    """A project whose model store, records and orchestrator are all in PostgreSQL."""

    tracking: str
    records: str
    prefect: str
    address: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            "SHADOWLINE_TRACKING_URI": self.tracking,
            "SHADOWLINE_DATABASE_URL": self.records,
            "PREFECT_HOME": f"{self.root.parent}/prefect",
            "PREFECT_API_URL": self.address,
            "PREFECT_API_DATABASE_CONNECTION_URL": self.prefect.replace("+psycopg", "+asyncpg"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "NO_PROXY": "127.0.0.1",
        }


@pytest.fixture
def on_postgres(postgres: Postgres, tmp_path: Path) -> Iterator[OnPostgres]:
    """A project in which nothing has run yet, with more steps to train, beside a running Prefect server."""
    port = str(free_port())
    databases = [postgres.create_database() for _ in range(3)]
    project = OnPostgres(build_project(tmp_path / "project").root, *databases, f"http://127.0.0.1:{port}/api")
    project.edit_params(train={"steps": STEPS})
    project.commit("Longer training")
    with background(project, "prefect", "server", "start", "--host", "127.0.0.1", "--port", port) as server:
        wait_until(lambda: bool(time.sleep(0.2)) or answers(project), server)
        yield project


def answers(project: OnPostgres) -> bool:
    try:
        return httpx.get(f"{project.address}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


class background:
    """A process in the project that writes into a file, so that nobody has to read what it says."""

    def __init__(self, project: Project, *command: str) -> None:
        self.log = project.root.parent / f"{command[0]}-{time.monotonic_ns()}.log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=project.root, env=project.environment, stdout=file, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        kill(self.process)


def test_a_retraining_outlives_restarts_in_the_middle_of_training_and_at_registration(
    on_postgres: OnPostgres, postgres: Postgres
) -> None:
    project = on_postgres

    def num(table: str, which: str) -> int:
        found = ask(project.tracking, f"SELECT count(*) FROM {table} WHERE {which}")
        return int(found[0][0]) if found else 0

    retraining = background(project, "shadowline", "retrain", "--json")
    with retraining as process:
        for happened in (
            lambda: num("metrics", "key = 'train/loss'") > 5,
            lambda: num("metrics", "key = 'test/auroc'") > 0,
        ):
            wait_until(lambda: bool(time.sleep(0.05) or happened()), process, 900)  # noqa: B023
            with postgres.stopped():
                time.sleep(AWAY_S)
        code = process.wait(900)
    output = retraining.log.read_text(encoding="utf-8")
    print(f"exit code {code}; {output.count('etry')} lines speak of retries")
    if code:  # in red with its reason; then the next run is green
        print(output[-4000:])
        assert project.shadowline("retrain").returncode == 0
    runs = ask(project.tracking, "SELECT run_uuid, status FROM runs")
    steps = ask(project.tracking, "SELECT run_uuid, step FROM metrics WHERE key = 'train/loss' ORDER BY step")
    assert [step for _, step in steps] == list(range(len(read_json(project.layout.history)["steps"])))
    assert ask(project.tracking, "SELECT name, version FROM model_versions") == [(MODEL, 1)]
    assert ask(project.tracking, f"SELECT alias FROM registered_model_aliases WHERE name = '{MODEL}'") == [
        ("challenger",)
    ]
    assert {status for _, status in runs} <= ({"FINISHED"} if not code else {"FINISHED", "FAILED"})
    states = ask(project.prefect, "SELECT state_name FROM flow_run")
    print(runs, states)
    assert ("Completed",) in states
    assert len(ask(project.records, "SELECT fingerprint FROM models")) == 2
