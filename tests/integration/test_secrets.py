"""Secrets are planted wherever a plant configures one, everything outside is away or refuses, and then everything that
was written is searched: Prefect's runs and logs, the records, the output of commands, exceptions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client

from fixtures.planted_secrets import (
    DATABASE_URL,
    ENVIRONMENT,
    SECRETS,
    TRACKING_URI,
    UNREACHABLE,
    planted,
    secrets_in,
    secrets_in_text,
)
from shadowline.core.params import Params
from shadowline.records.database import open_database
from shadowline.records.outbox import put_actions
from shadowline.records.stores import Records
from shadowline.rollout.engine import Action, ActionKind

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """HOST:PORT of a server that refuses everything, and repeats all that it was sent, as a debugging proxy does."""

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            body = f"refused: {self.path} {self.headers}".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = _refuse

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@flow(name="meets-refusals")
def meet_refusals(records: Records, params: Params, root: Path, s3: str) -> list[str]:
    """What a tick and a retraining do first, with everything outside away or refusing; returns what was raised."""
    from tasks.rollout.outbox import AT_ONCE, drain_outbox

    drain_outbox(records, params, root, datetime.now(UTC), AT_ONCE)
    states = [task(work)(return_state=True) for work in (_ask_registry, lambda: _ask_s3(s3), _ask_database)]
    return [str(state.result(raise_on_failure=False)) for state in states]


def _ask_registry() -> None:
    from tasks.integrations.mlflow_registry import start_run

    start_run.fn("experiment", {})


def _ask_s3(address: str) -> None:
    from tasks.integrations.object_storage import S3Storage, _client

    S3Storage("bucket", "", _client(f"http://{address}"), "", patience_s=0.1).list()


def _ask_database() -> None:
    open_database(DATABASE_URL)


@pytest.mark.parametrize("how", ["away", "refusing"])
def test_no_secret_of_the_environment_is_written_anywhere(
    prefect_server: str, records: Records, params: Params, tmp_path: Path, command: Command, refusing: str, how: str
) -> None:
    address = refusing if how == "refusing" else UNREACHABLE
    hook = ENVIRONMENT["SHADOWLINE_NOTIFY_URL"].replace(UNREACHABLE, address)
    tracking = TRACKING_URI.replace(UNREACHABLE, address)
    with records.rollout.engine.begin() as connection:
        put_actions(connection, [Action(ActionKind.NOTIFY, "bolt", "", "moved")], 1)
    with planted(SHADOWLINE_NOTIFY_URL=hook, SHADOWLINE_TRACKING_URI=tracking, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
        state = meet_refusals(records, params, tmp_path, address, return_state=True)
        said = state.result(raise_on_failure=False)
        outputs = [command("rollout", "status"), command("rollout", "history")]
    assert len(said) == 3 and all(said), said  # each of them failed
    (pending,) = records.outbox.pending_actions()
    assert "webhook: " in (pending.last_error or "")
    written = _prefect_wrote(state.state_details.flow_run_id)
    assert "webhook: " in written and "meets-refusals" in written
    for text in (*said, *map(str, outputs), written):
        assert secrets_in_text(text) == [], text
    records.rollout.engine.dispose()
    assert secrets_in(tmp_path) == []


def _prefect_wrote(flow_run_id: object) -> str:
    """Everything that Prefect's server has of a run: the run, its tasks, their states, its log."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        LogFilter,
        LogFilterFlowRunId,
    )
    from prefect.logging.handlers import APILogWorker

    APILogWorker.instance().drain()
    run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        found: list[Any] = client.read_flow_runs(flow_run_filter=run)
        tasks = client.read_task_runs(flow_run_filter=run)
        found += [*client.read_flows(flow_run_filter=run), *tasks]
        for one in tasks:
            found += client.read_task_run_states(one.id)
        found += client.read_flow_run_states(flow_run_id)  # type: ignore[arg-type]
        found += client.read_logs(log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
    return "\n".join(repr(one) for one in found)


def test_the_search_finds_what_is_written() -> None:
    """A test of the test: every secret, in plain and quoted."""
    assert secrets_in_text(" ".join(SECRETS.values())) == list(SECRETS)
    assert secrets_in_text(ENVIRONMENT["SHADOWLINE_NOTIFY_URL"]) == list(SECRETS)[:2]
