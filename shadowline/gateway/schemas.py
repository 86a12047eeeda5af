"""What the endpoints take and give: the models behind the JSON, and what /openapi.json says of uploads and refusals."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from shadowline.data.images import FORMATS
from shadowline.data.labels import Label
from shadowline.enrolment.policy import EnrolmentPhase
from shadowline.records.pair import Side
from shadowline.records.review import ReviewReason
from shadowline.rollout.state import ClassState


def _without_controls(text: str, allowed: str = "") -> str:
    """NUL fits into no PostgreSQL text, lone surrogates into no file, and the others would act on a terminal."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in allowed:
            raise PydanticCustomError(
                "control_character", "holds the character {character}; leave it out", {"character": ascii(character)}
            )
    return text


Line = Annotated[str, AfterValidator(_without_controls)]
Lines = Annotated[str, AfterValidator(lambda text: _without_controls(text, "\t\n\r"))]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # ISO 8601 in UTC, with its offset
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Answered(BaseModel):
    """Fields that are missing are not sent; unknown ones would be an error of ours."""

    model_config = ConfigDict(extra="forbid")


# --- POST /v1/inspect -----------------------------------------------------------------------------------------------


class InspectionAnswer(Answered):
    """An image that a model judged."""

    score: float = Field(description="robust sigmas above a typical normal image of the class")
    threshold: float = Field(description="the score above which the part is anomalous")
    decision: Literal[Label.NORMAL, Label.ANOMALOUS]
    stop: bool = Field(description="whether the part must not pass: true where it is anomalous")
    class_name: str
    class_confidence: float | None = Field(
        description="confidence that the image is of this class, 0…1; null where the caller said it"
    )
    model_fingerprint: str = Field(description="sha256 of everything that can change a decision on this class")
    model_version: str
    answered_by: Side
    review: bool = Field(description="whether chance has drawn the part for an inspector")
    image_id: Sha256 = Field(description="sha256 of the file's bytes")
    trace_id: str
    latency_ms: float = Field(ge=0, description="from the whole upload to the answer")
    heatmap: str = Field("", description="PNG of the image's size in base64; only where it was asked for")


class UnknownProductAnswer(Answered):
    """An image that was sent without a class, and that no class accepts: nobody judged it, and nothing is recorded."""

    score: None
    threshold: None
    decision: None
    stop: Literal[True] = Field(description="a part that nobody judged must not pass")
    class_name: None
    class_confidence: float = Field(description="confidence that the image is of nearest_class, 0…1")
    nearest_class: str
    model_version: str
    review: Literal[False]
    image_id: Sha256 = Field(description="sha256 of the file's bytes")
    trace_id: str
    latency_ms: float = Field(ge=0, description="from the whole upload to the answer")


# --- POST /v1/feedback and GET /v1/review ---------------------------------------------------------------------------


class FeedbackRequest(BaseModel):
    """An inspector's word; the image by its id or by the trace id of its inspection."""

    model_config = ConfigDict(extra="forbid")

    class_name: Line = Field(max_length=64, description="the product class")
    image_id: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="sha256 of the image file, as the inspection answered it"
    )
    trace_id: Line | None = Field(None, max_length=64, description="the trace id of the inspection")
    label: Literal["normal", "anomalous"] = Field(description="what the inspector found")
    by: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=128),
        AfterValidator(_without_controls),
    ] = Field(description="who says so")
    note: Lines = Field("", max_length=2_000, description="why")

    @model_validator(mode="after")
    def _names_one_image(self) -> FeedbackRequest:
        if (self.image_id is None) == (self.trace_id is None):
            raise ValueError("give image_id or trace_id, one of them")
        return self


class FeedbackAnswer(Answered):
    """The label as it is on record."""

    feedback: int = Field(description="number of the label")
    class_name: str
    image_id: Sha256
    label: Literal["normal", "anomalous"]


class ReviewQuery(BaseModel):
    """Which parts are asked for."""

    model_config = ConfigDict(extra="forbid")

    class_name: Line | None = Field(None, max_length=64, description="of this product class alone")
    limit: int = Field(100, ge=1, le=1_000, description="at most so many parts")


class WaitingPartAnswer(Answered):
    """A part that waits for a label."""

    class_name: str
    image_id: Sha256
    trace_id: str
    received_at: Time
    reasons: list[ReviewReason]
    image_path: str = Field(description="on the gateway's machine; empty where the image is not at hand")


class ReviewAnswer(Answered):
    """Parts that wait for a label, the oldest first."""

    parts: list[WaitingPartAnswer]


# --- POST /v1/classes/{class_name}/images ---------------------------------------------------------------------------


class IntakeAnswer(Answered):
    """What the inbox of a class holds now."""

    class_name: str
    new: bool = Field(description="false where the same image was there already")
    num_normal: int = Field(ge=0)
    num_defects: int = Field(ge=0)
    phase: EnrolmentPhase = Field(description="how the class can be judged with so many images")
    missing: int = Field(ge=0, description="normal images until the next phase")


# --- how things stand -----------------------------------------------------------------------------------------------


class RolloutAnswer(Answered):
    """The rollout that this process has in force."""

    revision: int = Field(ge=0, description="number of the last event")
    classes: list[ClassState]
    unplanned: dict[str, Side] = Field(description="class outside the rollout → which of its models answers")


class Liveness(Answered):
    """This process runs."""

    alive: Literal[True]
    worker: int = Field(description="process id")


class Readiness(Answered):
    """Whether this process can answer, and why not."""

    ready: bool
    reasons: list[str]
    revision: int = Field(ge=0, description="number of the last event of the rollout in force")
    lost_pairs: int = Field(ge=0, description="since this process began")
    worker: int = Field(description="process id")


class Refused(Answered):
    """Why there is no answer, in one line for people."""

    error: str


# --- for /openapi.json ----------------------------------------------------------------------------------------------

_WHY = {
    400: "The body is no multipart form.",
    401: "X-API-Key is missing or wrong.",
    403: "No key is configured, so that only the gateway's own machine is served.",
    404: "No such class or image is known here.",
    408: "The upload took longer than gateway.upload_timeout_ms.",
    413: "The body, or the image in it, is too large.",
    415: "The body is not multipart/form-data.",
    422: "The image cannot be trusted, or a field means nothing.",
    500: "Unexpected; the log of the gateway says more.",
    503: "The gateway or its database is busy or away; try again after the seconds of Retry-After.",
    507: "The inbox holds gateway.max_inbox_images images of the class.",
}
_ALWAYS = (401, 403, 500, 503)  # behind the key
UPLOAD = (400, 408, 413, 415, 422)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI takes as `responses`: these statuses, and those that any endpoint behind the key may give."""
    return {
        status: {"model": Refused, "description": f"{HTTPStatus(status).phrase}. {_WHY[status]}"}
        for status in sorted({*_ALWAYS, *statuses})
    }


def multipart(form: type[BaseModel], headers: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    """What FastAPI takes as `openapi_extra`, for an upload that is read by `uploads.read_upload`."""
    schema = form.model_json_schema()
    image = {"type": "string", "format": "binary", "description": f"one image file: {', '.join(FORMATS)}"}
    schema["properties"] = {"image": image, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", ())]
    body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"requestBody": body, "parameters": list(headers)}


TRACE_ID = {
    "name": "X-Trace-Id",
    "in": "header",
    "required": False,
    "description": "the caller's own name for this inspection; made up where it is missing",
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9._:-]{1,64}$"},
}
