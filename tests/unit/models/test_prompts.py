"""Prompts as data: what a file may say, how a side is filled, which set a class uses, and how the winner is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from fixtures.clip import tiny_clip
from fixtures.learning import ROOT, picture, project_params
from shadowline.cli.app import app
from shadowline.core.layout import Layout
from shadowline.core.params import ZeroShotParams
from shadowline.core.progress import Progress
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import content_id, write_manifest
from shadowline.models.winclip.prompts import Prompts, choose, chosen_path, read_book, record_choice
from shadowline.models.winclip.search import search
from shadowline.models.winclip.weights import Clip, load_clip

SET = {"normal": ["flawless {}"], "anomalous": ["damaged {}"], "templates": ["a photo of a {}."]}
NAMED = {"normal": ["{words} intact"], "anomalous": ["{} with {defect}", "bad {}"], "templates": ["a {state}!", "{}"]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes prompt files by name; returns their folder."""

    def write_files(**files: object) -> Path:
        for name, values in files.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return tmp_path

    return write_files


# --- filling --------------------------------------------------------------------------------------------------------


def test_a_side_is_every_state_in_every_template(write):
    book = read_book(write(default={"sets": {"one": NAMED}}, bolt={"words": "steel bolt", "defects": ["rust"]}), "bolt")
    assert book.fill("one").normal == ("a steel bolt intact!", "steel bolt intact")
    assert book.fill("one").anomalous == (
        "a steel bolt with rust!",
        "steel bolt with rust",
        "a bad steel bolt!",
        "bad steel bolt",
    )


def test_every_defect_of_the_vocabulary_makes_a_state_of_its_own(write):
    folder = write(default={"sets": {"one": NAMED}}, bolt={"defects": ["rust", "a dent", "oil"]})
    assert len(read_book(folder, "bolt").fill("one").anomalous) == (3 + 1) * 2


def test_a_class_without_a_file_is_called_by_its_name(write):
    assert read_book(write(default={"sets": {"one": SET}}), "metal_nut-2").fill("one").normal == (
        "a photo of a flawless metal nut 2.",
    )


def test_a_class_s_own_set_takes_the_place_of_a_default_of_its_name(write):
    own = {**SET, "normal": ["shiny {}"]}
    book = read_book(write(default={"sets": {"one": SET, "two": SET}}, bolt={"sets": {"one": own}}), "bolt")
    assert list(book.sets) == ["one", "two"]
    assert book.fill("one").normal == ("a photo of a shiny bolt.",)


def test_a_set_that_lives_by_defects_needs_a_vocabulary(write):
    needy = {**SET, "anomalous": ["{} with {defect}"]}
    book = read_book(write(default={"sets": {"one": SET, "needy": needy}}), "bolt")
    assert [prompts.set_name for prompts in book.fillable()] == ["one"]
    with pytest.raises(ValueError, match=r"class 'bolt': prompt set 'needy' asks for defects.*prompts/bolt\.yaml"):
        book.fill("needy")


def test_an_unknown_set_names_the_nearest(write):
    with pytest.raises(ValueError, match=r"no prompt set 'plian', need one of .* did you mean 'plain'"):
        read_book(write(default={"sets": {"plain": SET, "long": SET}}), "bolt").fill("plian")


def test_the_hash_ignores_the_order_and_knows_every_word():
    one = Prompts("one", ("a", "b"), ("c",))
    assert Prompts("other", ("b", "a"), ("c",)).sha256 == one.sha256
    assert Prompts("one", ("a", "c"), ("b",)).sha256 != one.sha256
    assert Prompts("one", ("a", "b"), ("d",)).sha256 != one.sha256


# --- what a file may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal": ["flawless"]}, "a state needs {} or {words} once"),
        ({"normal": ["{} {words}"]}, "a state needs {} or {words} once"),
        ({"normal": ["{object}"]}, "a state needs {} or {words} once"),
        ({"anomalous": ["{defect}"]}, "a state needs {} or {words} once"),
        ({"anomalous": ["{} {defect} {defect}"]}, "a state needs {} or {words} once"),
        ({"normal": ["{!r}"]}, "a placeholder is a name in braces and nothing else"),
        ({"normal": ["{:>9}"]}, "a placeholder is a name in braces and nothing else"),
        ({"normal": ["{} {"]}, "Single '{'"),
        ({"normal": []}, "at least 1 item"),
        ({"normal": ["{}", "{}"]}, "['{}'] more than once"),
        ({"templates": ["a photo"]}, "a template needs {} or {state} once"),
        ({"templates": ["{} {}"]}, "a template needs {} or {state} once"),
        ({"templates": ["{words}"]}, "a template needs {} or {state} once"),
        ({"templates": ["{.__class__}"]}, "a template needs {} or {state} once"),
        ({"template": ["{}"]}, "unknown key sets.one.template; did you mean templates?"),
    ],
)
def test_a_wrong_prompt_is_refused_with_file_and_place(change, message, write):
    folder = write(default={"sets": {"one": {**SET, **change}}})
    with pytest.raises(ValueError) as caught:
        read_book(folder, "bolt")
    assert message in str(caught.value)
    assert f"{folder / 'default.yaml'}: " in str(caught.value)
    assert "sets.one" in str(caught.value)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"word": "steel bolt"}, "unknown key word; did you mean words?"),
        ({"words": "  "}, "need words without placeholders"),
        ({"words": "bolt {}"}, "need words without placeholders"),
        ({"defects": ["rust", "rust"]}, "['rust'] more than once"),
        ({"sets": {"Bad Name": SET}}, "pattern"),
        (["words"], "file"),
    ],
)
def test_a_class_file_is_checked_as_strictly(own, message, write):
    with pytest.raises(ValueError) as caught:
        read_book(write(default={"sets": {"one": SET}}, bolt=own), "bolt")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["../bolt", "Bolt", "", "a b"])
def test_a_class_name_never_leaves_the_folder(name, write):
    with pytest.raises(ValueError, match="not a class name"):
        read_book(write(default={"sets": {"one": SET}}), name)


def test_without_the_default_file_there_are_no_prompts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"default\.yaml: no such file; it holds the prompts"):
        read_book(tmp_path, "bolt")


@pytest.mark.parametrize("class_name", ["solar_mono", "solar_poly", "textile"])
def test_the_project_s_own_files_fill_every_set(class_name):
    book = read_book(ROOT / "prompts", class_name)
    assert book.defects
    filled = book.fillable()
    assert [prompts.set_name for prompts in filled] == list(book.sets)
    for prompts in filled:
        assert not set(prompts.normal) & set(prompts.anomalous)
        assert all("{" not in text and book.words in text for text in (*prompts.normal, *prompts.anomalous))


def test_the_project_s_default_set_exists():
    book = read_book(ROOT / "prompts", "a_new_product")
    assert book.fill(project_params().zero_shot.prompt_set).normal


# --- choosing -------------------------------------------------------------------------------------------------------


def test_the_recorded_winner_comes_before_the_default_set(write):
    folder = write(default={"sets": {"one": SET, "two": NAMED}}, bolt={"defects": ["rust"]})
    assert choose(folder, "bolt", "one").set_name == "one"
    record_choice(folder, "bolt", read_book(folder, "bolt").fill("two"), {"auroc": 0.9})
    assert choose(folder, "bolt", "one").set_name == "two"


def test_a_winner_whose_words_have_changed_since_is_refused(write):
    folder = write(default={"sets": {"one": SET}})
    record_choice(folder, "bolt", read_book(folder, "bolt").fill("one"), {})
    write(bolt={"words": "steel bolt"})
    with pytest.raises(ValueError, match="has changed since it was chosen; run `shadowline prompts search bolt`"):
        choose(folder, "bolt", "one")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ZeroShotParams:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(tiny: ZeroShotParams) -> Clip:
    return load_clip(tiny, Path())


NORMALS = [lambda seed=seed: picture(seed) for seed in range(6)]
DEFECTS = {"noise": [lambda seed=seed: picture(seed) for seed in range(50, 56)]}
SETS = [Prompts(name, (f"{name} good",), (f"{name} bad", name)) for name in ("zinc", "oak", "glass", "wool", "clay")]


def tried(clip: Clip, sets: list[Prompts], tie: float):
    return search(sets, clip, NORMALS, DEFECTS, temperature=0.07, tie=tie, progress=Progress())


def test_the_search_takes_the_set_that_finds_most_defects(clip):
    found = tried(clip, SETS, tie=0.0)
    assert found[0].chosen and not any(result.chosen for result in found[1:])
    assert len({result.auroc for result in found}) > 1
    assert found[0].auroc == max(result.auroc for result in found)


def test_among_sets_that_tie_the_earliest_wins(clip):
    assert tried(clip, SETS, tie=1.0)[0].prompts.set_name == "zinc"
    assert tried(clip, SETS[::-1], tie=1.0)[0].prompts.set_name == "clay"


def test_swapping_the_sides_turns_the_auroc_over(clip):
    (one,) = tried(clip, SETS[:1], tie=0.0)
    (other,) = tried(clip, [Prompts("turned", SETS[0].anomalous, SETS[0].normal)], tie=0.0)
    assert one.auroc + other.auroc == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sets", "normals", "defects"),
    [([], NORMALS, DEFECTS), (SETS, NORMALS[:1], DEFECTS), (SETS, NORMALS, {}), (SETS, NORMALS, {"noise": []})],
)
def test_a_search_without_evidence_is_refused(clip, sets, normals, defects):
    with pytest.raises(ValueError, match=r"prompt search: \d prompt sets, \d normals, \d defects, need"):
        search(sets, clip, normals, defects, temperature=0.07, tie=0.0, progress=Progress())


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, tiny: ZeroShotParams, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A project with one class, eight val normals, four known defects and a test split; this process works in it."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["zero_shot"] = {**tiny.model_dump(mode="json"), "prompts": "prompts"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts", ignore=shutil.ignore_patterns("chosen"))
    splits = [(Split.VAL, Label.NORMAL)] * 8 + [(Split.TUNE, Label.ANOMALOUS)] * 4 + [(Split.TEST, Label.NORMAL)] * 2
    rows = [manifest_row(tmp_path, seed, *split) for seed, split in enumerate(splits)]
    write_manifest(pd.DataFrame(rows), Layout(tmp_path).manifest("textile"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_DEVICE", "cpu")
    return Layout(tmp_path)


def manifest_row(root: Path, seed: int, split: Split, label: Label) -> dict[str, object]:
    """Test images are named and never written: reading one would fail."""
    path = root / f"{seed}.png"
    image: Image.Image = picture(seed)
    if split is not Split.TEST:
        image.save(path)
    names = {"path": path.name, "class_name": "textile", "split": split, "label": label, "defect_type": ""}
    facts = {"mask_path": "", "width": 64, "height": 64, "mode": "RGB", "source": "test"}
    looks = {"brightness": 0.5, "contrast": 0.1, "sharpness": 0.1}
    return {
        "image_id": content_id(str(seed).encode()),
        **names,
        **facts,
        **looks,
        "captured_at": datetime(2026, 1, 1, tzinfo=UTC),
    }


def test_show_prints_what_the_text_tower_reads(project: Layout) -> None:
    done = CliRunner().invoke(app, ["prompts", "show", "textile", "--set", "weave", "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["prompt_set"] == "weave"
    assert "a photo of woven fabric with an even weave." in shown["normal"]
    assert "a texture of woven fabric with a hole." in shown["anomalous"]


def test_search_records_a_winner_that_show_then_uses_and_reads_no_test_image(project: Layout) -> None:
    done = CliRunner().invoke(app, ["prompts", "search", "textile", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(chosen_path(project.root / "prompts", "textile").read_text())
    assert (record["num_normals"], record["num_defects"]) == (4, {"known defects": 4})
    assert [result["chosen"] for result in record["tried"]] == [True] + [False] * 4
    assert record["prompt_set"] == record["tried"][0]["prompt_set"]
    shown = CliRunner().invoke(app, ["prompts", "show", "textile", "--json"])
    assert json.loads(shown.stdout)["prompt_set"] == record["prompt_set"]


def test_the_same_search_writes_the_same_record(project: Layout) -> None:
    path = chosen_path(project.root / "prompts", "textile")
    written = []
    for _ in range(2):
        CliRunner().invoke(app, ["prompts", "search", "textile"], catch_exceptions=False)
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_a_search_without_weights_says_where_to_get_them(project: Layout) -> None:
    raw = yaml.safe_load(project.params.read_text(encoding="utf-8"))
    raw["zero_shot"]["location"] = "clip.safetensors"
    project.params.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ValueError, match=r"zero_shot\.location: clip\.safetensors is missing"):
        CliRunner().invoke(app, ["prompts", "search", "textile"], catch_exceptions=False)
    assert not chosen_path(project.root / "prompts", "textile").exists()
