"""What a request says, it says once: of two values for one name, Python would silently take the last or the first."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from shadowline.gateway.errors import RefusedRequestError


def single_values(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs. Raises RefusedRequestError for a name that is there twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise RefusedRequestError(422, f"{name}: given twice; send it once")
        values[name] = value
    return values


class RouteOfSingleValues(APIRoute):
    """Refuses a repeated name in the query and in a JSON body; `uploads.py` does so in a form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_single(request: Request) -> Response:
            single_values(request.query_params.multi_items())
            return await handle(_Request(request.scope, request.receive))

        return handle_single


class _Request(Request):
    async def json(self) -> Any:
        return json.loads(await self.body(), object_pairs_hook=single_values)
