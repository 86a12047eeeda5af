"""How a request is refused: a status and one line for people, as `{"error": …}`."""

from __future__ import annotations

from fastapi import HTTPException

RETRY_LATER = {"Retry-After": "1"}  # seconds; for temporary errors


CALLER_GONE = 499  # a status that nobody receives: the caller hung up before the body was complete


class RefusedRequestError(HTTPException):
    """An HTTPException, so that it passes through FastAPI's own error handling wherever it is raised."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message, headers=RETRY_LATER if status == 503 else None)
