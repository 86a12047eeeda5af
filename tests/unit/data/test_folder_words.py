"""What a folder's name says does not depend on how it is written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowline.data.labels import Split
from shadowline.data.sources.folder_words import (
    Meaning,
    is_system_file,
    is_system_folder,
    meaning_of,
    misspelt_normal,
    split_of,
)

NORMAL = (
    "good",
    "OK",
    "normal",
    "pass",
    "defect-free",
    "no defects",
    "gut",
    "i.O.",
    "fehlerfrei",
    "정상",
    "양품",
    "합격",
)
DEFECT = ("bad", "NG", "KO", "nok", "not good", "reject", "schlecht", "n.i.O.", "Ausschuss", "불량", "결함", "불합격")
MASKS = ("ground_truth", "Ground Truth", "GT", "masks", "Masken", "마스크")


@pytest.mark.parametrize(
    ("names", "meaning"), [(NORMAL, Meaning.NORMAL), (DEFECT, Meaning.DEFECT), (MASKS, Meaning.MASKS)]
)
def test_a_name_says_what_its_word_means(names: tuple[str, ...], meaning: Meaning) -> None:
    assert {name: meaning_of(name) for name in names} == dict.fromkeys(names, meaning)


@given(
    st.sampled_from([*NORMAL, *DEFECT, *MASKS]),
    st.sampled_from([str.lower, str.upper, str.title, str.swapcase]),
    st.sampled_from(["NFC", "NFD"]),
    st.sampled_from(["", "01_", "  ", "(2) ", "#"]),
    st.sampled_from(["", "_images", " 3", "-Bilder", "_2026-01-05"]),
)
def test_case_digits_punctuation_and_encoding_change_nothing(word, case, form, before, after) -> None:
    assert meaning_of(unicodedata.normalize(form, before + case(word) + after)) is meaning_of(word)


@pytest.mark.parametrize(
    "name",
    ["crack", "wood", "gold", "broken_large", "good_and_bad", "okra", "Kratzer", "0", "긁힘", "metal_contamination"],
)
def test_another_name_is_a_kind_of_defect(name: str) -> None:
    assert meaning_of(name) is None and misspelt_normal(name) is None


def test_labels_are_masks_beside_the_kinds_and_a_defect_among_them() -> None:
    assert meaning_of("labels") is Meaning.MASKS
    assert meaning_of("label", at_top=False) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", Split.TRAIN),
        ("Training", Split.TRAIN),
        ("학습", Split.TRAIN),
        ("val", Split.VAL),
        ("validation", Split.VAL),
        ("TEST", Split.TEST),
        ("test_public", Split.TEST),
        ("test_private_mixed", Split.STREAM),
        ("good", None),
        ("trains", None),
    ],
)
def test_a_split_is_named_by_its_word(name: str, split: Split | None) -> None:
    assert split_of(name) is split


def test_what_a_system_keeps_is_known_by_name() -> None:
    folders = ("@eaDir", "__MACOSX", ".git", "lost+found", "$RECYCLE.BIN", "#recycle", "System Volume Information")
    files = ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini", "~$parts.xlsx", "SYNOFILE_THUMB_M_0.jpg", "Icon\r")
    assert all(map(is_system_folder, folders)) and all(map(is_system_file, files))
    assert not any(map(is_system_folder, ("good", "@home", "recycle"))) and not is_system_file("thumbs.png")
