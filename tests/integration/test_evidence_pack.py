"""Evidence of a real project and of real databases: what is packed is what is on record, and it verifies."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.evidence_pack import (
    COMMIT,
    FINGERPRINT,
    RESULT,
    build_chain,
    day,
    registration,
    rehash,
    reproduction,
    unpack,
    verify,
)
from fixtures.learning import ROOT
from fixtures.mlflow_store import edited_by_hand
from fixtures.records import START, first_events, made_pair, random_pairs
from fixtures.tiny_project import CLASSES, Project, read_json
from shadowline.audit.pack import PackWriter
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import Progress
from shadowline.records.audit_log.chain_range import BrokenChainError, ChainRange, Period
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.audit_log.keys import SigningKey
from shadowline.records.pair import Pair
from shadowline.records.stores import Records, open_records, records_on
from shadowline.report import formatting
from shadowline.rollout.observation import Order, OrderKind

PARAMS = load_params(ROOT / "params.yaml")
NOW = datetime(2026, 8, 1, tzinfo=UTC)
ALL = Period(None, datetime(2100, 1, 1, tzinfo=UTC))  # the keys and versions of these tests are made today
HTML = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real model store with the two versions that the chain speaks of, and a run with hostile words."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("SHADOWLINE_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)
        from tasks.integrations.mlflow_registry import client

        tracking = client()
        tracking.create_registered_model("inspector")
        run = tracking.create_run(tracking.create_experiment("shadowline"))
        tracking.log_param(run.info.run_id, "encoder.name", HTML)
        for version in FINGERPRINT:
            classes = {"bolt": version[-1] * 64, HTML: "0" * 64}
            tags = {**registration(version), "class_fingerprints": json.dumps(classes), "note": HTML}
            tracking.create_model_version("inspector", source=str(folder), run_id=run.info.run_id, tags=tags)
        for alias, leading in (("champion", "2"), ("previous", "1")):  # as the chain has it
            tracking.set_registered_model_alias("inspector", alias, leading)
        yield


@pytest.fixture
def records(database_url: str, tmp_path: Path, model_store: None) -> Records:
    """On SQLite and on PostgreSQL: the chain of the unit tests, and the result that it speaks of."""
    chain = build_chain(tmp_path, database_url)
    folder = tmp_path / "data/audit/reproductions"
    folder.mkdir(parents=True)
    (folder / "inspector-1.json").write_text(RESULT)
    return records_on(chain.engine, chain.keys)


def add_reproductions(*arguments: Any) -> Iterator[Any]:
    from tasks.audit.evidence_pack import add_reproductions as really

    return really(*arguments)


def export(records: Records, folder: Path, period: Period = ALL) -> Path:
    from tasks.audit.evidence_pack import export_pack

    return export_pack(records, Layout(folder), PARAMS, period, folder / "out.zip", HTML, NOW, Progress()).path


def read(pack: Path, name: str) -> Any:
    with zipfile.ZipFile(pack) as archive:
        return json.loads(archive.read(name))


def root_of(records: Records) -> str:
    return records.chain.keys.load("key-1").public


# --- what is on record


def test_agreement_is_counted_from_the_pairs_of_the_period_alone(records: Records, tmp_path: Path) -> None:
    pairs = random_pairs(np.random.default_rng(5), 400)
    since, until = START + timedelta(days=2), START + timedelta(days=6)
    edges = [made_pair(number, captured_at=at) for number, at in enumerate((since, until), start=9000)]
    records.pairs.record([*pairs, *edges])
    found = read(export(records, tmp_path, Period(since, until)), "agreement.json")
    counted = {(row["class_name"], row["candidate"], row["legacy"]): row for row in found}
    firsts: dict[tuple[object, ...], Pair] = {}  # an image counts once
    for pair in [*pairs, *edges]:
        firsts.setdefault((pair.models, pair.image_id), pair)
    received = [pair for pair in firsts.values() if pair.received_at and since <= pair.received_at < until]
    expected = {pair.key: pair for pair in received if both_said(pair)}
    num_pairs = Counter((pair.class_name, pair.candidate, pair.legacy) for pair in expected.values())
    num_agreeing = Counter((pair.class_name, pair.candidate, pair.legacy) for pair in expected.values() if agree(pair))
    assert {models: row["num_pairs"] for models, row in counted.items()} == num_pairs
    assert {models: row["agreement"]["num_hits"] for models, row in counted.items()} == {
        models: num_agreeing[models] for models in num_pairs
    }
    assert num_pairs["bolt", edges[0].candidate, edges[0].legacy] == 1  # the one at the beginning
    assert {row["outcome"] for row in found} <= {"pass", "fail", "inconclusive"}
    assert found[0]["candidate_misses"]["value"] is None  # nothing labelled is not NaN


def both_said(pair: Pair) -> bool:
    return pair.candidate_said.error is None and pair.legacy_said is not None and pair.legacy_said.error is None


def agree(pair: Pair) -> bool:
    assert pair.legacy_said is not None
    return pair.candidate_said.alarm == pair.legacy_said.alarm


def test_a_whole_pack_verifies_and_holds_what_is_on_record(records: Records, tmp_path: Path) -> None:
    records.rollout.begin(first_events())
    records.approvals.order(Order(OrderKind.HOLD, ("bolt",), HTML, HTML), NOW)
    pack = export(records, tmp_path)
    answer = verify(pack, "--root", root_of(records))
    assert (answer.code, answer.err, answer.faults) == (0, "", {})
    assert set(read(pack, "versions.json")) == set(FINGERPRINT)
    assert read(pack, "versions.json")["inspector/2"]["tags"]["git_commit"] == COMMIT["inspector/2"]
    assert read(pack, "reproductions.json")[0]["is_as_stated"] is True
    rollout = read(pack, "rollouts.json")
    assert [event["after"]["class_name"] for event in rollout["events"]] == ["bolt", "nut", "gear"]
    assert [order["why"] for order in rollout["orders"]] == [HTML]
    folder = unpack(pack, tmp_path / "unpacked")
    for page in (folder / "index.html", *(folder / "cards").iterdir()):
        text = page.read_text()
        assert HTML not in text
        assert "&lt;img src=x" in text
        assert "<script" not in text


@pytest.mark.parametrize(("since", "until"), [(3, 5), (-300, -200), (3000, 3001)])
def test_periods_in_the_middle_and_empty_ones_verify(
    records: Records, tmp_path: Path, since: float, until: float
) -> None:
    pack = export(records, tmp_path, Period(day(since), day(until)))
    assert verify(pack, "--root", root_of(records)).faults == {}
    assert read(pack, "contents.json")["head"]["number"] == 11
    with zipfile.ZipFile(pack) as archive:
        assert len(archive.read("keys.jsonl").splitlines()) == 3  # all, so that the signature can be followed
        assert bool(archive.read("chain.jsonl")) is (since == 3)


def test_what_is_noted_and_not_yet_in_the_chain_is_packed_too(records: Records, tmp_path: Path) -> None:
    with records.chain.engine.begin() as connection:
        records.chain.note(connection, [Record(EntryKind.DELETION, "nut", {}, "Ada", day(20))])
    answer = verify(export(records, tmp_path))
    assert "entries 1 to 12 hold" in answer.out


def test_no_pack_is_left_of_a_chain_that_was_edited(records: Records, tmp_path: Path) -> None:
    disarm(records)
    with records.chain.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE audit_entries SET body = '{}' WHERE number = 6")
    with pytest.raises(BrokenChainError, match=r"entry 6.*was edited"):
        export(records, tmp_path)
    assert not list(tmp_path.glob("*out.zip*"))


def test_no_pack_is_made_of_a_chain_whose_end_was_cut(records: Records, tmp_path: Path) -> None:
    from tasks.integrations.mlflow_registry import client

    registered = next(entry for entry in records.chain.entries() if entry.number == 6)
    disarm(records)
    with records.chain.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM audit_entries WHERE number >= 6")
    with pytest.raises(BrokenChainError, match=r"entry 11 was written, as .*head\.json knows"):
        export(records, tmp_path)
    (records.chain.keys.folder / "head.json").unlink()
    client().set_model_version_tag("inspector", "2", "audit_entry", f"6:{registered.hash}")
    with pytest.raises(BrokenChainError, match="entry 6 was written, as models:/inspector/2 knows"):
        export(records, tmp_path)
    client().delete_model_version_tag("inspector", "2", "audit_entry")
    assert not list(tmp_path.glob("*out.zip*"))


def disarm(records: Records) -> None:
    """What only the owner of the database can do."""
    engine = records.chain.engine
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE audit_entries DISABLE TRIGGER ALL")
            return
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")


# --- what is not at hand, and what is hostile


def refused(records: Records, folder: Path) -> str:
    """Why no pack is made; none is left behind."""
    with pytest.raises(BrokenChainError) as error:
        export(records, folder)
    assert not list(folder.glob("*out.zip*"))
    return str(error.value)


def test_no_pack_is_made_of_a_version_that_the_registry_lost(records: Records, tmp_path: Path) -> None:
    body = {"fingerprint": "f" * 64}
    records.chain.append(Record(EntryKind.REGISTRATION, "models:/inspector/9", body, "Ada", day(30)))
    assert "version 'inspector/9', registered by entry 12, is not in versions.json" in refused(records, tmp_path)


def test_no_pack_is_made_of_a_result_that_was_changed_on_disk(records: Records, tmp_path: Path) -> None:
    (tmp_path / "data/audit/reproductions/inspector-1.json").write_text('{"identical": false}')
    reason = refused(records, tmp_path)
    assert (
        "the pack's verifier refuses it: reproductions: 'reproductions/inspector-1.json' is missing, or not" in reason
    )


def test_an_entry_that_names_a_file_elsewhere_takes_nothing_from_there(records: Records, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("a secret")
    (tmp_path / "data/audit/reproductions/link.json").symlink_to(tmp_path / "secret.json")
    for number, file in enumerate(("../../../secret.json", "/etc/passwd", "data/audit/reproductions/..", "link.json")):
        body = {**reproduction(), "result": file}
        records.chain.append(Record(EntryKind.REPRODUCTION, "models:/inspector/1", body, "Eve", day(30 + number)))
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        list(add_reproductions(ChainRange.of(records.chain, ALL), Layout(tmp_path), PackWriter(archive)))
        assert archive.namelist() == ["reproductions/inspector-1.json"]
        assert b"a secret" not in archive.read(archive.namelist()[0])
    assert "reproductions" in refused(records, tmp_path)


# --- what is not what the chain signs


def test_no_pack_is_made_of_numbers_that_the_chain_does_not_sign(records: Records, tmp_path: Path) -> None:
    """A metric changed, deleted or added, a verdict turned round: the text names version, metric and both values."""
    from tasks.integrations.mlflow_registry import client
    from tasks.integrations.registry_comparison import compare_registry, signed_metrics

    tracking = client()
    run = tracking.get_model_version("inspector", "2").run_id
    tracking.set_model_version_tag("inspector", "2", "results_run", run)
    tracking.log_metric(run, "test/auroc", 0.91)
    tracking.log_metric(run, "gate/drop/bolt", 0.01)
    body = {**registration("inspector/2"), "results_run": run, "metrics": signed_metrics(tracking, run)}
    records.chain.append(Record(EntryKind.REGISTRATION, "models:/inspector/2", body, "Ada", day(30)))
    tracking.set_registered_model_alias("inspector", "challenger", "2")
    pack = export(records, tmp_path)
    assert verify(pack).faults == {}
    _change_metric_inside(unpack(pack, tmp_path / "unpacked"), records.chain.keys.load("key-3"))
    assert verify(tmp_path / "unpacked").faults["versions"] == (
        "version 'inspector/2': metric 'test/auroc' is 0.999, and entry 12 signs 0.91"
    )
    pack.unlink()
    for statement, column, signed, found in (
        ("UPDATE latest_metrics SET value = 0.999 WHERE key = 'test/auroc'", "metrics.test/auroc", "0.91", "0.999"),
        ("DELETE FROM latest_metrics WHERE key = 'test/auroc'", "metrics.test/auroc", "0.91", "none"),
        ("DELETE FROM latest_metrics WHERE key LIKE 'gate/%'", "metrics.gate/drop/bolt", "0.01", "none"),
        ("UPDATE model_version_tags SET value = 'failed' WHERE key = 'verdict'", "tags.verdict", "passed", "failed"),
    ):
        expected = f"registry.{column} of models:/inspector/2: signed by entry 12 is {signed}, found is {found}"
        with edited_by_hand(statement):
            assert "models:/inspector/" in refused(records, tmp_path), statement
            assert expected in map(str, compare_registry(records.chain).differences)
    with edited_by_hand("UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'"):
        assert "alias.champion of inspector: signed by entry 9 is 2, found is 1" in refused(records, tmp_path)
    assert export(records, tmp_path).is_file()


def _change_metric_inside(folder: Path, key: SigningKey) -> None:
    """What one does who holds the key: the number is changed in the pack, and everything is hashed and signed again."""
    versions = read_json(folder / "versions.json")
    versions["inspector/2"]["metrics"]["test/auroc"] = 0.999
    (folder / "versions.json").write_text(json.dumps(versions))
    rehash(folder, key)


def test_no_pack_is_made_of_records_that_the_chain_does_not_sign(records: Records, tmp_path: Path) -> None:
    """In the period of the pack: what was tampered with at another time hinders no other."""
    records.rollout.begin(first_events())
    records.approvals.order(Order(OrderKind.HOLD, ("bolt",), "Ada", "cleaning"), day(1))
    with records.chain.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rollout_orders SET why = 'nothing'")
    assert "rollout_orders.why of id 1: signed by entry" in refused(records, tmp_path)
    assert export(records, tmp_path, Period(day(2), day(3))).is_file()


# --- a project that was retrained


@pytest.fixture
def recorded(in_project: Project) -> Project:
    """This process works in a retrained project, whose chain names its version, and here a reproduction of it."""
    result = in_project.root / "data/audit/reproductions/inspector-1.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(RESULT)
    body = {**reproduction(), "finding": "within tolerance"}
    open_records().chain.append(Record(EntryKind.REPRODUCTION, "models:/inspector/1", body, "audit", datetime.now(UTC)))
    return in_project


def test_a_retrained_project_shows_what_its_version_was_made_of(
    recorded: Project, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command("audit", "export", "--out", "pack.zip", "--by", "Ada", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["num_versions"], said["path"]) == (1, "pack.zip")
    answer = verify(recorded.root / "pack.zip", "--root", said["root"])
    assert (answer.code, answer.faults) == (0, {})
    assert "reproductions: 1 in this period" in answer.out
    assert "versions: 1 registered in this period, 1 in the pack" in answer.out
    folder = unpack(recorded.root / "pack.zip", recorded.root / "out/pack")
    (made_again,) = read_json(folder / "reproductions.json")
    assert (made_again["finding"], made_again["is_as_stated"]) == ("within tolerance", True)
    summary = read_json(recorded.layout.summary)
    assert read_json(folder / "gates.json")["inspector/1"]["passed"] == summary["verdict"]["passed"]
    card = (folder / "cards/inspector-1.html").read_text()
    for name in CLASSES:
        metrics = read_json(recorded.layout.evaluation(name) / "metrics.json")
        calibration = read_json(recorded.layout.calibration(name))
        assert f"{metrics['image']['auroc']['value']:.3f}" in card
        assert f"<strong>{formatting.number(calibration['threshold'])}</strong>" in card
    positions = [card.index(f'<th scope="row">{name}</th>') for name in summary["classes"]]
    assert positions == sorted(positions)  # worst first
    assert recorded.git("rev-parse", "HEAD") in card


def test_a_card_says_what_its_commit_had_whatever_the_working_tree_holds(recorded: Project) -> None:
    from tasks.audit.evidence_versions import find_versions, read_classes

    records = open_records()
    (version,) = find_versions(records, load_params(recorded.layout.params), ALL, ChainRange.of(records.chain, ALL))
    before = read_classes(version, recorded.layout)
    for name in CLASSES:
        metrics = recorded.layout.evaluation(name) / "metrics.json"
        metrics.unlink()
        metrics.write_text('{"class_name": "dots", "num_test_normal": 1, "num_test_anomalous": 1}')
    assert read_classes(version, recorded.layout) == before
    assert all(cls.metrics and cls.calibration for cls in before)
    unknown = replace(version, tags={**version.tags, "git_commit": "f" * 40})
    assert all(cls.metrics is None for cls in read_classes(unknown, recorded.layout))


def test_the_command_says_in_one_line_what_it_cannot_do(
    in_project: Project, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("audit", "export", "--from", "2026-10-01", "--to", "2026-07-01")
    assert (code, "it has to begin before it ends" in err) == (2, True)
    monkeypatch.setenv("SHADOWLINE_DATABASE_URL", f"sqlite:///{in_project.root}/empty.db")
    monkeypatch.setenv("SHADOWLINE_AUDIT_KEYS", f"{in_project.root}/no-keys")
    code, _, err = command("audit", "export")
    assert (code, "as models:/inspector/1 knows, and is no longer there" in err) == (1, True)
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", f"sqlite:///{in_project.root}/no-registry.db")
    code, _, err = command("audit", "export")
    assert (code, "no entries yet" in err) == (2, True)
