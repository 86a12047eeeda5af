"""Work in the shadow: the model that did not answer judges the same image after the caller has the answer.

The queue is bounded in images and in bytes. What does not fit is dropped, counted and recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from shadowline.core.params import GatewayParams
from shadowline.data.bit_depth import DecodedImage, num_bytes_of
from shadowline.data.labels import Label
from shadowline.gateway.load_limit import LoadLimiter
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.pair_writer import PairWriter
from shadowline.inference.batching import ask_and_wait
from shadowline.inference.routing import Route
from shadowline.inference.scoring import InspectionRequest, InspectionResult, ScoringError
from shadowline.records.pair import DROPPED, ModelDecision, Pair, PairSource, Side, is_drawn_for_review


@dataclass(frozen=True, eq=False)
class UploadedImage:
    """One image, as a caller sent it."""

    image: DecodedImage
    data: bytes  # the file, as it came
    image_id: str  # sha256 of it
    received_at: datetime  # UTC, by the server's clock, when the upload was complete
    captured_at: datetime  # UTC; what the caller claims
    capture_suspect: bool
    trace_id: str
    frame_signature: bytes  # see `shadowline/data/near_duplicates.py`
    review_share: float  # probability of a draw for review
    class_name: str | None = None
    wants_heat: bool = False
    known_label: Label | None = None  # of a reference part

    def is_drawn_for(self, class_name: str) -> bool:
        """Whether the image is drawn at random for review, as an image of this class."""
        return is_drawn_for_review(class_name, self.image_id, self.review_share)

    @property
    def num_bytes(self) -> int:
        """Bytes in memory, of pixels and file."""
        return num_bytes_of(self.image) + len(self.data)


def pair_of(route: Route, sample: UploadedImage, answered_by: Side, decisions: dict[Side, ModelDecision]) -> Pair:
    state = route.state
    return Pair(
        class_name=state.class_name,
        image_id=sample.image_id,
        captured_at=sample.captured_at,
        candidate=state.candidate if "candidate" in decisions else "",
        legacy=state.legacy,
        answered_by=answered_by,
        candidate_said=decisions.get("candidate"),
        legacy_said=decisions.get("legacy"),
        trace_id=sample.trace_id,
        received_at=sample.received_at,
        capture_suspect=sample.capture_suspect,
        frame_signature=sample.frame_signature,
        review_share=sample.review_share,
        review_drawn=sample.is_drawn_for(state.class_name),
        source=PairSource.LINE if sample.known_label is None else PairSource.REFERENCE,
        known_label=sample.known_label,
    )


@dataclass(frozen=True, eq=False)
class ShadowJob:
    route: Route
    sample: UploadedImage
    answered_by: Side
    said: ModelDecision  # by the model that answered
    shadow: Side  # the model that is still to judge

    def pair(self, judgement: ModelDecision) -> Pair:
        return pair_of(self.route, self.sample, self.answered_by, {self.answered_by: self.said, self.shadow: judgement})


class ShadowQueue:
    """First in, first out; `put` never waits."""

    def __init__(self, max_jobs: int, max_bytes: float) -> None:
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
        self._jobs: deque[ShadowJob] = deque()
        self._num_bytes = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: ShadowJob) -> bool:
        """False where it does not fit."""
        with self._changed:
            if len(self._jobs) >= self._max_jobs or self._num_bytes + job.sample.num_bytes > self._max_bytes:
                return False
            self._jobs.append(job)
            self._num_bytes += job.sample.num_bytes
            self._changed.notify()
            return True

    def take(self, timeout_s: float) -> ShadowJob | None:
        with self._changed:
            if not self._jobs:
                self._changed.wait(timeout_s)
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            self._num_bytes -= job.sample.num_bytes
            return job


class ShadowWorker:
    """One thread that works through the queue and passes pairs to the writer; it prefers moments without callers.

    `keep` takes the image of a part on which the model in the shadow alone raised an alarm: an inspector will look.
    """

    def __init__(
        self,
        writer: PairWriter,
        traffic: LoadLimiter,
        keep: Callable[[UploadedImage, str], None],
        params: GatewayParams,
        metrics: Metrics,
    ) -> None:
        self._writer, self._traffic, self._params, self._metrics = writer, traffic, params, metrics
        self._keep = keep
        self._queue = ShadowQueue(params.shadow_queue, params.shadow_queue_mb * 1e6)
        self._in_hand: ShadowJob | None = None
        self._draining, self._stopped = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="shadow")

    def start(self) -> None:
        self.thread.start()

    def offer(self, job: ShadowJob) -> None:
        """Never waits; an image that does not fit is recorded as dropped."""
        if not self._queue.put(job):
            self._drop(job)
        self._metrics.shadow_queue.set(len(self._queue))

    def close(self, limit_s: float) -> None:
        """Judge what waits; what is left after `limit_s` is recorded as dropped."""
        self._draining.set()
        self.thread.join(limit_s)
        self._stopped.set()
        if (unfinished := self._in_hand) is not None:  # its model hangs
            self._drop(unfinished)
        while (job := self._queue.take(0.0)) is not None:
            self._drop(job)

    def _run(self) -> None:
        while not self._stopped.is_set():
            job = self._in_hand = self._queue.take(self._params.poll_interval_ms / 1000)
            if job is not None:
                self._traffic.wait_for_quiet(self._params.shadow_patience_ms / 1000)
                judgement = self._judge(job)
                if judgement.alarm:  # before the pair, so that who reads of it finds the image kept or waiting
                    self._keep(job.sample, job.route.state.class_name)
                self._writer.offer(job.pair(judgement))
                self._in_hand = None
                self._metrics.shadow_queue.set(len(self._queue))
            elif self._draining.is_set():
                return

    def _judge(self, job: ShadowJob) -> ModelDecision:
        name, side = job.route.state.class_name, job.shadow
        model = job.route.models.get(side)
        if model is None:
            self._metrics.errors.labels(name, side, "missing").inc()
            return ModelDecision(error=job.route.problems[side])
        started = time.perf_counter()
        try:
            answer = ask_and_wait(
                model.engine.shadow, InspectionRequest(job.sample.image, name), self._params.answer_timeout_ms
            )
        except ScoringError as error:
            self._metrics.errors.labels(name, side, error.kind).inc()
            return ModelDecision(error=str(error))
        assert isinstance(answer, InspectionResult)  # the question had a class
        seconds = time.perf_counter() - started
        self._metrics.shadow_latency.labels(name, side).observe(seconds)
        return ModelDecision(answer.score, answer.threshold, 1000 * seconds)

    def _drop(self, job: ShadowJob) -> None:
        self._metrics.dropped.labels(job.route.state.class_name, job.shadow).inc()
        self._writer.offer(job.pair(ModelDecision(error=DROPPED)))
