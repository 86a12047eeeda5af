"""The record of a decision, drawn up: what was due, what comes out the same, and a page that says it safely."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image

from shadowline.audit.decision import DecisionEvidence, build_record, compare, decision_of
from shadowline.audit.inspection import (
    CalibrationFacts,
    DecisionOutcome,
    InspectionRecord,
    ModelFacts,
    Rerun,
    canonical,
    digest,
)
from shadowline.records.audit_log.entry import Entry, EntryKind
from shadowline.records.pair import ModelDecision, Pair
from shadowline.records.traces import LabelEvent, StoredPair
from shadowline.report.decision import Picture, build_page
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState, Event

AT = datetime(2026, 2, 3, 10, tzinfo=UTC)
IDENTICAL = Rerun(DecisionOutcome.IDENTICAL, "the same score, bit for bit", 5.0, 3.0, 0.0, 5e-5, "here")
HOSTILE = '"><script>alert(1)</script><img src=http://127.0.0.1/x onerror=alert(2)>'


def pair_of(**changes: Any) -> Pair:
    pair = Pair(
        class_name="bolt",
        image_id="ab" * 32,
        captured_at=AT,
        received_at=AT,
        candidate="new",
        legacy="old",
        answered_by="candidate",
        candidate_said=ModelDecision(5.0, 3.0, 40.0),
        legacy_said=ModelDecision(10.0, 30.0, 25.0),
        trace_id="line-7.42",
    )
    return replace(pair, **changes)


def stored(pair: Pair) -> StoredPair:
    candidate, legacy = pair.candidate_said, pair.legacy_said
    return StoredPair(pair, pair.key, {"candidate": candidate and candidate.alarm, "legacy": legacy and legacy.alarm})


def event_of(revision: int, at: datetime, phase: Phase, share: float, **changes: Any) -> Event:
    state = ClassState("bolt", 1, phase, at, "old", "new", share)
    return Event(revision, at, "engine", None, replace(state, **changes))


def entry_of(number: int, kind: EntryKind, subject: str, body: str = "{}") -> Entry:
    return Entry(number, "2026-01-01T00:00:00.000000+00:00", "Ada", str(kind), subject, body, "", "key-1", "h", "s")


LIVE = event_of(4, AT - timedelta(days=1), Phase.LIVE, 1.0)
EARLIER = event_of(3, AT - timedelta(days=9), Phase.SHADOW, 0.0)


def case_of(pair: Pair | None = None, **changes: Any) -> DecisionEvidence:
    case = DecisionEvidence(
        stored=stored(pair or pair_of()),
        number="",
        position=0.25,
        words=(),
        model=ModelFacts("inspector", "2", ("1", "2"), "registry", "", "commit", "params", "enc", "bank", "dec"),
        calibration=CalibrationFacts(3.0, "split-conformal threshold", 0.05, 44, "1", "2026-01-01T00:00:00+00:00"),
        events=(EARLIER, LIVE),
        entries=(),
    )
    return replace(case, **changes)


def drawn(case: DecisionEvidence | None = None, rerun: Rerun = IDENTICAL) -> InspectionRecord:
    return build_record(case or case_of(), rerun, AT)


def only_problem(case: DecisionEvidence) -> str:
    record = drawn(case)
    (problem,) = record.calibration.problems
    assert not record.confirmed
    return problem


# --- what was due ----------------------------------------------------------------------------------------------------


def test_a_decision_by_the_model_in_force_under_its_own_threshold_is_confirmed() -> None:
    record = drawn()
    assert record.confirmed and record.calibration.valid
    assert record.rollout is not None
    assert (record.rollout.revision, record.rollout.phase) == (4, "live")


def test_a_model_that_was_not_in_force_is_named() -> None:
    assert "candidate model in force was other" in only_problem(
        case_of(events=(event_of(1, AT - timedelta(days=1), Phase.LIVE, 1.0, candidate="other"),))
    )


def test_an_answer_that_was_not_due_in_the_phase_is_named() -> None:
    assert "phase shadow" in only_problem(case_of(events=(EARLIER,)))
    legacy = pair_of(answered_by="legacy")
    own = CalibrationFacts(30.0, "its own", None, None, "1", "")
    assert "legacy model answered in phase live" in only_problem(case_of(legacy, calibration=own))


def test_the_legacy_model_may_answer_for_a_candidate_that_failed() -> None:
    pair = pair_of(answered_by="legacy", candidate_said=ModelDecision(error="timeout: 300 ms"))
    record = drawn(case_of(pair, calibration=CalibrationFacts(30.0, "its own", None, None, "1", "")))
    assert record.calibration.valid
    assert "in the place of the multi-class model, which gave no answer: timeout" in record.rule[0]


@pytest.mark.parametrize(("phase", "valid"), [(Phase.LEGACY, True), (Phase.ROLLED_BACK, True), (Phase.SHADOW, False)])
def test_the_legacy_model_may_judge_alone_where_no_candidate_is_at_work(phase: Phase, valid: bool) -> None:
    alone = pair_of(candidate="", candidate_said=None, answered_by="legacy")
    own = CalibrationFacts(30.0, "its own", None, None, "1", "")
    record = drawn(case_of(alone, calibration=own, events=(event_of(3, AT - timedelta(days=9), phase, 0.0),)))
    assert record.calibration.valid is valid
    assert record.other is None
    if not valid:
        assert record.calibration.problems == (
            "the candidate was not asked in phase shadow, in which it judges every part",
        )


@pytest.mark.parametrize("changes", [{"candidate": ""}, {"candidate_said": None}])
def test_a_pair_names_its_candidate_where_and_only_where_that_was_asked(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="names its candidate where it was asked, and only there"):
        pair_of(**changes)


@pytest.mark.parametrize(("seconds", "valid"), [(30, True), (-30, True), (300, False)])
def test_clocks_may_differ_by_a_minute_and_no_more(seconds: int, valid: bool) -> None:
    taken_back = event_of(5, AT - timedelta(seconds=seconds), Phase.ROLLED_BACK, 0.0)
    assert drawn(case_of(events=(EARLIER, LIVE, taken_back))).calibration.valid is valid


@pytest.mark.parametrize(("seconds", "valid"), [(30, True), (300, False)])
def test_a_camera_may_be_behind_the_rollout_by_a_minute(seconds: int, valid: bool) -> None:
    live = event_of(4, AT + timedelta(seconds=seconds), Phase.LIVE, 1.0)
    assert drawn(case_of(events=(EARLIER, live))).calibration.valid is valid


def test_a_part_from_before_the_rollout_has_no_rule_in_force() -> None:
    assert "was in no rollout" in only_problem(case_of(events=()))


def test_a_pair_whose_image_time_or_models_were_changed_is_named() -> None:
    whole = stored(pair_of())
    for change in ({"image_id": "cd" * 32}, {"captured_at": AT + timedelta(seconds=1)}):
        assert "key does not fit" in only_problem(case_of(stored=replace(whole, pair=pair_of(**change))))


def test_a_decision_that_does_not_follow_from_its_score_is_named() -> None:
    flipped = replace(stored(pair_of()), alarms={"candidate": False, "legacy": False})
    assert "does not follow" in only_problem(case_of(stored=flipped))


def test_a_threshold_that_is_not_the_models_is_named() -> None:
    other = replace(case_of().calibration, threshold=3.5)
    assert only_problem(case_of(calibration=other)) == "the threshold on record is 3.0, the model's own is 3.5"


def test_a_part_that_no_model_judged_has_no_record() -> None:
    failed = pair_of(candidate_said=ModelDecision(error="RuntimeError: out of memory"), legacy_said=None)
    with pytest.raises(ValueError, match="no model answered"):
        drawn(case_of(failed))


@pytest.mark.parametrize(("position", "word"), [(0.25, "within"), (0.75, "outside")])
def test_in_a_canary_the_rule_says_where_the_image_lies(position: float, word: str) -> None:
    canary = event_of(4, AT - timedelta(days=1), Phase.CANARY, 0.5)
    record = drawn(case_of(events=(EARLIER, canary), position=position))
    assert f"first 50 % of the images, and this one, at {100 * position:.1f} %, is {word}" in record.rule[0]
    assert "44 normal images" in record.rule[1] and "at most 5 %" in record.rule[1]


# --- again -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "outcome"),
    [
        (0.0, DecisionOutcome.IDENTICAL),
        (4e-5, DecisionOutcome.ROUNDING),
        (-4e-5, DecisionOutcome.ROUNDING),
        (6e-5, DecisionOutcome.DIFFERENT),
    ],
)
def test_rounding_is_told_from_identity_and_from_another_score(difference: float, outcome: DecisionOutcome) -> None:
    said = decision_of(stored(pair_of()), "candidate")
    found = compare(said, 5.0 + difference, 3.0, "here", None)
    assert found.outcome is outcome
    assert found.difference == pytest.approx(difference)
    assert found.rounding == pytest.approx(5e-5)
    assert drawn(rerun=found).confirmed is (outcome is not DecisionOutcome.DIFFERENT)


def test_rounding_that_flips_the_decision_is_another_decision() -> None:
    said = decision_of(stored(pair_of(candidate_said=ModelDecision(3.00001, 3.0))), "candidate")
    assert compare(said, 2.99999, 3.0, "here", None).outcome is DecisionOutcome.DIFFERENT


def test_another_threshold_is_another_decision_even_with_the_same_score() -> None:
    said = decision_of(stored(pair_of()), "candidate")
    found = compare(said, 5.0, 2.5, "here", None)
    assert found.outcome is DecisionOutcome.DIFFERENT and "2.5" in found.reason and "3.0" in found.reason


def test_a_decision_that_cannot_be_shown_again_is_not_confirmed() -> None:
    assert not drawn(rerun=Rerun(DecisionOutcome.IMPOSSIBLE, "the model is gone")).confirmed


# --- the record ------------------------------------------------------------------------------------------------------


def test_the_record_cites_the_version_and_exactly_the_event_in_force() -> None:
    entries = (
        entry_of(2, EntryKind.REGISTRATION, "models:/inspector/1"),
        entry_of(3, EntryKind.REGISTRATION, "models:/inspector/2"),
        entry_of(4, EntryKind.PHASE, "bolt", '{"revision":3}'),
        entry_of(5, EntryKind.PHASE, "bolt", '{"revision":4}'),
        entry_of(6, EntryKind.PHASE, "bolt", '{"revision":9}'),
    )
    record = drawn(case_of(entries=entries))
    assert record.registration is not None and record.phase is not None
    assert (record.registration.number, record.phase.number) == (3, 5)
    assert (drawn().registration, drawn().phase) == (None, None)


def test_the_word_that_counts_is_the_one_that_nobody_superseded() -> None:
    first = LabelEvent("normal", "Ada", AT, "", superseded=True)
    second = LabelEvent("anomalous", "Grace", AT, "a scratch", superseded=False)
    feedback = drawn(case_of(words=(first, second))).feedback
    assert feedback is not None
    assert (feedback.label, feedback.by, feedback.num_superseded) == ("anomalous", "Grace", 1)


@pytest.mark.parametrize(
    ("given", "trace_id", "number"),
    [("", "line-7.42", "line-7.42"), ("PV-1", "line-7.42", "PV-1"), ("", "a" * 32, ""), ("", "0" * 64, "")],
)
def test_a_callers_trace_id_is_the_part_number_and_a_made_up_one_is_not(given: str, trace_id: str, number: str) -> None:
    assert drawn(case_of(pair_of(trace_id=trace_id), number=given)).part.number == number


def test_the_digest_is_of_the_whole_record_and_survives_the_way_through_json() -> None:
    record = drawn().to_dict()
    assert canonical(record) == canonical(drawn().to_dict())
    assert len({digest(record), digest(drawn(case_of(position=0.26)).to_dict())}) == 2
    changed = {**record, "decision": {**record["decision"], "score": 5.000000000000001}}
    assert digest(changed) != digest(record)


# --- the page --------------------------------------------------------------------------------------------------------


def page_of(record: InspectionRecord) -> str:
    picture = Image.new("RGB", (40, 30), "grey")
    return build_page(record, entry_of(7, EntryKind.DECISION, "t"), "ed" * 32, Picture(picture, picture, "hot"))


def test_names_from_outside_do_nothing_in_the_page() -> None:
    word = LabelEvent("normal", HOSTILE, AT, HOSTILE, superseded=False)
    model = replace(case_of().model, name=HOSTILE, git_commit=HOSTILE)
    case = case_of(pair_of(class_name=HOSTILE, trace_id=HOSTILE), number=HOSTILE, words=(word,), model=model)
    page = page_of(drawn(case, Rerun(DecisionOutcome.IMPOSSIBLE, HOSTILE)))
    assert "<script" not in page and "<img src=http" not in page
    assert page.count("&lt;script&gt;") >= 7
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "default-src 'none'" in page


def test_the_page_says_all_that_the_record_says() -> None:
    record = drawn(case_of(words=(LabelEvent("anomalous", "Grace", AT, "a scratch", superseded=False),)))
    page = page_of(record)
    for value in (
        "line-7.42", "bolt", "ab" * 32, "5.0", "3.0", "stopped", "passed", "30.0", "commit", "params", "enc", "bank",
        "dec", "version 2", "split-conformal threshold", "44 normal images", "Grace", "a scratch", "bit for bit",
        "revision 4: live", digest(record.to_dict()), "ed" * 32, "entry 7", "hot", *record.rule,
    ):  # fmt: skip
        assert value in page.replace("&#39;", "'"), value
    assert page.count("data:image/jpeg") == 2


def test_a_record_that_does_not_hold_says_so_first() -> None:
    page = page_of(drawn(case_of(events=()), Rerun(DecisionOutcome.DIFFERENT, "the score is 1.0")))
    assert page.index("Not confirmed.") < page.index("was in no rollout") < page.index("the score is 1.0")
    assert page.index("the score is 1.0") < page.index('class="pictures"')
    assert "Not confirmed" not in page_of(drawn())
