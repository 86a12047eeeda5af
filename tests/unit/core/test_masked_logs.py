"""No logger of the process writes a secret, wherever it stands in the record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from shadowline.core.masked_logs import mask_logs

SECRET = "h0rse-battery"
URL = f"http://me:{SECRET}@host/hook"


@pytest.fixture
def written() -> Iterator[StringIO]:
    """What a plain handler of a foreign logger writes."""
    former, log, text = logging.getLogRecordFactory(), logging.getLogger("somebody.else"), StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    mask_logs()
    yield text
    logging.setLogRecordFactory(former)
    log.removeHandler(handler)


def test_message_and_arguments_are_masked(written: StringIO) -> None:
    logging.getLogger("somebody.else").warning("HTTP request: POST %s", URL)
    assert written.getvalue() == "WARNING HTTP request: POST http://***@host/hook\n"


def test_a_traceback_is_masked_in_all_of_its_causes(written: StringIO) -> None:
    try:
        try:
            raise OSError(f"no route to {URL}")
        except OSError as error:
            raise RuntimeError(f"gave up on {URL}") from error
    except RuntimeError:
        logging.getLogger("somebody.else").exception("it failed")
    text = written.getvalue()
    assert "RuntimeError: gave up on http://***@host/hook" in text
    assert "OSError: no route to http://***@host/hook" in text
    assert SECRET not in text
    assert text.count("Traceback") == 2
