"""Prefect's lines on the console: one line each, without tracebacks and secrets, and no name is interpreted.

The traceback of a failed run stays in Prefect's own log of the run.
"""

from __future__ import annotations

import logging
from copy import copy

from prefect.logging.handlers import PrefectConsoleHandler

from shadowline.core.printable import printable
from shadowline.core.secrets import mask


class ConsoleHandler(PrefectConsoleHandler):
    """Named by PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS, which `prefect_api` sets."""

    def format(self, record: logging.LogRecord) -> str:
        plain = copy(record)
        plain.exc_info = plain.exc_text = plain.stack_info = None
        return printable(mask(super().format(plain)))
