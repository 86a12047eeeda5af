"""Errors as one line for the terminal: what is wrong, with its file, key or address, and what to do.

    line = error_line(error)     # None: nothing that a user can put right, but a fault of the program
    write_fault(error)           # its traceback goes to a file

A line is masked (`shadowline.core.secrets`) and printable. Every error ends a command with exit code 2, because 1 says
that a verdict is negative.
"""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from pathlib import Path

import pydantic

from shadowline.core.layout import Layout
from shadowline.core.printable import one_line, without_kind
from shadowline.core.secrets import mask

STOPPED = "stopped; run the same command again, it goes on where it was"
INTERRUPTED, TERMINATED = 130, 143  # exit codes, as a shell says of a process that ended by SIGINT, by SIGTERM

_OURS = frozenset({"shadowline", "tasks", "flows"})
_STORES = "check SHADOWLINE_TRACKING_URI and SHADOWLINE_DATABASE_URL, and that the server is up"
_WAYS_OUT = {  # package whose error it is → what to do
    "alembic": "check SHADOWLINE_DATABASE_URL",
    "boto3": "check the s3:// location, the AWS_ variables and SHADOWLINE_S3_ENDPOINT",
    "botocore": "check the s3:// location, the AWS_ variables and SHADOWLINE_S3_ENDPOINT",
    "dvc": "check SHADOWLINE_DATA_URL, and that the project is a git repository with DVC",
    "httpcore": "check PREFECT_API_URL and the proxy, and that the server is up",
    "httpx": "check PREFECT_API_URL and the proxy, and that the server is up",
    "mlflow": "check SHADOWLINE_TRACKING_URI, and that the server is up",
    "prefect": "check PREFECT_API_URL, and that the server is up",
    "psycopg": _STORES,
    "requests": "check SHADOWLINE_TRACKING_URI and the proxy, and that the server is up",
    "sqlalchemy": _STORES,
    "sqlite3": _STORES,
    "urllib3": "check SHADOWLINE_TRACKING_URI and the proxy, and that the server is up",
}
_EXTRAS = {  # package that is missing → the extra of Shadowline that brings it
    "boto3": "s3",
    "dvc_s3": "s3",
    "onnx": "demo",
    "onnxruntime": "onnx",
    "open_clip": "zero_shot",
    "psycopg": "postgres",
    "s3fs": "s3",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXTS = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_GO_ON = "then run the same command again, it goes on where it was"


def error_line(error: BaseException) -> str | None:
    """The line that says what to do; None where the error is a fault of the program."""
    text = _describe(error)
    return None if text is None else one_line(mask(text))


def _describe(error: BaseException) -> str | None:
    if _is_full(error):
        return f"{_place(error)}no space left on the disk; free some, {_GO_ON}"
    if isinstance(error, pydantic.ValidationError):
        return _invalid_values(error)
    if isinstance(error, ImportError):
        return _missing_package(error)
    if isinstance(error, OSError):
        return _system_error(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch, with its advice
        return f"not enough memory{_behind(error)}; close other programs, or take a machine with more"
    package = type(error).__module__.partition(".")[0]
    if package in _WAYS_OUT:
        cause = getattr(error, "orig", None) or error  # SQLAlchemy's own text ends with the statement and its values
        return f"{package}: {_first_sentence(str(cause)) or type(error).__name__}; {_WAYS_OUT[package]}"
    if package in _OURS or isinstance(error, ValueError):
        return str(error)
    return None


def usage_error(error: BaseException) -> str | None:
    """The line of an error in the command line itself, of which click holds message and context; None for others."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    context = getattr(error, "ctx", None)
    advice = f"; `{context.command_path} --help` lists what it takes" if context is not None else ""
    return one_line(mask(f"{without_kind(message()).rstrip('.')}{advice}"))


def write_fault(error: BaseException) -> str:
    """Keep the masked traceback of a fault of the program in a file; the line that names it."""
    text = mask("".join(traceback.format_exception(error)))
    for folder in (Layout().scratch, Path(tempfile.gettempdir())):
        path = folder / f"shadowline-fault-{os.getpid()}.txt"
        try:
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:  # no project, or no space: the next place
            continue
        return one_line(mask(f"{_named(error)}; this is a fault of Shadowline: {path} holds what to report"))
    return one_line(mask(f"{_named(error)}; this is a fault of Shadowline"))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}{_behind(error)}"


def _behind(error: BaseException) -> str:
    text = _first_sentence(str(error))
    return f": {text}" if text else ""


def _first_sentence(text: str) -> str:
    """The first line, without the full stop; what follows in errors of other tools is advice for programmers."""
    return text.strip().partition("\n")[0].rstrip(". ")


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _FULL or any(text in str(error) for text in _FULL_TEXTS)


def _place(error: BaseException) -> str:
    filename = getattr(error, "filename", None)
    return f"{os.fsdecode(filename)}: " if isinstance(filename, str | bytes) else ""


def _system_error(error: OSError) -> str:
    """`FILE: reason`; an error that we raise with a text of its own has no number."""
    if error.errno is None or not error.strerror:
        return str(error) or type(error).__name__
    other = f" → {os.fsdecode(error.filename2)}" if isinstance(error.filename2, str | bytes) else ""
    return f"{_place(error).removesuffix(': ')}{other}: {error.strerror}".removeprefix(": ")


def _invalid_values(error: pydantic.ValidationError) -> str:
    """Every value that does not fit, by its key or environment variable, without the value: it may be a secret."""
    prefix = "SHADOWLINE_" if error.title == "Settings" else ""

    def key(location: tuple[int | str, ...]) -> str:
        name = ".".join(map(str, location)) or error.title
        return f"{prefix}{name.upper()}" if prefix else name

    return "; ".join(f"{key(fault['loc'])}: {without_kind(fault['msg'])}" for fault in error.errors(include_url=False))


def _missing_package(error: ImportError) -> str | None:
    package = (error.name or "").partition(".")[0]
    if package == "psycopg2":
        return "driver psycopg2 is not used here: write postgresql+psycopg://… in the database's URL"
    if package in _EXTRAS:
        extra = _EXTRAS[package]
        return f"this needs the package {package}: run `pip install 'shadowline[{extra}]'`"
    if isinstance(error, ModuleNotFoundError) and package and package not in _OURS:
        return f"the package {package} is missing: install Shadowline again with its dependencies"
    return None
