"""Whether a server can be reached, asked before anything is started that needs it; and what never goes through a proxy.

why = why_unreachable("http://mlflow.plant.local:5000")     # "" or e.g. "Connection refused"
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from shadowline.core.secrets import mask

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PORTS = {"http": 80, "https": 443}
_TIMEOUT_S = 5.0


def bypass_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which loopback addresses are asked directly, where a proxy is configured; else none."""
    if not any(name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name in environment):
        return {}
    named = ",".join(environment.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    hosts = dict.fromkeys([*(host.strip() for host in named if host.strip()), *_LOOPBACK])
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts))


def why_unreachable(url: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Why nobody listens at the host and port of an http(s) URL, or of the proxy that it is asked through; "" where
    somebody does."""
    parts = urlsplit(url)
    proxy = _proxy_of(parts.scheme, parts.hostname or "")
    asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
    try:
        port = asked.port or _PORTS.get(asked.scheme, 443)
        socket.create_connection((asked.hostname or "", port), timeout_s).close()
    except (OSError, ValueError) as error:  # the latter for a port that is no number
        reason = getattr(error, "strerror", None) or str(error)
        return f"{reason}, asked through the proxy {mask(proxy)}" if proxy else reason
    return ""


def free_port() -> int:
    """A port of the loopback on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _proxy_of(scheme: str, host: str) -> str:
    """The proxy through which the environment sends requests to the host; "" for none."""
    return "" if proxy_bypass(host) else getproxies().get(scheme, "")
