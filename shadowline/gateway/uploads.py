"""From the bytes of a request to a checked image; no name in it is a path, and here nothing touches the disk."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from fastapi import Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from shadowline.core.params import Params
from shadowline.core.printable import without_kind
from shadowline.data.bit_depth import viewable
from shadowline.data.images import FORMATS, Refusal, RefusedImage, decode_image
from shadowline.data.labels import Label
from shadowline.data.near_duplicates import frame_signature
from shadowline.gateway.errors import RefusedRequestError
from shadowline.gateway.schemas import Line
from shadowline.gateway.shadow_worker import UploadedImage
from shadowline.gateway.single_values import single_values
from shadowline.records.pair import is_capture_suspect
from shadowline.records.pairs import utc_now

_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MAX_FIELD = 1_024  # bytes
_WAY_OUT = {
    Refusal.EMPTY: "send the whole file",
    Refusal.NOT_AN_IMAGE: f"send one of {', '.join(FORMATS)}",
    Refusal.TRUNCATED: "send the whole file",
    Refusal.DECOMPRESSION_BOMB: "send a smaller image",
    Refusal.TOO_LARGE_FILE: "send a smaller image",
    Refusal.ANIMATED: "send the one to be inspected",
}


class InspectForm(BaseModel):
    """The fields beside the image."""

    model_config = ConfigDict(extra="forbid")

    class_name: Line | None = Field(
        None, max_length=64, description="the product class; not needed where the model can tell classes apart"
    )
    captured_at: AwareDatetime | None = Field(
        None, description="when the image was taken, ISO 8601 with a time zone; kept and not used"
    )
    heatmap: bool = Field(False, description="whether the answer is to hold a heat map")
    known_label: Literal["normal", "anomalous"] | None = Field(
        None, description="of a reference part that somebody put on the line"
    )

    @field_validator("captured_at")
    @classmethod
    def _is_a_time_in_utc(cls, at: datetime | None) -> datetime | None:
        if at is None:
            return None
        try:
            return at.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{at.isoformat()} is before year 1 or after year 9999 in UTC; leave it out") from None


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # no bound, hence no temporary file: the body is bounded before (`auth.py`)


F = TypeVar("F", bound=BaseModel)


@dataclass(frozen=True)
class Upload(Generic[F]):
    """One image as it came, and the fields beside it."""

    data: bytes
    form: F


async def read_sample(request: Request, params: Params, clock: Callable[[], datetime] = utc_now) -> UploadedImage:
    """Raises RefusedRequestError for a request that is not an upload, and for an image that is refused.

    `clock` gives the time of receipt: the moment at which the upload is complete.
    """
    given = [("X-Trace-Id", value) for value in request.headers.getlist("x-trace-id")]
    trace_id = single_values(given).get("X-Trace-Id") or uuid.uuid4().hex
    if not _TRACE_ID.fullmatch(trace_id):
        raise RefusedRequestError(422, "X-Trace-Id: 1 to 64 letters, digits and . _ : -")
    upload = await read_upload(request, InspectForm)
    return await run_in_threadpool(_sample, upload, clock(), trace_id, params)


async def read_upload(request: Request, kind: type[F]) -> Upload[F]:
    """Raises RefusedRequestError for a request that is not one image and the fields of `kind`."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RefusedRequestError(415, "send multipart/form-data with a file field named image")
    num_fields = len(kind.model_fields)
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=1, max_fields=num_fields, max_part_size=_MAX_FIELD
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedRequestError(400, f"multipart body: {error.message}") from None
    fields = single_values(form.multi_items())
    image = fields.pop("image", None)
    if not isinstance(image, UploadFile):
        raise RefusedRequestError(422, "image: missing; send it as a file field")
    return Upload(await image.read(), _check_fields(fields, kind))


def _check_fields(fields: Mapping[str, Any], kind: type[F]) -> F:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RefusedRequestError(422, explain(error.errors())) from None


def explain(errors: Any) -> str:
    """Pydantic's errors in one line."""
    return "; ".join(f"{_place(error['loc'])}{without_kind(error['msg'])}" for error in errors)


def _place(names: Iterable[str | int]) -> str:
    """The name of the field; nothing where the error is about all of them together."""
    place = ".".join(str(name) for name in names if name not in ("body", "query"))
    return f"{place}: " if place else ""


def refusal_of(refused: RefusedImage) -> RefusedRequestError:
    """The problem is that of any image; the way out, which follows the last semicolon, is a caller's."""
    problem, _, way_out = str(refused).rpartition("; ")
    message = f"{problem}; {_WAY_OUT.get(refused.refusal, way_out)}"
    return RefusedRequestError(413 if refused.refusal is Refusal.TOO_LARGE_FILE else 422, message)


def _sample(upload: Upload[InspectForm], received_at: datetime, trace_id: str, params: Params) -> UploadedImage:
    try:
        image = decode_image(upload.data, params.data)
    except RefusedImage as refused:
        raise refusal_of(refused) from None
    form = upload.form
    captured_at = form.captured_at or received_at
    return UploadedImage(
        image=image,
        data=upload.data,
        image_id=hashlib.sha256(upload.data).hexdigest(),
        received_at=received_at,
        captured_at=captured_at,
        capture_suspect=is_capture_suspect(captured_at, received_at, params.gateway),
        trace_id=trace_id,
        frame_signature=frame_signature(viewable(image)),
        review_share=params.shadow.review_share,
        class_name=form.class_name,
        wants_heat=form.heatmap,
        known_label=Label(form.known_label) if form.known_label else None,
    )
