"""What `/` shows to a person: a first request by curl and by Python, and every route. Plain text, for any browser."""

from __future__ import annotations

from typing import Any

_PAGE = """{title} {version}

Judge an image:

    curl{curl_key} -F class_name=CLASS -F image=@photo.png {address}/v1/inspect

From Python:

    import httpx

    with open("photo.png", "rb") as image:
        answer = httpx.post(
            "{address}/v1/inspect",{python_key}
            data={{"class_name": "CLASS"}},
            files={{"image": image}},
        )
    answer.raise_for_status()
    print(answer.json()["decision"])  # normal or anomalous

Leave out class_name where the model is to find the class. Every route; all fields are in /openapi.json:

{routes}
"""


def front_page(schema: dict[str, Any], address: str, *, with_key: bool) -> str:
    """`schema`: the application's OpenAPI; `address`: of this server, as the caller named it."""
    routes = [(verb.upper(), path, about) for path, verbs in schema["paths"].items() for verb, about in verbs.items()]
    width = max(len(path) for _, path, _ in routes)
    return _PAGE.format(
        title=schema["info"]["title"],
        version=schema["info"]["version"],
        address=address.rstrip("/"),
        curl_key=" -H 'X-API-Key: KEY'" if with_key else "",
        python_key='\n            headers={"X-API-Key": "KEY"},' if with_key else "",
        routes="\n".join(f"    {verb:4} {path:{width}}  {about['summary']}" for verb, path, about in routes),
    )
