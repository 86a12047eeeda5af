"""Images that come after a class's source: kept once, named by their content, in one split each."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures.effort import examples
from fixtures.learning import ROOT
from shadowline.core.layout import Layout
from shadowline.core.params import AdditionParams, Params, load_params
from shadowline.core.progress import Progress
from shadowline.data.additions import Additions, KnownImage, Offer, known_images
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import content_id, read_manifest
from shadowline.data.splits import assign_pools, assign_splits
from shadowline.records.label_settlement import settle_label
from shadowline.records.traces import LabelEvent
from shadowline.stages.import_class import ImportReport, run

DATA = load_params(ROOT / "params.yaml").data
NOW = datetime(2026, 7, 1, 6, tzinfo=UTC)
LABELS = [Label.NORMAL, Label.NORMAL, Label.ANOMALOUS]


def png(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def offers(*images: tuple[int, str]) -> list[Offer]:
    return [
        Offer(f"{seed}.png", kind, lambda limit, seed=seed: png(seed)[:limit], f"/new/{seed}.png")  # type: ignore[misc]
        for seed, kind in images
    ]


# --- splits ----------------------------------------------------------------------------------------------------------


def table(source: int, later: int, *, bank_only: bool, seed: int = 0) -> pd.DataFrame:
    """Rows as the import hands them on: so many of the source, undated, and so many that came later."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(source + later):
        is_later = number >= source
        label = LABELS[number % 3]
        rows.append(
            {
                "image_id": hashlib.sha256(f"{seed}/{number}".encode()).hexdigest(),
                "label": str(label),
                "defect_type": "hole" if label is Label.ANOMALOUS else "",
                "split_hint": "",
                "received_at": NOW + timedelta(days=number) if is_later else pd.NaT,
                "captured_at": pd.NaT,
                "bank_only": is_later and bank_only,
                **dict(zip(("brightness", "contrast", "sharpness"), random.uniform(0, 1, 3), strict=True)),
            }
        )
    return pd.DataFrame(rows)


def sized(**maxima: int) -> object:
    return DATA.model_copy(update={"min_val": 0, **maxima})


def splits_of(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["image_id"], frame["split"], strict=True))


@settings(max_examples=examples(60), deadline=None)
@given(source=st.integers(1, 60), later=st.integers(0, 60), maximum=st.integers(1, 30), seed=st.integers(0, 5))
def test_images_for_the_bank_alone_move_no_image_of_the_source(source: int, later: int, maximum: int, seed: int):
    params = sized(max_train=maximum, max_val=maximum, max_test_normal=maximum, max_test_anomalous=maximum, max_tune=9)
    frame = table(source, later, bank_only=True, seed=seed)
    alone = splits_of(assign_splits(frame.iloc[:source], params, 7))  # type: ignore[arg-type]
    together = splits_of(assign_splits(frame, params, 7))  # type: ignore[arg-type]
    assert {image_id: together[image_id] for image_id in alone} == alone


@settings(max_examples=examples(60), deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5), maximum=st.integers(1, 30), seed=st.integers(0, 5))
def test_an_image_that_was_in_a_split_is_never_in_another_one(sizes: list[int], maximum: int, seed: int):
    """However many come later, and whether or not a retraining has taken them in."""
    params = sized(max_train=maximum, max_val=maximum, max_test_normal=maximum, max_test_anomalous=maximum, max_tune=9)
    frame, first = table(30, sum(sizes), bank_only=False, seed=seed), 30
    places: dict[str, set[str]] = {}
    for size in sizes:
        for bank_only in (True, False):
            known = frame.iloc[: first + size].copy()
            known.loc[known.index[first:], "bank_only"] = bank_only
            for image_id, split in splits_of(assign_splits(known, params, 7)).items():  # type: ignore[arg-type]
                places.setdefault(image_id, set()).add(split)
        first += size
    assert all(len(found - {Split.STREAM}) <= 1 for found in places.values())


def test_where_there_are_more_than_may_train_half_are_the_newest_and_half_differ_most() -> None:
    frame = table(0, 90, bank_only=False).assign(split_hint="train", label="normal", defect_type="")
    frame.loc[3, "brightness"] = 40.0  # a camera of its own
    result = assign_splits(frame, sized(max_train=20), 7)  # type: ignore[arg-type]
    used = set(result.index[result["split"] == Split.TRAIN])
    assert len(used) == 20
    assert set(range(80, 90)) <= used and 3 in used


def test_images_of_the_source_are_older_than_all_that_came_later() -> None:
    frame = table(60, 10, bank_only=False).assign(split_hint="train", label="normal", defect_type="")
    result = assign_splits(frame, sized(max_train=12), 7)  # type: ignore[arg-type]
    of_later = result[result["received_at"].notna() & (result["split"] == Split.TRAIN)]
    assert len(of_later) >= 6


def test_without_dates_the_choice_is_by_hash_as_it_has_always_been() -> None:
    """The demo's splits: of 240 images, as they were before any image could come later."""
    frame = table(240, 0, bank_only=False)
    params = sized(max_train=60, max_val=12, max_test_normal=20, max_test_anomalous=30, max_tune=10)
    result = assign_splits(frame[["image_id", "label", "defect_type", "split_hint"]], params, 7)  # type: ignore[arg-type]
    text = "\n".join(f"{image_id} {split}" for image_id, split in sorted(splits_of(result).items()))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2133efa919dfaf6f2fe6bf43a427f83188a9c488da0412a45aa54b90f691d200"
    )
    assert list(assign_splits(frame, params, 7)["split"]) == list(result["split"])  # type: ignore[arg-type]


def test_normals_of_production_only_train() -> None:
    frame = table(0, 60, bank_only=False).assign(split_hint="train", label="normal", defect_type="")
    assert set(assign_pools(frame, DATA, 7)) == {Split.TRAIN}


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_images_are_kept_once_and_a_list_is_named_by_its_content(tmp_path: Path) -> None:
    additions = Additions(tmp_path, "bolt")
    intake = additions.keep(offers((1, "good"), (2, "crack"), (1, "good")), {}, DATA, NOW)
    assert (len(intake.new), intake.num_known, intake.refused) == (2, 1, ())
    index = additions.write(intake.new)
    assert additions.read(index) == tuple(sorted(intake.new, key=lambda addition: addition.image_id))
    assert hashlib.sha256((tmp_path / f"bolt/{index}.json").read_bytes()).hexdigest() == index
    images = {image.image_id: image for image in additions.images(index, bank_only=True)}
    crack = images[content_id(png(2))]
    assert (crack.label, crack.defect_type, crack.received_at, crack.bank_only) == ("anomalous", "crack", NOW, True)
    assert crack.read(1 << 20) == png(2)


def test_what_was_changed_or_is_gone_is_said_and_not_used(tmp_path: Path) -> None:
    additions = Additions(tmp_path, "bolt")
    index = additions.write(additions.keep(offers((1, "good")), {}, DATA, NOW).new)
    (path,) = (tmp_path / "bolt/images").iterdir()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="restore it from a backup"):
        additions.check([index])
    (tmp_path / f"bolt/{index}.json").write_text("[]")
    with pytest.raises(ValueError, match="not what its name says; restore a backup"):
        additions.read(index)
    with pytest.raises(FileNotFoundError, match=r"params\.yaml names it; restore a backup"):
        additions.read("0" * 64)


def test_an_image_of_another_class_or_with_another_label_is_refused_by_name(tmp_path: Path) -> None:
    held = {1: KnownImage("nut", "normal"), 2: KnownImage("bolt", "anomalous"), 3: KnownImage("bolt", "unknown")}
    known = {content_id(png(seed)): image for seed, image in held.items()}
    offered = offers((1, "good"), (2, "good"), (3, "good"), (4, "good"), (4, "crack"))
    intake = Additions(tmp_path, "bolt").keep(offered, known, DATA, NOW)
    assert intake.refused == (
        "1.png: the same image is in class 'nut'; an image belongs to one class",
        "2.png: comes as normal, and is in the class as anomalous; correct one of the two labels",
        "4.png: comes as anomalous, and is in the class as normal; correct one of the two labels",
    )
    assert (len(intake.new), intake.num_known) == (1, 1)


# --- the import ------------------------------------------------------------------------------------------------------


def imported(root: Path, *additions: AdditionParams, **maxima: int) -> tuple[ImportReport, pd.DataFrame, Params]:
    raw = load_params(ROOT / "params.yaml").model_dump()
    entry = {"source": "folder", "location": "source", "additions": [addition.model_dump() for addition in additions]}
    raw["classes"], raw["train"]["classes"] = {"bolt": entry}, ["bolt"]
    raw["data"].update({"injected_test": 0, "min_val": 0, **maxima})
    params = Params.model_validate(raw)
    report = run("bolt", params, Layout(root), Progress())
    return report, read_manifest([Layout(root).manifest("bolt")]), params


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source/bolt/train/good"
    folder.mkdir(parents=True)
    for seed in range(40):
        (folder / f"{seed:03d}.png").write_bytes(png(seed))
    return tmp_path


def test_the_manifest_says_what_came_later_and_the_report_how_many_train(source: Path) -> None:
    _, old, _ = imported(source)
    store = Additions(Layout(source).additions, "bolt")
    intake = store.keep(offers(*((seed, "good") for seed in range(100, 130))), {}, DATA, NOW)
    index = store.write(intake.new)
    report, rows, params = imported(source, AdditionParams(index=index))
    later = rows[rows["bank_only"]]
    assert set(later["image_id"]) == {addition.image_id for addition in intake.new}
    assert later["source"].str.fullmatch(rf"addition:{index[:12]}//new/1\d\d\.png").all()
    pd.testing.assert_frame_equal(rows[~rows["bank_only"]].reset_index(drop=True), old)
    used = rows[rows["split"] == "train"]
    num_later = used["bank_only"].sum()
    num_train = len(used) - num_later
    assert report.training_images == (
        f"{num_train} of {num_train} training images used; {num_later} of {num_later} that came later are in the bank "
        "alone until the next retraining"
    )
    assert set(known_images(params.classes, Layout(source))) == set(rows["image_id"])


def test_an_image_that_is_put_into_the_source_as_well_keeps_its_split(source: Path) -> None:
    store = Additions(Layout(source).additions, "bolt")
    index = store.write(store.keep(offers(*((seed, "good") for seed in range(100, 130))), {}, DATA, NOW).new)
    trained = AdditionParams(index=index, trained=True)
    _, before, _ = imported(source, trained)
    for seed in range(100, 130):
        (source / f"source/bolt/train/good/{seed}.png").write_bytes(png(seed))
    report, after, _ = imported(source, trained)
    pd.testing.assert_frame_equal(after, before)
    assert len(report.duplicates) == 30


def test_the_report_says_how_the_images_were_chosen(source: Path) -> None:
    report, _, _ = imported(source, max_train=10)
    assert report.training_images == "10 of 24 training images used: chosen by content hash, no dates"
    store = Additions(Layout(source).additions, "bolt")
    index = store.write(store.keep(offers((100, "good"), (101, "good")), {}, DATA, NOW).new)
    report, _, _ = imported(source, AdditionParams(index=index, trained=True), max_train=10)
    assert report.training_images.endswith("training images used: the newest half, and those that differ most")


# --- labels ----------------------------------------------------------------------------------------------------------


def said(*words: tuple[str, str]) -> list[LabelEvent]:
    return [LabelEvent(label, by, NOW + timedelta(hours=n), "", False) for n, (by, label) in enumerate(words)]


@pytest.mark.parametrize(
    ("words", "label", "was_changed"),
    [
        ([("Ada", "normal")], "normal", False),
        ([("Ada", "normal"), ("Bo", "normal")], "normal", False),
        ([("Ada", "normal"), ("Ada", "anomalous")], "anomalous", True),
        ([("Ada", "normal"), ("Bo", "anomalous"), ("Ada", "anomalous")], "anomalous", True),
        ([("Ada", "normal"), ("Bo", "anomalous")], None, False),
        ([("Ada", "normal"), ("Bo", "normal"), ("Ada", "anomalous")], None, False),
    ],
)
def test_the_latest_word_of_each_inspector_counts_and_where_they_differ_nobody_learns(
    words: list[tuple[str, str]], label: str | None, was_changed: bool
) -> None:
    settled = settle_label(said(*words))
    assert (settled.label if settled else None) == label
    assert settled is None or settled.was_changed == was_changed
