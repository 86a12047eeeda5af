"""What the tests of the whole chain share: one Prefect server, and one project that has been retrained once."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from fixtures.learning import ROOT
from fixtures.plant import Server, connected
from fixtures.planted_secrets import planted
from fixtures.tiny_project import CLASSES, FirstRun, Project, build_project, free_port, kill, wait_until
from shadowline.core.settings import prepare_environment
from shadowline.records.stores import Records, open_records

if TYPE_CHECKING:
    from prefect.states import State

    from flows.retrain import RetrainResult

_FLOWS = {  # commands that run a flow
    ("audit", "reproduce"),
    ("bank", "update"),
    ("enroll",),
    ("legacy", "import"),
    ("retrain",),
    ("rollout", "advance"),
    ("rollout", "rollback"),
}


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of its own, known to this process and to those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        prepare_environment()
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=90):
            address = PREFECT_API_URL.value()
            assert address is not None
            patch.setenv("PREFECT_API_URL", address)
            yield address


@pytest.fixture
def prefect_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What flows and tasks log: Prefect's loggers hand nothing on to the root, once a flow has run."""
    logger = logging.getLogger("prefect")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def real_server(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as a person starts it, which also acts on events; known to nobody: see `plant.serving`."""
    from prefect.client.orchestration import get_client

    home, port = tmp_path_factory.mktemp("server"), str(free_port())
    address = f"http://127.0.0.1:{port}/api"
    with connected(home, address):
        process = finished.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        try:
            with get_client(sync_client=True) as client:
                wait_until(lambda: client.api_healthcheck() is None, process)
        except BaseException:
            kill(process)
            raise
    yield Server(address, process)
    kill(process)


@pytest.fixture(scope="session")
def first_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """A tiny project after its first retraining, made once for all workers. Not to be changed."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "first"
    with FileLock(f"{folder}.lock", timeout=1200):
        if not (folder / "run.json").is_file():
            request.getfixturevalue("prefect_server")
            _retrain_first(folder)
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    artifacts = {key: (kind, data) for key, (kind, data) in found["artifacts"].items()}
    return FirstRun(Project(folder / "project"), found["result"], artifacts)


def _retrain_first(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
    with planted():
        state = build_project(folder / "project").retrain()
    assert state.is_completed(), state.message
    found = {"result": asdict(state.result()), "artifacts": asyncio.run(_artifacts_of(state))}
    (folder / "run.json").write_text(json.dumps(found, default=str), encoding="utf-8")


async def _artifacts_of(state: State[RetrainResult]) -> dict[str, tuple[str | None, str]]:
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    async with get_client() as client:
        artifacts = await client.read_artifacts(artifact_filter=run)
    return {str(artifact.key): (artifact.type, str(artifact.data)) for artifact in artifacts}


@pytest.fixture(scope="session")
def finished(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The retrained project, for the tests of this worker that only read it."""
    return first_run.project.copy(tmp_path_factory.mktemp("finished") / "project")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the retrained project, for tests that change it."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def in_finished(finished: Project) -> Iterator[Project]:
    """This process works in the retrained project."""
    with finished.inside():
        yield finished


@pytest.fixture
def in_project(project: Project) -> Iterator[Project]:
    """This process works in a copy of the retrained project."""
    with project.inside():
        yield project


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """This process works in a folder of its own, with a registry and a database; nothing is in them."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name, value in {
        "TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "DATABASE_URL": f"sqlite:///{tmp_path}/records.db",
        "AUDIT_KEYS": f"{tmp_path}/keys",
    }.items():
        monkeypatch.setenv(f"SHADOWLINE_{name}", value)
    monkeypatch.chdir(tmp_path)
    return open_records()


@pytest.fixture
def planned(in_project: Project, command: Callable[..., tuple[int, str, str]]) -> Project:
    """This process works in a project whose legacy models are on record; both classes are one wave of its rollout."""
    plan = in_project.root / "data/plan.json"
    plan.write_text(json.dumps({"waves": [list(CLASSES)]}), encoding="utf-8")
    for arguments in (("legacy", "import", "--all"), ("rollout", "plan", str(plan), "--by", "Ada")):
        code, _, err = command(*arguments)
        assert code == 0, err
    return in_project


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[..., tuple[int, str, str]]:
    """`command("data", "list")` runs the command line in this process: exit code, stdout, stderr."""
    from shadowline.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        if (arguments[:1] in _FLOWS or arguments[:2] in _FLOWS) and "PREFECT_API_URL" not in os.environ:
            request.getfixturevalue("prefect_server")  # else each project would have one of its own
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr("sys.argv", ["shadowline", *arguments])
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, out, err

    return run
