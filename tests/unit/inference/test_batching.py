"""Scoring behind the gateway: batches, models that fail or hang, and what of it reaches whom."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence

import pytest
from PIL import Image

from shadowline.inference.batching import Batcher, ask, ask_and_wait
from shadowline.inference.scoring import (
    InspectionRequest,
    InspectionResult,
    ScoringError,
    ScoringTimeoutError,
    describe,
    score_all,
)

PIXEL = Image.new("RGB", (1, 1))


class Model:
    """Scores a question by its class name, which is a number here; `before` runs first."""

    def __init__(self, before: Callable[[Sequence[InspectionRequest]], object] = lambda _: None) -> None:
        self.before, self.batches = before, []

    def answer(self, questions: Sequence[InspectionRequest]) -> list[InspectionResult]:
        self.batches.append([request.class_name for request in questions])
        self.before(questions)
        return [InspectionResult(float(request.class_name), 0.5, request.class_name) for request in questions]


def question(number: object) -> InspectionRequest:
    return InspectionRequest(PIXEL, str(number))


def batcher(model: Model, **changes: object) -> Batcher:
    options = {"batch_size": 4, "window_ms": 0.0, **changes}
    return Batcher(model, **options)  # type: ignore[arg-type]


def test_what_waits_is_scored_in_bounded_batches_in_order():
    gate = threading.Event()
    model = Model(lambda _: gate.wait(30))
    batches = batcher(model)
    futures = [batches.submit(question(0), 60_000)]
    while not model.batches:
        pass
    futures += [batches.submit(question(number), 60_000) for number in range(1, 8)]
    gate.set()
    assert [future.result(30).score for future in futures] == list(range(8))
    assert [len(batch) for batch in model.batches] == [1, 4, 3]


def test_the_window_waits_for_company():
    model = Model()
    batches = batcher(model, batch_size=2, window_ms=30_000)
    futures = [batches.submit(question(number), 60_000) for number in range(2)]
    assert [future.result(30).score for future in futures] == [0, 1]
    assert model.batches == [["0", "1"]]


def test_a_question_that_fails_takes_no_other_along():
    def refuse_two(questions: Sequence[InspectionRequest]) -> None:
        if "2" in [request.class_name for request in questions]:
            raise KeyError("two")

    found = score_all(Model(refuse_two), [question(number) for number in range(4)])
    assert [isinstance(outcome, ScoringError) for outcome in found] == [False, False, True, False]
    assert str(found[2]) == "KeyError: 'two'"


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_a_score_that_is_no_number_never_passes_as_normal(score):
    (found,) = score_all(Model(), [question(score)])
    assert isinstance(found, ScoringError)


def test_a_model_that_answers_too_few_fails_as_a_whole():
    class Short(Model):
        def answer(self, questions):
            return [a for a, _ in zip(super().answer(questions)[:-1], questions, strict=True)]

    found = score_all(Short(), [question(0), question(1)])
    assert all(isinstance(outcome, ScoringError) for outcome in found)


def test_while_one_batch_hangs_all_are_told_at_once_and_service_resumes():
    gate = threading.Event()
    batches = batcher(Model(lambda _: gate.wait(30)))

    async def story() -> None:
        with pytest.raises(ScoringTimeoutError, match="one batch took longer than 20 ms"):
            await ask(batches, question(0), 60_000, patience_ms=20)
        with pytest.raises(ScoringTimeoutError, match="one batch took longer than 20 ms"):
            batches.submit(question(1), patience_ms=20)
        patient = batches.submit(question(3), patience_ms=60_000)  # nobody else could answer it
        gate.set()
        assert (await asyncio.wrap_future(patient)).score == 3

    asyncio.run(story())
    while batches.hangs(20):
        pass
    assert ask_and_wait(batches, question(2), 30_000).score == 2


def test_waiting_in_the_queue_of_a_model_that_works_is_no_failure_of_the_model():
    gate, began = threading.Event(), threading.Event()
    batches = batcher(Model(lambda _: (began.set(), gate.wait(30))), batch_size=1)

    async def story() -> float:
        first = asyncio.create_task(ask(batches, question(0), 60_000, 60_000))
        second = asyncio.create_task(ask(batches, question(1), 60_000, 60_000))
        await asyncio.sleep(0.3)  # several looks long
        assert not second.done()
        gate.set()
        await first
        return (await second).score

    assert asyncio.run(story()) == 1


def test_who_gave_up_is_not_scored():
    gate = threading.Event()
    model = Model(lambda _: gate.wait(30))
    batches = batcher(model)
    first = batches.submit(question(0), 60_000)
    while not model.batches:
        pass
    with pytest.raises(ScoringTimeoutError, match="no answer within 10 ms"):
        ask_and_wait(batches, question(1), 10)
    gate.set()
    assert first.result(30).score == 0
    assert ask_and_wait(batches, question(2), 30_000).score == 2
    assert model.batches == [["0"], ["2"]]


def test_a_model_put_away_finishes_and_then_refuses():
    gate = threading.Event()
    batches = batcher(Model(lambda _: gate.wait(30)))
    waiting = batches.submit(question(7), 60_000)
    batches.close()
    gate.set()
    assert waiting.result(30).score == 7
    with pytest.raises(ScoringError, match="put away"):
        batches.submit(question(8), 60_000)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_work_in_the_background_leaves_the_processor_to_callers():
    seen: list[int] = []

    def look(_: object) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    for background in (False, True):
        ask_and_wait(batcher(Model(look), background=background), question(0), 30_000)
    assert seen == [os.getpriority(os.PRIO_PROCESS, 0), 19]


def test_a_models_own_words_are_bounded_and_fit_every_database():
    assert describe(ValueError("a\x00b\n c")) == "ValueError: ab c"
    assert len(describe(ValueError("x" * 10_000))) == 300
