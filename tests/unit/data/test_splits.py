"""Splits are disjoint, complete, capped and stable, whatever images come."""

from __future__ import annotations

import hashlib
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from fixtures.learning import ROOT
from shadowline.core.params import DataParams, load_params
from shadowline.data.labels import Label, Split
from shadowline.data.splits import assign_splits

DATA = load_params(ROOT / "params.yaml").data
CAPS = ("max_train", "max_val", "max_tune", "max_test_normal", "max_test_anomalous")


def images(*groups: tuple[int, str, str, str]) -> pd.DataFrame:
    """Groups of (count, label, defect type, hint)."""
    rows = [group[1:] for group in groups for _ in range(group[0])]
    frame = pd.DataFrame(rows, columns=["label", "defect_type", "split_hint"])
    return frame.assign(image_id=[hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(len(rows))])


def sized(**changes: float) -> DataParams:
    return DataParams.model_validate({**DATA.model_dump(), **changes})


def counts(frame: pd.DataFrame) -> dict[str, int]:
    return dict(Counter(frame["split"]))


@st.composite
def any_images(draw: st.DrawFn) -> pd.DataFrame:
    kinds = [(Label.NORMAL, ""), (Label.UNKNOWN, "")] + [(Label.ANOMALOUS, word) for word in ("crack", "dirt", "hole")]
    group = st.tuples(st.integers(0, 40), st.sampled_from(kinds), st.sampled_from([*Split, ""]))
    return images(*((count, *kind, hint) for count, kind, hint in draw(st.lists(group, max_size=8))))


@st.composite
def any_params(draw: st.DrawFn) -> DataParams:
    shares = {name: draw(st.floats(0, 1)) for name in ("val_share", "test_share")}
    return sized(**shares, **{name: draw(st.integers(1, 60)) for name in CAPS}, min_val=draw(st.integers(0, 60)))


@settings(max_examples=examples(150), deadline=None)
@given(frame=any_images(), params=any_params(), seed=st.integers(0, 9))
def test_every_image_has_one_split_within_the_caps(frame: pd.DataFrame, params: DataParams, seed: int) -> None:
    result = assign_splits(frame, params, seed)
    assert result.drop(columns="split").equals(frame)
    assert set(result["split"]) <= set(Split)
    held = result.groupby(["split", "label"]).size().to_dict()
    assert held.get((Split.TRAIN, Label.NORMAL), 0) <= params.max_train
    assert held.get((Split.VAL, Label.NORMAL), 0) <= params.max_val
    assert held.get((Split.TEST, Label.NORMAL), 0) <= params.max_test_normal
    assert held.get((Split.TEST, Label.ANOMALOUS), 0) <= params.max_test_anomalous
    assert held.get((Split.TUNE, Label.ANOMALOUS), 0) <= params.max_tune
    assert {label for split, label in held if split == Split.TUNE} <= {Label.ANOMALOUS}
    assert {label for split, label in held if split in (Split.TRAIN, Split.VAL)} <= {Label.NORMAL}
    assert {split for split, label in held if label == Label.UNKNOWN} <= {Split.STREAM}


@settings(max_examples=examples(60), deadline=None)
@given(frame=any_images(), params=any_params(), order=st.randoms())
def test_the_order_of_rows_decides_nothing(frame: pd.DataFrame, params: DataParams, order: object) -> None:
    shuffled = list(range(len(frame)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = assign_splits(frame, params, 7), assign_splits(frame.iloc[shuffled], params, 7)
    assert dict(zip(one["image_id"], one["split"], strict=True)) == dict(
        zip(other["image_id"], other["split"], strict=True)
    )


@settings(max_examples=examples(80), deadline=None)
@given(
    supply=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    cap=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_anomalous_test_images_are_even_over_the_defect_types(supply: list[int], cap: int, seed: int) -> None:
    frame = images(*((count, Label.ANOMALOUS, f"type{n}", "") for n, count in enumerate(supply)))
    result = assign_splits(frame, sized(max_test_anomalous=cap), seed)
    taken = Counter(result["defect_type"][result["split"] == Split.TEST])
    assert sum(taken.values()) == min(cap, sum(supply))
    highest = max(taken.values(), default=0)
    for number, count in enumerate(supply):  # a type below the highest by more than 1 has nothing left to give
        assert taken[f"type{number}"] >= highest - 1 or taken[f"type{number}"] == count


@settings(max_examples=examples(80), deadline=None)
@given(num_images=st.integers(1, 200), params=any_params(), hint=st.sampled_from(["", Split.TRAIN]))
def test_one_new_image_moves_at_most_one_other_over_each_boundary(
    num_images: int, params: DataParams, hint: str
) -> None:
    frame = images((num_images + 1, Label.NORMAL, "", hint))
    before = assign_splits(frame.iloc[:-1], params, 7)
    after = assign_splits(frame, params, 7).iloc[:-1]
    num_boundaries = 5  # test | over its maximum | val | over its maximum | train | over its maximum
    assert (before["split"] != after["split"]).sum() <= num_boundaries


def test_without_hints_normals_are_carved_into_test_val_and_train() -> None:
    params = sized(test_share=0.25, val_share=0.2, min_val=0, max_train=1000, max_val=1000, max_test_normal=1000)
    result = assign_splits(images((200, Label.NORMAL, "", ""), (30, Label.ANOMALOUS, "crack", "")), params, 7)
    assert counts(result) == {"test": 50 + 30, "val": 30, "train": 120}


def test_what_is_over_a_maximum_plays_production() -> None:
    caps = {"max_train": 10, "max_val": 5, "max_tune": 4, "max_test_normal": 3, "max_test_anomalous": 2}
    params = sized(test_share=0.25, val_share=0.2, min_val=0, **caps)
    result = assign_splits(images((200, Label.NORMAL, "", ""), (30, Label.ANOMALOUS, "crack", "")), params, 7)
    assert counts(result) == {"train": 10, "val": 5, "tune": 4, "test": 5, "stream": 206}


def test_hints_are_followed_and_only_train_is_carved_for_val() -> None:
    frame = images(
        (50, Label.NORMAL, "", "train"),
        (20, Label.NORMAL, "", "test"),
        (6, Label.NORMAL, "", "stream"),
        (4, Label.ANOMALOUS, "crack", "stream"),
    )
    result = assign_splits(frame, sized(val_share=0.2, min_val=0), 7)
    assert counts(result) == {"train": 40, "val": 10, "test": 20, "stream": 10}
    assert (result["split"][result["split_hint"] == "test"] == "test").all()


def test_a_source_with_its_own_validation_images_keeps_all_its_training_images() -> None:
    frame = images((50, Label.NORMAL, "", "train"), (12, Label.NORMAL, "", "val"), (6, Label.NORMAL, "", "test"))
    assert counts(assign_splits(frame, sized(val_share=0.2), 7)) == {"train": 50, "val": 12, "test": 6}


@pytest.mark.parametrize(("with_val", "train"), [(True, 30), (False, 24)])
def test_a_source_without_normal_test_images_gives_some_of_its_training_images(with_val: bool, train: int) -> None:
    """Without them, false alarms could not be counted."""
    frame = images((40, Label.NORMAL, "", "train"), (9, Label.ANOMALOUS, "crack", "test"))
    if with_val:
        frame = images((40, Label.NORMAL, "", "train"), (9, Label.NORMAL, "", "val"))
    result = assign_splits(frame, sized(test_share=0.25, val_share=0.2, min_val=0), 7)
    assert ((result["split"] == "test") & (result["label"] == "normal")).sum() == 10
    assert (result["split"] == "train").sum() == train


@pytest.mark.parametrize(("num_images", "num_val"), [(400, 80), (209, 51), (102, 51), (60, 30), (1, 0)])
def test_a_small_class_gives_more_to_val_up_to_half_of_its_training_images(num_images: int, num_val: int) -> None:
    frame = images((num_images, Label.NORMAL, "", "train"), (5, Label.NORMAL, "", "test"))
    result = counts(assign_splits(frame, sized(val_share=0.2, min_val=51, max_train=1000), 7))
    assert result.get("val", 0) == num_val
    assert result["train"] == num_images - num_val


def test_an_anomalous_image_in_a_training_folder_is_tested_on_not_trained_on() -> None:
    assert counts(assign_splits(images((9, Label.ANOMALOUS, "crack", "train")), DATA, 7)) == {"test": 9}


def test_another_seed_is_another_split() -> None:
    frame = images((200, Label.NORMAL, "", ""))
    assert (assign_splits(frame, DATA, 7)["split"] != assign_splits(frame, DATA, 8)["split"]).any()


def test_no_images_are_no_splits() -> None:
    assert assign_splits(images(), DATA, 7)["split"].tolist() == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda frame: frame.drop(columns="split_hint"), "no columns \\['split_hint'\\]"),
        (lambda frame: pd.concat([frame, frame]), "3 repeated, first"),
        (lambda frame: frame.assign(label="good"), "label \\['good'\\]"),
        (lambda frame: frame.assign(split_hint="training"), "split_hint \\['training'\\]"),
    ],
)
def test_a_frame_that_breaks_the_contract_is_refused(change: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        assign_splits(change(images((3, Label.NORMAL, "", ""))), DATA, 7)  # type: ignore[operator]
