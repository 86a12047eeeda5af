"""The endpoints. `create_app` is what uvicorn's workers call; see `shadowline serve`.

POST /v1/inspect    multipart: image, class_name?, captured_at?, heatmap?, known_label? → score, threshold, decision, …
                    without class_name also class_confidence; of an unknown product no score and no decision
                    known_label: normal | anomalous, of a reference part that somebody put on the line
POST /v1/feedback   an inspector's label of an image
GET  /v1/review     parts that wait for a label, the oldest first: class_name?, limit?
POST /v1/classes/{class_name}/images    an image of a product that is being enrolled
GET  /v1/rollout    the rollout that is in force here
GET  /              a first request and every route, in plain text
GET  /healthz · /readyz · /metrics
GET  /openapi.json  all of this for programs, behind the key (decision 29); `gateway/schemas.py` holds the models
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Security
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import APIKeyHeader
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.settings import Settings, prepare_environment
from shadowline.data.bit_depth import viewable
from shadowline.data.labels import Label
from shadowline.gateway.auth import INTAKE_PATH, UPLOAD_PATH, AuthMiddleware
from shadowline.gateway.enrolment_uploads import IntakeForm, take_image
from shadowline.gateway.errors import RETRY_LATER, RefusedRequestError
from shadowline.gateway.front_page import front_page
from shadowline.gateway.inspection_service import Reply, UnknownProductReply
from shadowline.gateway.lifecycle import Gateway
from shadowline.gateway.schemas import (
    TRACE_ID,
    UPLOAD,
    FeedbackAnswer,
    FeedbackRequest,
    InspectionAnswer,
    IntakeAnswer,
    Liveness,
    Readiness,
    ReviewAnswer,
    ReviewQuery,
    RolloutAnswer,
    UnknownProductAnswer,
    multipart,
    refusals,
)
from shadowline.gateway.shadow_worker import UploadedImage
from shadowline.gateway.single_values import RouteOfSingleValues
from shadowline.gateway.uploads import InspectForm, explain, read_sample, read_upload
from shadowline.inference.overlay import heatmap_overlay
from shadowline.inference.scoring import Heatmap
from shadowline.records.kept_images import waiting_to_dict

log = logging.getLogger(__name__)

# the AuthMiddleware compares the key; here it is named for /openapi.json alone
router = APIRouter(
    route_class=RouteOfSingleValues,
    dependencies=[Security(APIKeyHeader(name="X-API-Key", scheme_name="key", auto_error=False))],
)
probes = APIRouter(tags=["probes"])


def create_app() -> FastAPI:
    """The application of the project in the working directory."""
    prepare_environment()
    layout = Layout()
    return build_app(Gateway(Settings(), load_params(layout.params), layout))


def build_app(gateway: Gateway) -> FastAPI:
    """The application, which starts the gateway when it starts, and closes it when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(gateway.start)
        yield
        await run_in_threadpool(gateway.close)

    app = FastAPI(
        title="Shadowline gateway",
        version=version("shadowline"),
        lifespan=lifespan,
        docs_url=None,  # both pages load scripts from another site
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.gateway = gateway
    app.include_router(router)
    app.include_router(probes)
    app.add_middleware(
        AuthMiddleware, keys=gateway.keys, params=gateway.params, traffic=gateway.traffic, metrics=gateway.metrics
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
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayHere = Annotated[Gateway, Depends(_gateway)]

# --- inspection -----------------------------------------------------------------------------------------------------


@router.post(
    UPLOAD_PATH,
    tags=["inspection"],
    summary="Judge an image",
    response_model_exclude_unset=True,
    responses=refusals(404, *UPLOAD),
    openapi_extra=multipart(InspectForm, [TRACE_ID]),
)
async def inspect(request: Request, gateway: GatewayHere) -> InspectionAnswer | UnknownProductAnswer:
    """The model that the rollout names for the class answers. Without a class, its class is found first; an image that
    no class accepts gets no score and no decision."""
    sample = await read_sample(request, gateway.params, gateway.clock)
    reply = await gateway.answerer.inspect(sample)
    if isinstance(reply, UnknownProductReply):
        return _describe_unknown(reply, sample)
    heat = reply.answer.heat
    picture = await run_in_threadpool(_draw, sample, heat) if heat is not None else None
    return _describe(reply, sample, picture)


def _describe(reply: Reply, sample: UploadedImage, picture: str | None) -> InspectionAnswer:
    drawn = {} if picture is None else {"heatmap": picture}
    return InspectionAnswer(
        score=reply.answer.score,
        threshold=reply.answer.threshold,
        decision=reply.decision,  # type: ignore[arg-type]  # never Label.UNKNOWN
        stop=reply.decision is not Label.NORMAL,
        class_name=reply.answer.class_name,
        class_confidence=reply.identified.confidence if reply.identified else None,
        model_fingerprint=reply.place.fingerprint,
        model_version=reply.place.version,
        answered_by=reply.answered_by,
        review=reply.review,
        image_id=sample.image_id,
        trace_id=sample.trace_id,
        latency_ms=reply.latency_ms,
        **drawn,
    )


def _describe_unknown(reply: UnknownProductReply, sample: UploadedImage) -> UnknownProductAnswer:
    return UnknownProductAnswer(
        score=None,
        threshold=None,
        decision=None,
        stop=True,
        class_name=None,
        class_confidence=reply.identified.confidence,
        nearest_class=reply.identified.nearest_class,
        model_version=reply.place.version,
        review=False,  # nobody judged it: there is no pair
        image_id=sample.image_id,
        trace_id=sample.trace_id,
        latency_ms=reply.latency_ms,
    )


def _draw(sample: UploadedImage, heat: Heatmap) -> str:
    """A PNG of the image's size, base64."""
    buffer = BytesIO()
    heatmap_overlay(viewable(sample.image), heat.map_HW, heat.level, coverage=heat.coverage).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


# --- feedback -------------------------------------------------------------------------------------------------------


@router.post(
    "/v1/feedback",
    tags=["inspection"],
    summary="Put an inspector's label on record",
    responses=refusals(404, 408, 413, 422),
)
def feedback(word: FeedbackRequest, gateway: GatewayHere) -> FeedbackAnswer:
    """It replaces earlier labels of the same image, which stay on record. An image can be labelled seconds after its
    inspection."""
    pairs = gateway.records.pairs
    try:
        image_id = word.image_id or pairs.image_of(word.class_name, word.trace_id or "")
        number = pairs.label(word.class_name, image_id, Label(word.label), word.by, datetime.now(UTC), word.note)
    except ValueError as error:
        raise RefusedRequestError(404, f"{error}; an image can be labelled seconds after its inspection") from None
    return FeedbackAnswer(feedback=number, class_name=word.class_name, image_id=image_id, label=word.label)


@router.get("/v1/review", tags=["inspection"], summary="List the parts that wait for a label", responses=refusals(422))
def review(
    gateway: GatewayHere,
    query: Annotated[ReviewQuery, Query()],
) -> ReviewAnswer:
    """Of one class or of all, the oldest first: disagreements, alarms, and parts that chance has drawn."""
    parts = gateway.records.pairs.waiting_for_review(query.class_name, query.limit)
    return ReviewAnswer.model_validate({"parts": [waiting_to_dict(part, gateway.layout) for part in parts]})


# --- enrolment ------------------------------------------------------------------------------------------------------


@router.post(
    INTAKE_PATH + "{class_name}/images",
    status_code=202,
    tags=["enrolment"],
    summary="Take an image of a product that is being enrolled",
    responses=refusals(507, *UPLOAD),
    openapi_extra=multipart(IntakeForm),
)
async def upload_enrolment_image(
    class_name: Annotated[str, PathParameter(description="the new product")], request: Request, gateway: GatewayHere
) -> IntakeAnswer:
    """It waits in the inbox for the next enrolment; the same image again changes nothing."""
    upload = await read_upload(request, IntakeForm)
    return await run_in_threadpool(take_image, class_name, upload, gateway.params, gateway.layout)


# --- how things stand -----------------------------------------------------------------------------------------------


@router.get(
    "/v1/rollout",
    tags=["rollout"],
    summary="Show the rollout that is in force in this process",
    response_model=RolloutAnswer,
    responses=refusals(),
)
def rollout(gateway: GatewayHere) -> JSONResponse:
    """Where every class stands, with which two models, since when; and who answers for classes outside the rollout."""
    state = gateway.table.state
    classes = [state_of_class.to_dict() for state_of_class in state.classes]
    return JSONResponse({"revision": state.revision, "classes": classes, "unplanned": gateway.table.unplanned})


@probes.get("/", summary="Show a first request and every route", response_class=PlainTextResponse)
def front(request: Request, gateway: GatewayHere) -> PlainTextResponse:
    """For people with a browser; it needs no key, and says nothing of models or classes."""
    page = front_page(request.app.openapi(), str(request.base_url), with_key=bool(gateway.keys))
    return PlainTextResponse(page, headers={"X-Content-Type-Options": "nosniff"})


@probes.get("/healthz", summary="Say that this process runs")
def healthz() -> Liveness:
    """It needs no key, and says nothing of models or the database."""
    return Liveness(alive=True, worker=os.getpid())


@probes.get(
    "/readyz",
    summary="Say whether this process can answer",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready, for the reasons given."}},
)
def readyz(gateway: GatewayHere) -> JSONResponse:
    """It needs no key."""
    problems = gateway.problems
    body = Readiness(
        ready=not problems,
        reasons=list(problems),
        revision=gateway.table.state.revision,
        lost_pairs=gateway.writer.num_lost,
        worker=os.getpid(),
    )
    return JSONResponse(body.model_dump(), 503 if problems else 200)


@probes.get("/metrics", summary="Give the numbers for Prometheus", response_class=PlainTextResponse)
def metrics(gateway: GatewayHere) -> Response:
    """In Prometheus's text format, of all workers together; it needs no key."""
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
