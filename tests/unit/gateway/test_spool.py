"""Pairs on disk: what was acknowledged comes back exactly once, whatever the disk, the database or a kill did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fixtures.pairs import AT, pair
from shadowline.data.labels import Label
from shadowline.gateway.spool import Spool, pair_from_line, pair_to_line
from shadowline.records.pair import DROPPED, ModelDecision, Pair, PairSource


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 1_000_000)


def taken(spool: Spool) -> tuple[list[Pair], int]:
    found: list[Pair] = []
    damaged = spool.replay(lambda pairs: found.extend(pairs) or len(pairs))
    return found, damaged


@pytest.mark.parametrize(
    "one",
    [
        pair(),
        pair(legacy_said=None),
        pair(candidate="", candidate_said=None, answered_by="legacy"),
        pair(candidate_said=ModelDecision(error=DROPPED)),
        pair(candidate_said=ModelDecision(error="a\nline, “quoted”, ü"), answered_by="candidate"),
        pair(received_at=AT, capture_suspect=True, source=PairSource.REFERENCE, review_share=0.02, review_drawn=True),
        pair(frame_signature=bytes(range(256)) * 4),
        pair(source=PairSource.REFERENCE, known_label=Label.ANOMALOUS),
    ],
)
def test_a_pair_comes_back_as_it_was(one):
    line = pair_to_line(one)
    assert pair_from_line(line) == one
    assert pair_from_line(line).key == one.key
    assert line.count(b"\n") == 1


def test_a_line_of_an_earlier_version_is_still_read():
    raw = json.loads(pair_to_line(pair()))
    for name in (
        "received_at",
        "capture_suspect",
        "source",
        "frame_signature",
        "review_share",
        "review_drawn",
        "known_label",
    ):
        del raw[name]
    assert pair_from_line(json.dumps(raw).encode()) == pair()


def test_what_was_put_away_comes_back_in_order_and_once(spool):
    spool.append([pair(0), pair(1)])
    spool.append([pair(2)])
    assert spool.num_bytes > 0
    assert taken(spool) == ([pair(0), pair(1), pair(2)], 0)
    assert spool.num_bytes == 0
    assert taken(spool) == ([], 0)


def test_a_replay_that_fails_keeps_everything(spool):
    def refuse(_: Sequence[Pair]) -> int:
        raise ConnectionError("away")

    spool.append([pair(0)])
    with pytest.raises(ConnectionError):
        spool.replay(refuse)
    spool.append([pair(1)])  # into a new file; the old one waits as a segment
    found, _ = taken(spool)
    assert {found_pair.image_id for found_pair in found} == {pair(0).image_id, pair(1).image_id}


def test_a_pair_put_away_during_a_replay_is_not_deleted_with_it(spool):
    spool.append([pair(0)])
    assert spool.replay(lambda _: spool.append([pair(1)]) or 1) == 0
    assert taken(spool) == ([pair(1)], 0)


def test_half_a_line_that_a_kill_left_costs_no_other_pair(spool):
    spool.append([pair(0)])
    file = spool.folder / "pairs.jsonl"
    half = pair_to_line(pair(1))[:40]
    file.write_bytes(file.read_bytes() + half)
    spool.append([pair(2)])
    assert taken(spool) == ([pair(0), pair(2)], 1)
    assert spool.num_bytes == 0
    (aside,) = spool.folder.glob("damaged-*.jsonl")
    assert aside.read_bytes() == half + b"\n"
    assert taken(spool) == ([], 0)


def test_the_bound_refuses_and_keeps_what_is_there(tmp_path):
    spool = Spool(tmp_path, 2 * len(pair_to_line(pair(0))))
    spool.append([pair(0)])
    with pytest.raises(OSError, match=r"raise gateway\.max_spool_mb"):
        spool.append([pair(1), pair(2)])
    assert taken(spool) == ([pair(0)], 0)


def test_a_full_disk_is_an_error(tmp_path):
    (tmp_path / "pairs.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Spool(tmp_path, 1_000_000).append([pair(0)])


def test_many_writers_share_one_folder(spool):
    writers = [Spool(spool.folder, 1_000_000) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: writers[n % 4].append([pair(n)]), range(40)))
    found, damaged = taken(spool)
    assert sorted(found_pair.image_id for found_pair in found) == [pair(n).image_id for n in range(40)]
    assert damaged == 0
