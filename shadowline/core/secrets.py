"""Secrets out of texts: what is printed, logged or stored about an error passes through `mask`.

mask("postgresql://me:pw@db/records: no route to host")    # "postgresql://***@db/records: no route to host"
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from urllib.parse import unquote

MASKED = "***"

_SECRET_NAMES = frozenset({"PGPASSWORD", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"})
_SECRET_SUFFIXES = ("_PASSWORD", "_PASSPHRASE", "_SECRET", "_TOKEN", "_API_KEY", "_GATEWAY_KEYS", "_SECRET_ACCESS_KEY")
_URL_NAME = re.compile(r"(?:SHADOWLINE|MLFLOW|PREFECT)_\w+|\w+_(?:PROXY|URL|URI|DSN)", re.IGNORECASE)
_SECRET_URLS = frozenset({"SHADOWLINE_NOTIFY_URL"})  # such a URL is a secret as a whole: the token is its path
_MIN_LENGTH = 4  # of a value that is looked for in a text; shorter ones would mask half of every sentence
_MIN_SEGMENT = 8  # of a part of such a URL's path that is looked for alone; "hook" is no token
_PARAMETER = r"[\w.-]*(?:token|secret|password|passwd|pwd|passphrase|signature|sig|credential|api_?key|auth)"

# A user and a password stand before the last `@` in front of the path. A colon that no port follows starts a password,
# which may hold unquoted slashes.
_USER_INFO = re.compile(r"""(?<=://)(?:[^\s/?#@:"'<>[]*:(?!\d*(?:[/?#]|$))[^\s"'<>]*@|[^\s/?#"'<>]*@)""")
_QUERY = re.compile(rf"""([?&;]{_PARAMETER}=)[^\s&;#"'<>]+""", re.IGNORECASE)
_KEYWORD = re.compile(r"""\b((?:password|passwd|pwd|passphrase)\s?=\s?)(?:'[^']*'|[^\s,;&)"'<>]+)""", re.IGNORECASE)
_HEADER = re.compile(r"\b((?:Bearer|Basic) )[\w.~+/=-]{8,}|\b(X-API-Key: )\S+", re.IGNORECASE)


def mask(text: str) -> str:
    """The text without secrets: the user and password of every URL, tokens in its query, passwords of a connection
    string, authorisation headers, and the values that the environment declares as secret."""
    declared = _pattern_of(tuple(sorted(set(_declared(os.environ)), key=len, reverse=True)))
    if declared is not None:
        text = declared.sub(MASKED, text)
    text = _USER_INFO.sub(f"{MASKED}@", text)
    text = _QUERY.sub(rf"\g<1>{MASKED}", text)
    text = _KEYWORD.sub(rf"\g<1>{MASKED}", text)
    return _HEADER.sub(lambda header: f"{header[1] or header[2]}{MASKED}", text)


def _declared(environment: Mapping[str, str]) -> Iterator[str]:
    """The secret values of the environment, as they are written there and as a client may print them."""
    for name, value in environment.items():
        if name in _SECRET_NAMES or name.endswith(_SECRET_SUFFIXES):
            yield from (part.strip() for part in value.split(","))
        if name in _SECRET_URLS:
            yield value.strip()
        if "://" in value and _URL_NAME.fullmatch(name):
            yield from _secrets_of_url(value.strip(), whole=name in _SECRET_URLS)


def _secrets_of_url(url: str, *, whole: bool) -> Iterator[str]:
    """Its password, also where an @ or a slash in it should have been quoted; `whole`: its path as well."""
    rest = url.partition("://")[2]
    password = rest.rpartition("@")[0].partition(":")[2]
    if password:
        yield password
        yield unquote(password)
    if whole:
        path = "/" + rest.rpartition("@")[2].partition("/")[2]
        yield path
        yield path.partition("?")[0]
        yield from (segment for segment in path.partition("?")[0].split("/") if len(segment) >= _MIN_SEGMENT)


@lru_cache(maxsize=4)
def _pattern_of(values: tuple[str, ...]) -> re.Pattern[str] | None:
    """Any of the values as whole words; the longest first, so that none is left in part."""
    words = [rf"(?<![^\W_]){re.escape(value)}(?![^\W_])" for value in values if _is_word(value)]
    paths = [re.escape(value) for value in values if len(value) >= _MIN_LENGTH and not _is_word(value)]
    return re.compile("|".join([*paths, *words])) if paths or words else None


def _is_word(value: str) -> bool:
    return len(value) >= _MIN_LENGTH and value[0] != "/"
