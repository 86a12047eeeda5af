"""Log records without secrets, whoever writes them: this package, MLflow, httpx, uvicorn, and whoever formats them."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from shadowline.core.secrets import mask


class MaskedRecord(logging.LogRecord):
    """Its message and its traceback are masked; formatters take a traceback from `exc_text` where that is set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = mask("".join(traceback.format_exception(self.exc_info[1])).rstrip("\n"))

    def getMessage(self) -> str:  # noqa: N802 - the name of logging's method
        return mask(super().getMessage())


def mask_logs() -> None:
    """From here on, every log record of this process is masked."""
    logging.setLogRecordFactory(MaskedRecord)
