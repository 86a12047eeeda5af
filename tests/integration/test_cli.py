"""The command line: exit codes, what it prints for people and machines, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.main import get_command

from fixtures.records import CANDIDATE, LEGACY, START, first_events, image_id, made_pair
from fixtures.tiny_project import CLASSES, EXTRA_CLASS, Project
from shadowline.records.pair import ModelDecision
from shadowline.records.stores import Records
from shadowline.rollout.engine import begin
from shadowline.rollout.phases import Phase
from shadowline.rollout.plan import EXAMPLE
from shadowline.rollout.state import STAYS, Event

Command = Callable[..., tuple[int, str, str]]

GOOD, HOLE = "factory/dots/test/good/000.png", "factory/dots/test/hole/000.png"


def commands(option: str = "") -> list[tuple[str, ...]]:
    """Commands that do something, with their groups: ("data", "list"), ("retrain",), …; all, or those of an option."""
    from shadowline.cli.app import app

    return [names for names, options in _below(get_command(app)) if not option or option in options]


def _below(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Commands, and the names of their parameters."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from _below(command, (*names, name))
        else:
            yield (*names, name), {parameter.name for parameter in command.params}


@pytest.mark.parametrize("names", commands(), ids=" ".join)
def test_the_help_of_every_command_holds_an_example_of_it(names: tuple[str, ...], command: Command) -> None:
    code, out, _ = command(*names, "--help")
    assert code == 0
    assert "Example:" in out
    assert f"shadowline {' '.join(names)}" in out.partition("Example:")[2]


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("names", commands("by"), ids=" ".join)
def test_whoever_answers_for_something_must_say_who_they_are(
    command: Command, names: tuple[str, ...], blank: str
) -> None:
    code, _, err = command(*names, "--by", blank)
    assert (code, err) == (2, f"error: --by {blank!r}: names nobody; say who you are\n")


def test_a_name_is_recorded_without_the_blanks_around_it(records: Records, command: Command) -> None:
    records.rollout.begin(first_events())
    assert command("rollout", "leave", "gear", "--by", " Ada ")[0] == 0
    assert records.rollout.events()[-1].by == "Ada"


def test_exit_code_0_for_normal_and_1_for_anomalous(in_finished: Project, command: Command) -> None:
    normal = sorted((in_finished.root / GOOD).parent.glob("*.png"))[:4]
    codes = {command("inspect", str(path), "--class", "dots")[0] for path in normal}
    assert 0 in codes  # the promised false-alarm rate allows for some
    assert command("inspect", HOLE, "--class", "dots")[0] == 1


def test_an_inspection_prints_one_json_object_a_line(in_finished: Project, command: Command) -> None:
    code, out, _ = command("inspect", HOLE, GOOD, "--class", "dots", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [row["image"] for row in rows] == [HOLE, GOOD]
    assert rows[0]["decision"] == "anomalous"
    assert rows[0].keys() >= {"score", "threshold", "class_name", "model_version", "fingerprint", "latency_ms"}


def test_a_heat_map_is_written_for_every_image(in_finished: Project, command: Command, tmp_path: Path) -> None:
    _, out, err = command("inspect", HOLE, GOOD, "--class", "dots", "--heatmap", str(tmp_path), "--json")
    written = sorted(tmp_path.iterdir())
    assert len(written) == 2 or {path.name for path in written} == {"000-anomalous.png"}
    for path in written:
        with Image.open(path) as overlay:
            assert (overlay.format, overlay.mode) == ("PNG", "RGB")
        assert str(path) in err  # not among the JSON lines
    assert all(json.loads(line) for line in out.splitlines())


def test_bad_images_are_refused_by_name_and_the_good_ones_judged(
    in_finished: Project, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    (tmp_path / "short.png").write_bytes((in_finished.root / GOOD).read_bytes()[:-100])
    bad = [str(tmp_path / name) for name in ("text.png", "short.png", "missing.png")]
    code, out, err = command("inspect", *bad, GOOD, "--class", "dots", "--json")
    assert code == 2
    assert [json.loads(line)["image"] for line in out.splitlines()] == [GOOD]
    refused = [line for line in err.splitlines() if line.startswith("refused ")]
    assert len(refused) == 3
    assert all(name in line for name, line in zip(bad, refused, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", GOOD, "--class", "bolts"), "class 'bolts' is not in this model; it knows dots, stripes"),
        (("inspect", GOOD, "--model", "elsewhere"), "no packaged inspector; run `shadowline retrain`"),
        (("stage", "features", "--class", "bolts"), "class 'bolts' is not in params.yaml; known: dots, stripes"),
        (("stage", "features"), "stage features: give --class"),
        (("stage", "encoder", "--class", "dots"), "stage encoder: takes no --class"),
        (("stage", "features", "--frobnicate"), "No such option: --frobnicate"),
        (("stage", "nonsense"), "nonsense"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line_and_code_2(
    in_finished: Project, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[["textile"]]', "the file: Input should be an object"),
        ('{"waves": [["textile", 3]]}', "waves.0.1: Input should be a valid string"),
        ('{"waves": ["textile"]}', "waves.0: Input should be a valid array"),
        ('{"waves": [["Textile!"]]}', "waves.0.0: String should match pattern"),
        ('{"waves": []}', "waves: List should have at least 1 item"),
        ('{"waves": [["textile"], []]}', "waves.1: List should have at least 1 item"),
        ('{"reasons": {}}', "waves: Field required"),
        ("waves: textile", "the file: Invalid JSON"),
        ("\udcff", "the file: Invalid JSON"),
    ],
)
def test_a_plan_that_cannot_be_read_is_refused_with_its_place_and_an_example(
    records: Records, command: Command, content: str, message: str
) -> None:
    Path("plan.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    code, _, err = command("rollout", "plan", "plan.json", "--by", "Ada")
    assert (code, err.count("\n")) == (2, 1)
    assert f"error: plan.json: {message}" in err
    assert err.endswith(f"e.g. {EXAMPLE}\n")
    assert records.rollout.events() == ()


@pytest.mark.parametrize(("place", "message"), [("elsewhere.json", "No such file"), (".", "Is a directory")])
def test_a_plan_that_is_no_file_is_refused_by_name(
    records: Records, command: Command, place: str, message: str
) -> None:
    code, _, err = command("rollout", "plan", place, "--by", "Ada")
    assert (code, err.count("\n")) == (2, 1)
    assert f"error: {place}: {message}" in err


def test_an_id_of_the_work_list_can_be_given_to_the_label_command_at_every_width(
    records: Records, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.pairs.record([made_pair(number, legacy_said=ModelDecision(0.9, 0.5)) for number in range(3)])
    monkeypatch.setenv("COLUMNS", "60")
    _, table, _ = command("review", "list", "bolt")
    for number in range(3):
        assert image_id(number)[:12] in table
    code, out, _ = command("review", "label", "bolt", image_id(0)[:12], "anomalous", "--by", "Grace")
    assert (code, out) == (0, f"bolt {image_id(0)[:12]}: anomalous, says Grace\n")
    assert command("feedback", "bolt", image_id(1)[:8].upper(), "normal", "--by", "Grace")[0] == 0
    assert records.pairs.labelled_images("bolt") == {image_id(0), image_id(1)}
    assert [part.image_id for part in records.pairs.waiting_for_review("bolt")] == [image_id(2)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("aaaaaaaa", "class 'bolt': aaaaaaaa begins more than one image id, "),
        ("bbbbbbbb", "class 'bolt': no image id on record begins with bbbbbbbb"),
        ("dddddddd", "class 'bolt': no image id on record begins with dddddddd"),
        ("aaaaaaa", "image 'aaaaaaa': no such file, and no id"),
        ("today/cell.png", "image 'today/cell.png': no such file, and no id"),
    ],
)
def test_an_image_that_cannot_be_told_is_refused_by_name(
    records: Records, command: Command, image: str, message: str
) -> None:
    pairs = [made_pair(n, image_id=beginning.ljust(64, "0")) for n, beginning in enumerate(("aaaaaaaa1", "aaaaaaaa2"))]
    records.pairs.record([*pairs, made_pair(2, class_name="nut", image_id="d" * 64)])
    code, _, err = command("review", "label", "bolt", image, "normal", "--by", "Grace")
    assert (code, err.count("\n")) == (2, 1)
    assert f"error: {message}" in err
    assert records.pairs.labelled_images("bolt") == frozenset()


def test_the_work_list_refuses_a_class_that_nobody_knows(records: Records, command: Command) -> None:
    code, _, err = command("review", "list", "bolt")
    assert (code, err) == (2, "error: class 'bolt': no model of it is known here; known are none\n")
    records.rollout.begin(first_events())
    for options in ((), ("--json",)):
        code, out, err = command("review", "list", "bolts", *options)
        assert (code, out) == (2, "")
        assert err == "error: class 'bolts': no model of it is known here; known are bolt, gear, nut\n"
    assert command("review", "list", "bolt", "--json")[:2] == (0, "[]\n")


def test_the_history_tells_every_change_of_phase_share_or_wave_with_its_reason(
    records: Records, command: Command
) -> None:
    store = records.rollout

    def change(by: str, **changes: Any) -> None:
        before = store.state().of("bolt")
        store.begin([Event(store.revision() + 1, START, by, before.phase, replace(before, **changes))])

    store.begin(begin([["bolt"], ["nut"]], LEGACY, CANDIDATE, START, "Ada")[1])
    assert command("rollout", "leave", "nut", "--by", "Bob")[0] == 0
    change("engine", candidate="v2-bolt", reason="waits with v2-bolt")
    change("engine", phase=Phase.SHADOW, reason="wave 1 begins")
    change("engine", alarm="no image since yesterday")
    change("engine", phase=Phase.CANARY, share=0.05, reason="shadow is fulfilled")
    change("engine", share=0.25, reason="canary rises to 25%")
    change("engine", alarm="agreement falls")
    change("Grace", phase=Phase.ROLLED_BACK, share=0.0, reason="Grace: complaint 4711")
    store.begin(begin([["bolt"]], LEGACY, CANDIDATE, START, "Ada", store.state())[1])

    history = json.loads(command("rollout", "history", "--json")[1])
    names = ("class_name", "wave", "from", "to", "share", "by", "reason")
    assert [tuple(event[name] for name in names) for event in history] == [
        ("bolt", 1, None, "legacy", 0.0, "Ada", "planned"),
        ("nut", 2, None, "legacy", 0.0, "Ada", "planned"),
        ("nut", STAYS, "legacy", "legacy", 0.0, "Bob", "left the plan"),
        ("bolt", 1, "legacy", "shadow", 0.0, "engine", "wave 1 begins"),
        ("bolt", 1, "shadow", "canary", 0.05, "engine", "shadow is fulfilled"),
        ("bolt", 1, "canary", "canary", 0.25, "engine", "canary rises to 25%"),
        ("bolt", 1, "canary", "rolled_back", 0.0, "Grace", "Grace: complaint 4711"),
        ("bolt", 2, "rolled_back", "rolled_back", 0.0, "Ada", "planned again"),
    ]
    of_bolt = json.loads(command("rollout", "history", "--class", "bolt", "--json")[1])
    assert of_bolt == [event for event in history if event["class_name"] == "bolt"]
    _, table, _ = command("rollout", "history")
    assert all(word in table for word in ("5%", "25%", "stays"))
    code, _, err = command("rollout", "history", "--class", "bolts")
    assert (code, "class 'bolts' is not in the rollout" in err) == (2, True)


def test_the_images_are_listed_per_class_and_split(in_finished: Project, command: Command) -> None:
    code, out, _ = command("data", "list", "--json")
    assert code == 0
    counts = {"train": 32, "val": 8, "test": 20, "tune": 0, "stream": 0}
    assert json.loads(out) == dict.fromkeys(CLASSES, counts)
    _, table, _ = command("data", "list")
    assert all(name in table for name in CLASSES)


def test_an_unknown_product_must_not_pass_and_has_no_decision(in_finished: Project, command: Command) -> None:
    strange = f"factory/{EXTRA_CLASS}/test/good/000.png"
    code, out, _ = command("inspect", strange, "--json")
    row = json.loads(out)
    assert code == 1
    assert (row["image"], row["decision"], row["class_name"], row["stop"]) == (strange, None, None, True)
    assert row["nearest_class"] in CLASSES
    code, table, _ = command("inspect", HOLE, strange)
    assert code == 1
    assert "unknown" in table
    assert "stop" in table


def test_a_folder_is_judged_into_a_table_for_other_programs(
    in_finished: Project, command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "results.csv"
    folder, overlays = "factory/dots/test", tmp_path / "overlays"
    code, out, err = command("inspect", folder, "--class", "dots", "--csv", str(target), "--heatmap", str(overlays))
    rows = target.read_text(encoding="utf-8").splitlines()
    assert (code, len(rows)) == (1, 1 + 20)
    assert f"{target}: 20 images judged, 0 refused" in out
    assert "models/inspector: the last model that was packaged; it passed its gates" in err
    assert len(list(overlays.rglob("*.png"))) == 20, "no overlay replaces that of another image of the same name"


def test_the_benchmark_of_identification_counts_every_test_image(in_finished: Project, command: Command) -> None:
    code, out, _ = command("bench", "identify", "--json")
    bench = json.loads(out)
    assert code == 0
    counts = {(row["class_name"], row["label"]): row["counts"] for row in bench["found"]}
    assert {key: sum(by_answer.values()) for key, by_answer in counts.items()} == {
        (name, label): number for name in CLASSES for label, number in (("normal", 12), ("anomalous", 8))
    }
    assert [row["class_name"] for row in bench["left_out"]] == sorted(CLASSES)
    assert all(row["auroc"] > 0.9 for row in bench["left_out"])
    assert [row["num_classes"] for row in bench["speed"]] == [3, 10, 100, 1000]
    sizes = [row["megabytes"] for row in bench["speed"]]
    assert sizes[3] == pytest.approx(10 * sizes[2])
    _, tables, _ = command("bench", "identify")
    assert "left out" in tables


def test_the_memory_of_many_classes_grows_by_their_banks_alone(in_finished: Project, command: Command) -> None:
    two, twenty = (json.loads(command("bench", "memory", "--classes", str(number), "--json")[1]) for number in (2, 20))
    assert twenty["banks_mb"] == pytest.approx(10 * two["banks_mb"])
    assert (twenty["encoder_mb"], twenty["decoder_mb"]) == (two["encoder_mb"], two["decoder_mb"])
    parts = ("encoder_mb", "decoder_mb", "banks_mb")
    assert twenty["total_mb"] == pytest.approx(sum(twenty[part] for part in parts))


def test_the_report_is_written_again(in_project: Project, command: Command) -> None:
    in_project.layout.report.unlink()
    code, out, _ = command("report")
    assert (code, out.strip()) == (0, str(in_project.layout.report.relative_to(in_project.root)))
    assert in_project.layout.report.is_file()


def test_a_retraining_answers_with_its_verdict_as_code_and_as_json(
    prefect_server: str, in_project: Project, command: Command
) -> None:
    code, out, _ = command("retrain", "--json")
    answer = json.loads(out.splitlines()[-1])
    assert (code, answer["version"], answer["verdict"]["passed"]) == (0, "models:/inspector/1", True)
    in_project.edit_params(gates={"max_memory_mb": 1.0})
    code, out, _ = command("retrain")
    assert code == 1
    assert "not passed" in out
    (in_project.root / "notes.txt").write_text("not committed", encoding="utf-8")
    code, _, err = command("retrain")
    assert code == 2
    assert "error: 1 uncommitted changes beside params.yaml and dvc.lock: notes.txt" in err
