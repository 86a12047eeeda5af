"""The endpoints. `create_app` is what uvicorn's workers call; see `shadowline serve`.

POST /v1/inspect    multipart: image, class_name?, captured_at?, heatmap?, known_label? → score, threshold, decision, …
                    without class_name also class_confidence; of an unknown product no score and no decision
                    known_label: normal | anomalous, of a reference part that somebody put on the line
POST /v1/feedback   an inspector's word on an image
GET  /v1/review     parts that wait for a label, the oldest first: class_name?, limit?
POST /v1/classes/{class_name}/images    an image of a product that is being enrolled
GET  /v1/rollout    the rollout that is in force here
GET  /healthz · /readyz · /metrics
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from io import BytesIO
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.settings import Settings, prepare_environment
from shadowline.data.manifest import Label
from shadowline.gateway.auth import INTAKE_PATH, UPLOAD_PATH, Gatekeeper
from shadowline.gateway.enrolment_uploads import IntakeForm, take_image
from shadowline.gateway.errors import RETRY_LATER, RefusedRequestError
from shadowline.gateway.inspection_service import Reply, UnknownReply
from shadowline.gateway.lifecycle import Gateway
from shadowline.gateway.shadow_worker import Sample
from shadowline.gateway.uploads import explain, read_sample, read_upload
from shadowline.inference.overlay import heatmap_overlay
from shadowline.inference.scoring import Heat
from shadowline.records.kept_images import waiting_to_dict

log = logging.getLogger(__name__)
router = APIRouter()


def create_app() -> FastAPI:
    """The application of the project in the working directory."""
    prepare_environment()
    layout = Layout()
    return build_app(Gateway(Settings(), load_params(layout.params), layout))


def build_app(gateway: Gateway) -> FastAPI:
    """Starts the gateway with the application, and ends it with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(gateway.start)
        yield
        await run_in_threadpool(gateway.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway = gateway
    app.include_router(router)
    app.add_middleware(
        Gatekeeper, keys=gateway.keys, params=gateway.params, traffic=gateway.traffic, metrics=gateway.metrics
    )
    for kind, handler in (
        (HTTPException, _on_refusal),
        (RequestValidationError, _on_bad_body),
        (SQLAlchemyError, _on_database_error),
        (Exception, _on_failure),
    ):
        app.add_exception_handler(kind, handler)
    return app


def _gateway(request: Request) -> Gateway:
    found: Gateway = request.app.state.gateway
    return found


GatewayHere = Annotated[Gateway, Depends(_gateway)]

# --- inspection -----------------------------------------------------------------------------------------------------


@router.post(UPLOAD_PATH)
async def inspect(request: Request, gateway: GatewayHere) -> dict[str, Any]:
    sample = await read_sample(request, gateway.params, gateway.clock)
    reply = await gateway.answerer.inspect(sample)
    if isinstance(reply, UnknownReply):
        return _describe_unknown(reply, sample)
    heat = reply.answer.heat
    picture = await run_in_threadpool(_draw, sample, heat) if heat is not None else None
    return _describe(reply, sample, picture)


def _describe(reply: Reply, sample: Sample, picture: str | None) -> dict[str, Any]:
    described = {
        "score": reply.answer.score,
        "threshold": reply.answer.threshold,
        "decision": str(reply.decision),
        "class_name": reply.answer.class_name,
        "class_confidence": reply.identified.confidence if reply.identified else None,
        "model_fingerprint": reply.place.fingerprint,
        "model_version": reply.place.version,
        "answered_by": reply.answered_by,
        "review": reply.review,
        "image_id": sample.image_id,
        "trace_id": sample.trace_id,
        "latency_ms": reply.latency_ms,
    }
    return described if picture is None else {**described, "heatmap": picture}


def _describe_unknown(reply: UnknownReply, sample: Sample) -> dict[str, Any]:
    return {
        "score": None,
        "threshold": None,
        "decision": None,
        "class_name": None,
        "class_confidence": reply.identified.confidence,
        "nearest_class": reply.identified.nearest_class,
        "model_version": reply.place.version,
        "review": False,  # nobody judged it: there is no pair
        "image_id": sample.image_id,
        "trace_id": sample.trace_id,
        "latency_ms": reply.latency_ms,
    }


def _draw(sample: Sample, heat: Heat) -> str:
    """A PNG of the image's size, base64."""
    buffer = BytesIO()
    heatmap_overlay(sample.image, heat.map_HW, heat.level, coverage=heat.coverage).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


# --- feedback -------------------------------------------------------------------------------------------------------


class Feedback(BaseModel):
    """An inspector's word; the image by its id or by the trace id of its inspection."""

    model_config = ConfigDict(extra="forbid")

    class_name: str = Field(max_length=64)
    image_id: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    trace_id: str | None = Field(None, max_length=64)
    label: Literal["normal", "anomalous"]
    by: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
    note: str = Field("", max_length=2_000)

    @model_validator(mode="after")
    def _names_one_image(self) -> Feedback:
        if (self.image_id is None) == (self.trace_id is None):
            raise ValueError("give image_id or trace_id, one of them")
        return self


@router.post("/v1/feedback")
def feedback(word: Feedback, gateway: GatewayHere) -> dict[str, Any]:
    pairs = gateway.records.pairs
    try:
        image_id = word.image_id or pairs.image_of(word.class_name, word.trace_id or "")
        number = pairs.label(word.class_name, image_id, Label(word.label), word.by, datetime.now(UTC), word.note)
    except ValueError as error:
        raise RefusedRequestError(404, f"{error}; an image can be labelled seconds after its inspection") from None
    return {"feedback": number, "class_name": word.class_name, "image_id": image_id, "label": word.label}


@router.get("/v1/review")
def review(
    gateway: GatewayHere,
    class_name: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> dict[str, Any]:
    parts = gateway.records.pairs.waiting_for_review(class_name, limit)
    return {"parts": [waiting_to_dict(part, gateway.layout) for part in parts]}


# --- enrolment ------------------------------------------------------------------------------------------------------


@router.post(INTAKE_PATH + "{class_name}/images", status_code=202)
async def take(class_name: str, request: Request, gateway: GatewayHere) -> dict[str, Any]:
    upload = await read_upload(request, IntakeForm)
    return await run_in_threadpool(take_image, class_name, upload, gateway.params)


# --- how things stand -----------------------------------------------------------------------------------------------


@router.get("/v1/rollout")
def rollout(gateway: GatewayHere) -> dict[str, Any]:
    state = gateway.table.state
    classes = [one.to_dict() for one in state.classes]
    return {"revision": state.revision, "classes": classes, "unplanned": gateway.table.unplanned}


@router.get("/healthz")
def healthz() -> dict[str, Any]:
    return {"alive": True, "worker": os.getpid()}


@router.get("/readyz")
def readyz(gateway: GatewayHere) -> JSONResponse:
    problems = gateway.problems
    body = {
        "ready": not problems,
        "reasons": list(problems),
        "revision": gateway.table.state.revision,
        "lost_pairs": gateway.writer.num_lost,
        "worker": os.getpid(),
    }
    return JSONResponse(body, 503 if problems else 200)


@router.get("/metrics")
def metrics(gateway: GatewayHere) -> Response:
    return PlainTextResponse(gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- errors, all of one shape ---------------------------------------------------------------------------------------


def _refuse(request: Request, status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    _gateway(request).metrics.refusals.labels(status).inc()
    return JSONResponse({"error": message}, status, headers)


def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _refuse(request, error.status_code, str(error.detail), error.headers)


def _on_bad_body(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _refuse(request, 422, explain(error.errors()))


def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    log.warning("database: %s", type(error).__name__)  # its text may hold what a caller sent
    return _refuse(request, 503, "the database does not answer; try again", RETRY_LATER)


def _on_failure(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected: %s", type(error).__name__, exc_info=error)
    return _refuse(request, 500, "unexpected error; the log of the gateway says more")
