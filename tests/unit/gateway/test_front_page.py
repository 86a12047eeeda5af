"""`/` shows a request that works as it stands."""

from __future__ import annotations

import ast
import shlex

import pytest
from fastapi.testclient import TestClient

from fixtures.gateway import app_without_models
from shadowline.core.params import Params


@pytest.mark.parametrize("key", [None, "a-secret-key"])
def test_the_first_page_shows_a_request_and_every_route_without_a_key(params: Params, key: str | None) -> None:
    app = app_without_models(params, *([key] if key else []))
    answer = TestClient(app, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1)).get("/")
    page = answer.text
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    curl = next(line for line in page.splitlines() if line.startswith("    curl"))
    assert shlex.split(curl)[-1] == "http://127.0.0.1:8080/v1/inspect"
    assert ("X-API-Key" in curl) == (key is not None)
    assert (key or "a-secret-key") not in page
    program = page.partition("From Python:\n")[2].partition("\nLeave out")[0]
    ast.parse("\n".join(line.removeprefix("    ") for line in program.splitlines()))
    assert all(path in page for path in app.openapi()["paths"])
    assert max(map(len, page.splitlines())) <= 110
