"""A whole migration in a real database: the engine's own events, and pairs that fit them.

python tests/migration_fixture.py /tmp/look   # tells it and builds /tmp/look/data/report/report.html

Wave 1 is bolt and nut. A drift guard takes nut back in its canary; it comes back with a new candidate. Then gear.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "unit"))

from test_rollout_engine import Factory, trips

from shadowline.core.params import Params
from shadowline.data.manifest import Label
from shadowline.records.pairs import Judgement, Pair
from shadowline.records.stores import Records, open_records
from shadowline.rollout.observation import Order, OrderKind
from shadowline.rollout.phases import CANDIDATE_JUDGES, Phase
from shadowline.rollout.state import ClassState

PAIRS_A_DAY = 12


class Teller:
    """Ticks once a day, writes what the engine decides, and what both models said that day."""

    def __init__(self, records: Records, params: Params, seed: int = 3) -> None:
        self.records, self.rng = records, np.random.default_rng(seed)
        self.factory = Factory(params)
        self.agreement = {"bolt": 0.985, "nut": 0.97, "gear": 0.98}  # share of a day's pairs
        self.pairs: list[Pair] = []
        records.rollout.begin(self.factory.events)

    def day(self, *orders: Order, **changes: dict[str, object]) -> None:
        for one in self.factory.state.classes:
            if one.standing in CANDIDATE_JUDGES:
                self.pairs += self._pairs(one)
        self.factory.tick(1.0, orders, **changes)
        assert self.factory.last is not None
        self.records.rollout.commit(self.factory.last)

    def until(self, class_name: str, phase: Phase) -> None:
        for _ in range(400):
            if self.factory.state.of(class_name).phase is phase:
                return
            self.day()
        raise AssertionError(f"{class_name} never reached {phase}")

    def _pairs(self, one: ClassState) -> Iterator[Pair]:
        for number in range(PAIRS_A_DAY):
            alarm = bool(self.rng.random() < 0.04)
            agrees = bool(self.rng.random() < self.agreement[one.class_name])
            at = self.factory.now + timedelta(hours=float(self.rng.uniform(0.1, 23.9)))
            yield pair_of(one, f"{one.class_name}-{self.factory.now:%j}-{number}", at, alarm == agrees, alarm)


def pair_of(one: ClassState, image_id: str, at: datetime, candidate: bool, legacy: bool) -> Pair:
    """Thresholds are 2 and 3; an alarm lies one above, a pass one below."""
    off = one.standing in {Phase.LEGACY_OFF, Phase.LEGACY_DELETED}
    return Pair(
        class_name=one.class_name,
        image_id=image_id,
        captured_at=at,
        received_at=at,
        candidate=one.candidate,
        legacy=one.legacy,
        answered_by="candidate" if one.share else "legacy",
        candidate_said=Judgement(3.0 if candidate else 1.0, 2.0, 30.0),
        legacy_said=None if off else Judgement(4.0 if legacy else 2.0, 3.0, 40.0),
    )


def tell(records: Records, params: Params) -> None:
    """About 190 days, to the deletion of the last legacy model."""
    teller = Teller(records, params)
    teller.day()
    teller.until("bolt", Phase.CANARY)
    teller.day()
    teller.agreement["nut"] = 0.7
    teller.day()
    teller.day(nut=trips("drift"))
    teller.agreement["nut"] = 0.99
    for _ in range(4):
        teller.day()
    teller.factory.challenger = {**teller.factory.challenger, "nut": "v2-nut"}
    teller.until("nut", Phase.CANARY)
    teller.day(bolt=trips("latency"))
    teller.until("gear", Phase.LIVE)
    teller.day(Order(OrderKind.HOLD, ("gear",), "Ada", "line is being rebuilt"))
    for _ in range(6):
        teller.day()
    teller.day(Order(OrderKind.RESUME, ("gear",), "Ada", "line runs again"))
    teller.until("gear", Phase.LEGACY_DELETED)
    records.pairs.record(teller.pairs)
    _label_some(records, teller)


def _label_some(records: Records, teller: Teller) -> None:
    """An inspector proves the candidate right where it alone raised an alarm on every third part."""
    alone = [p for p in teller.pairs if p.candidate_said.alarm and p.legacy_said and not p.legacy_said.alarm]
    for pair in alone[::3]:
        records.pairs.label(pair.class_name, pair.image_id, Label.ANOMALOUS, "Ada", pair.captured_at)


def main() -> None:
    from report_fixture import write_inputs

    from shadowline.core.params import load_params
    from shadowline.records.timeline import collect_timeline, write_timeline
    from shadowline.report import build_report

    params = load_params(Path(__file__).parents[1] / "params.yaml")
    layout = write_inputs(Path(sys.argv[1]))
    records = open_records(f"sqlite:///{layout.root / 'records.db'}")
    if not records.rollout.revision():
        tell(records, params)
    write_timeline(collect_timeline(records, params), layout.timeline)
    print(build_report(layout, params))


if __name__ == "__main__":
    main()
