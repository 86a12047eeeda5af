"""/openapi.json: every route is in it, with its answers and refusals, and it is behind the key like the routes."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from fixtures.gateway import app_without_models
from shadowline.core.params import Params
from shadowline.gateway.auth import OPEN_PATHS

KEY = "a-key"
ELSEWHERE = ("203.0.113.5", 50_000)


@pytest.fixture
def schema(params: Params) -> dict[str, Any]:
    answer = TestClient(app_without_models(params, KEY), headers={"X-API-Key": KEY}).get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(schema: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, verb): operation for path, verbs in schema["paths"].items() for verb, operation in verbs.items()}


def test_the_schema_lists_every_route(schema: dict[str, Any]) -> None:
    assert set(operations(schema)) == {
        ("/v1/inspect", "post"),
        ("/v1/feedback", "post"),
        ("/v1/review", "get"),
        ("/v1/classes/{class_name}/images", "post"),
        ("/v1/rollout", "get"),
        ("/", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    }


def test_every_route_says_what_it_does_gives_and_refuses(schema: dict[str, Any]) -> None:
    for (path, _), operation in operations(schema).items():
        assert operation["summary"] and operation["description"], path
        good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        (content,) = good["content"].values()
        assert content["schema"], path
        if path in OPEN_PATHS:
            assert "security" not in operation
            continue
        assert operation["security"] == [{"key": []}]
        refused = {int(status): answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {401, 403, 500, 503} <= set(refused), path
        for answer in refused.values():
            assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Refused"}
    assert "HTTPValidationError" not in schema["components"]["schemas"]  # FastAPI's own form of a 422 is never sent


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/inspect", {"image", "class_name", "captured_at", "heatmap", "known_label"}),
        ("/v1/classes/{class_name}/images", {"image", "kind"}),
    ],
)
def test_an_upload_lists_its_form_fields(schema: dict[str, Any], path: str, fields: set[str]) -> None:
    body = schema["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(body["properties"]) == fields
    assert body["required"] == ["image"]
    assert body["additionalProperties"] is False


@pytest.mark.parametrize(
    ("keys", "sent", "caller", "status"),
    [
        ((), None, ("127.0.0.1", 50_000), 200),
        ((), None, ELSEWHERE, 403),
        ((KEY,), None, ("127.0.0.1", 50_000), 401),
        ((KEY,), None, ELSEWHERE, 401),
        ((KEY,), "wrong", ELSEWHERE, 401),
        ((KEY,), KEY, ELSEWHERE, 200),
    ],
)
def test_the_schema_is_behind_the_key_like_the_routes(
    params: Params, keys: tuple[str, ...], sent: str | None, caller: tuple[str, int], status: int
) -> None:
    headers = {} if sent is None else {"X-API-Key": sent}
    client = TestClient(app_without_models(params, *keys), headers=headers, client=caller)
    assert client.get("/openapi.json").status_code == status


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_loads_scripts_from_elsewhere(params: Params, path: str) -> None:
    assert TestClient(app_without_models(params, KEY), headers={"X-API-Key": KEY}).get(path).status_code == 404
