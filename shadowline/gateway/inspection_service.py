"""One image's way through the gateway: route, ask, fall back, hand over to the shadow and to image retention.

reply = await answerer.inspect(sample)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shadowline.core.params import GatewayParams
from shadowline.data.labels import Label
from shadowline.gateway.errors import RefusedRequestError
from shadowline.gateway.image_retention import ImageRetention
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.pair_writer import PairWriter
from shadowline.gateway.shadow_worker import ShadowJob, ShadowWorker, UploadedImage, pair_of
from shadowline.inference.batching import ask
from shadowline.inference.model_pool import PooledModel
from shadowline.inference.routing import CANDIDATE, LEGACY, Route, RoutingTable, required_models
from shadowline.inference.scoring import InspectionRequest, InspectionResult, ScoringError
from shadowline.models.class_identification import Identification
from shadowline.records.model_locations import ModelLocation
from shadowline.records.pair import ModelDecision, Side


@dataclass(frozen=True, eq=False)
class Reply:
    """The answer to the caller."""

    answer: InspectionResult
    place: ModelLocation  # of the model that answered
    answered_by: Side
    latency_ms: float  # from the whole upload to the answer
    review: bool  # chance has drawn the part for an inspector, whatever the decision
    identified: Identification | None = None  # None: the caller said which class

    @property
    def decision(self) -> Label:
        return Label.ANOMALOUS if self.answer.alarm else Label.NORMAL


@dataclass(frozen=True, eq=False)
class UnknownProductReply:
    """The answer to the caller for an image that no class accepts, and that no model judged."""

    identified: Identification
    place: ModelLocation  # of the model that identified the image
    latency_ms: float  # from the whole upload to the answer


@dataclass(frozen=True, eq=False)
class _Said:
    """One model's result for one image."""

    judgement: ModelDecision
    answer: InspectionResult | None = None  # None: it failed


class InspectionService:
    """Answers requests with the models of the routing table in force."""

    def __init__(
        self,
        table: Callable[[], RoutingTable],
        shadow: ShadowWorker,
        writer: PairWriter,
        keeper: ImageRetention,
        params: GatewayParams,
        metrics: Metrics,
    ) -> None:
        self._table, self._shadow, self._writer, self._keeper = table, shadow, writer, keeper
        self._params, self._metrics = params, metrics

    async def inspect(self, sample: UploadedImage) -> Reply | UnknownProductReply:
        """Raises RefusedRequestError: 404 unknown class, 422 class cannot be told, 503 no model answered."""
        started, table = time.perf_counter(), self._table()
        if sample.class_name:
            return await self._reply(_route(table, sample.class_name), sample, None, started)
        model = _identifier(table)
        identification = await self._identify(model, sample)
        if identification.class_name is None:
            self._metrics.unknown.labels(identification.nearest_class).inc()
            return UnknownProductReply(identification, model.place, 1000 * (time.perf_counter() - started))
        return await self._reply(_route(table, identification.class_name), sample, identification, started)

    async def _reply(
        self, route: Route, sample: UploadedImage, identified: Identification | None, started: float
    ) -> Reply:
        side, result = await self._answer(route, sample)
        if result.answer is None:
            raise RefusedRequestError(503, f"class {route.state.class_name!r}: no model answered; try again")
        seconds, name = time.perf_counter() - started, route.state.class_name
        drawn = sample.is_drawn_for(name)
        reply = Reply(result.answer, route.models[side].place, side, 1000 * seconds, drawn, identified)
        self._keeper.offer(sample, name, flagged=result.answer.alarm or drawn)
        self._metrics.latency.labels(name, side).observe(seconds)
        self._metrics.answers.labels(name, side, reply.decision).inc()
        return reply

    async def _identify(self, model: PooledModel, sample: UploadedImage) -> Identification:
        """Identify the class of the image, which costs the caller one more pass of the encoder."""
        try:
            longest_ms = self._params.answer_timeout_ms  # no other model can tell
            identification = await ask(
                model.engine.callers, InspectionRequest(sample.image, None), longest_ms, longest_ms
            )
        except ScoringError:
            raise RefusedRequestError(503, "class_name: missing, and the model that tells it failed; send it") from None
        assert isinstance(identification, Identification)  # the question had no class
        return identification

    async def _answer(self, route: Route, sample: UploadedImage) -> tuple[Side, _Said]:
        """The side that answered, and its result. Every image leaves a pair, or a job that makes one."""
        side = route.side_of(sample.image_id)
        result = await self._ask(route, side, sample)
        if side == CANDIDATE and result.answer is None and route.legacy_judges:
            rescue = await self._ask(route, LEGACY, sample)
            judgements: dict[Side, ModelDecision] = {CANDIDATE: result.judgement, LEGACY: rescue.judgement}
            self._writer.offer(pair_of(route, sample, LEGACY, judgements))
            return LEGACY, rescue
        self._hand_over(route, sample, side, result.judgement)
        return side, result

    def _hand_over(self, route: Route, sample: UploadedImage, side: Side, decision: ModelDecision) -> None:
        shadow = route.shadow_of(side)
        if shadow is not None:
            self._shadow.offer(ShadowJob(route, sample, side, decision, shadow))
        else:
            self._writer.offer(pair_of(route, sample, side, {side: decision}))

    async def _ask(self, route: Route, side: Side, sample: UploadedImage) -> _Said:
        name, model = route.state.class_name, route.models.get(side)
        if model is None:
            self._metrics.errors.labels(name, side, "missing").inc()
            return _Said(ModelDecision(error=route.problems[side]))
        started, question = time.perf_counter(), InspectionRequest(sample.image, name, sample.wants_heat)
        try:
            answer = await ask(
                model.engine.callers, question, self._params.answer_timeout_ms, self._patience_ms(route, side)
            )
        except ScoringError as error:
            self._metrics.errors.labels(name, side, error.kind).inc()
            return _Said(ModelDecision(error=str(error)))
        assert isinstance(answer, InspectionResult)  # the question had a class
        latency_ms = 1000 * (time.perf_counter() - started)
        return _Said(ModelDecision(answer.score, answer.threshold, latency_ms), answer)

    def _patience_ms(self, route: Route, side: Side) -> float:
        """How long one batch of a model may take: less where the legacy model can answer instead."""
        return self._params.candidate_timeout_ms if route.can_fall_back(side) else self._params.answer_timeout_ms


def _identifier(table: RoutingTable) -> PooledModel:
    if table.identifier is None:
        raise RefusedRequestError(422, "class_name: missing, and no model here can tell classes apart; send it")
    return table.identifier


def _route(table: RoutingTable, class_name: str) -> Route:
    route = table.routes.get(class_name)
    if route is None:
        names = ", ".join(sorted(table.routes)) or "none yet"
        raise RefusedRequestError(404, f"class {class_name!r}: no model of it is known here; known are {names}")
    if not required_models(route.state):
        raise RefusedRequestError(
            503, f"class {class_name!r}: its first model waits for `shadowline rollout approve alone {class_name}`"
        )
    return route
