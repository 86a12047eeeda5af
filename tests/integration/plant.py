"""A project served by `shadowline deploy` beside a real Prefect server, as a person starts them.

with serving(project, server) as plant:
    plant.run("rollout/tick")
    plant.stop(); plant.serve()      # the process is killed, and started again
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration.tiny_project import Project, kill, wait_until
from shadowline.records.stores import Records, open_records

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

NUM_DEPLOYMENTS = 10
SCHEDULE = {  # not the project's own, so that nothing falls due by itself meanwhile
    "retrain": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=1;BYMINUTE=0;BYSECOND=0",
    "rollout": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=4;BYMINUTE=30;BYSECOND=0",
    "enroll": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=6;BYMINUTE=0;BYSECOND=0",
    "decommission": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=5;BYMINUTE=0;BYSECOND=0",
    "shadow": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=3;BYMINUTE=0;BYSECOND=0",
    "timezone": "Europe/Berlin",
}
_PATIENCE_S = 480  # where other tests run beside it


@dataclass(frozen=True)
class Server:
    """A Prefect server that runs."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def connected(home: Path, address: str) -> Iterator[None]:
    """This process and those that it starts know the server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: address}):
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_API_URL", address)
        patch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{home}/prefect.db")
        patch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "1")
        patch.setenv("PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS", "2")
        patch.setenv("PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION", "30")  # s; of a killed run
        yield


@dataclass
class Plant:
    """The process that serves the deployments, and a client of the server."""

    project: Project
    client: SyncPrefectClient
    log: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def records(self) -> Records:
        return open_records(f"sqlite:///{self.project.root}/data/records.db")

    def serve(self) -> None:
        """Start the process, and wait until its deployments are installed."""
        installed = datetime.now(UTC)
        command = ["shadowline", "deploy", "--work-dir", str(self.project.root)]
        with self.log.open("a", encoding="utf-8") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.project.root,
                    env=self.project.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )

        def is_installed() -> bool:
            found = self.client.read_deployments()
            return len([one for one in found if one.updated and one.updated >= installed]) == NUM_DEPLOYMENTS

        self.wait_until(is_installed)

    def stop(self) -> None:
        """SIGKILL to the process and to the flow runs that it has started."""
        kill(self.processes[-1])

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Fails with the end of the log where the process ends before, or after some minutes."""
        try:
            wait_until(lambda: bool(time.sleep(0.2) or happened()), self.processes[-1], seconds=_PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text(encoding='utf-8')[-4000:]}") from None

    def deployment_id(self, name: str) -> Any:
        return self.client.read_deployment_by_name(name).id

    def start(self, deployment: str, **parameters: str) -> FlowRun:
        """As a person does with `prefect deployment run`."""
        return self.client.create_flow_run_from_deployment(self.deployment_id(deployment), parameters=parameters)

    def wait_for(self, run: FlowRun, reached: Callable[[FlowRun], bool]) -> FlowRun:
        """The run when it is `reached`; fails with the reason where it fails. What an event tells comes after it."""

        def looked() -> bool:
            found.append(self.client.read_flow_run(run.id))
            state = found[-1].state
            assert state is not None
            failed = state.is_final() and not state.is_completed()
            assert not failed, f"{found[-1].name}: {state.name}, {state.message}"
            return reached(found[-1])

        found: list[FlowRun] = []
        self.wait_until(looked)
        return found[-1]

    def run(self, deployment: str, **parameters: str) -> FlowRun:
        return self.wait_for(self.start(deployment, **parameters), is_completed)

    def runs(self, flow: str) -> list[FlowRun]:
        """Every run of a flow that was made for this plant, the oldest first."""
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName

        found = self.client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))
        own = [run for run in found if run.created and run.created >= self.began]
        return sorted(own, key=lambda run: str(run.created))

    def next_run(self, flow: str, known: list[FlowRun]) -> FlowRun:
        """The first run of a flow that is none of those that are known; waits for it."""
        new: list[FlowRun] = []
        ids = {run.id for run in known}
        self.wait_until(lambda: bool(new.extend(run for run in self.runs(flow) if run.id not in ids) or new))
        return new[0]


@contextmanager
def serving(project: Project, server: Server, log: Path) -> Iterator[Plant]:
    """The project's deployments, served; those of another project on the same server are replaced."""
    from prefect.client.orchestration import get_client

    with connected(log.parent, server.address), get_client(sync_client=True) as client:
        plant = Plant(project, client, log)
        try:
            plant.serve()
            yield plant
        finally:
            plant.stop()


def is_completed(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_completed()


def is_paused(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_paused()
