"""What is asked directly, and whether somebody listens before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.request import proxy_bypass

import httpx
import pytest
from requests.utils import should_bypass_proxies

from shadowline.core.network import bypass_proxy, why_unreachable
from shadowline.core.settings import prepare_environment

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_PROXIES, *(name.lower() for name in _PROXIES)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"


def test_without_a_proxy_nothing_is_set() -> None:
    assert bypass_proxy({"PATH": "/bin", "NO_PROXY": "plant.local"}) == {}


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_behind_a_proxy_loopback_addresses_are_added_to_those_of_the_user(name: str) -> None:
    added = bypass_proxy({name: "http://proxy:3128", "NO_PROXY": "plant.local, 10.0.0.1", "no_proxy": "localhost"})
    assert set(added) == {"no_proxy", "NO_PROXY"}
    assert added["NO_PROXY"] == added["no_proxy"] == "localhost,plant.local,10.0.0.1,127.0.0.1,::1"
    assert bypass_proxy({name: "http://proxy:3128", **added}) == added


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_every_command_asks_loopback_servers_directly(
    monkeypatch: pytest.MonkeyPatch, listening: str, host: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HTTP_PROXY", listening)
    prepare_environment()
    assert proxy_bypass(host)
    assert should_bypass_proxies(f"http://{host}:4200/api", no_proxy=None)
    with pytest.raises(httpx.ConnectError):  # of the server itself, and no answer of a proxy
        httpx.get(f"http://{host}:1/api")


def test_a_server_that_listens_is_reachable(listening: str) -> None:
    assert why_unreachable(listening) == ""


def test_a_server_that_is_gone_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert why_unreachable(f"http://127.0.0.1:{port}") == "Connection refused"
    assert "not known" in why_unreachable("http://nowhere.invalid:5000")
    assert why_unreachable("http://127.0.0.1:port")


def test_behind_a_proxy_it_is_the_proxy_that_has_to_listen(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    proxy = listening.replace("http://", "http://me:h0rse@").removesuffix("/api")
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert why_unreachable("https://nowhere.invalid") == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:h0rse@127.0.0.1:1")
    assert why_unreachable("https://nowhere.invalid") == (
        "Connection refused, asked through the proxy http://***@127.0.0.1:1"
    )
