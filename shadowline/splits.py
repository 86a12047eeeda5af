"""Which images train, calibrate, test and play production: by hash, so that new images move few of the old ones.

Images are ranked by sha256("seed:image_id"), a fixed shuffle in which each image keeps its place whatever else comes.
Every split is a stretch of that ranking, so one new image moves at most one other over each boundary.
"""

from __future__ import annotations

import hashlib
import math

import pandas as pd

from shadowline.manifest import Label, Split
from shadowline.params import DataParams

_NEEDED = ("image_id", "label", "defect_type", "split_hint")


def assign_splits(frame: pd.DataFrame, params: DataParams, seed: int) -> pd.DataFrame:
    """`frame` of one class with a column `split`; needs image_id (unique), label, defect_type, split_hint.

    1. normal with a hint: there. Where the source has no validation images, `val_share` of its train ones is val.
    2. normal without: `test_share` is test, `val_share` of the rest is val, what remains is train.
    3. anomalous: test, in turns over the defect types, so that each is there; what is left, tune; never train or val.
    4. unknown, hinted as stream, or over a split's maximum: stream.

    Raises ValueError for missing columns, repeated images and unknown words.
    """
    _check(frame)
    ranked = frame.reset_index(drop=True)
    ranked = ranked.assign(rank=[_rank(seed, image_id) for image_id in ranked["image_id"]]).sort_values("rank")
    wanted = _wanted_splits(ranked, params)
    normal, anomalous = ranked["label"] == Label.NORMAL, ranked["label"] == Label.ANOMALOUS
    split = pd.Series(Split.STREAM.value, index=ranked.index)
    for name, rows, maximum in (
        (Split.TRAIN, wanted == Split.TRAIN, params.max_train),
        (Split.VAL, wanted == Split.VAL, params.max_val),
        (Split.TEST, normal & (wanted == Split.TEST), params.max_test_normal),
        (Split.TUNE, anomalous & (wanted == Split.TEST), params.max_test_anomalous + params.max_tune),
        (Split.TEST, anomalous & (wanted == Split.TEST), params.max_test_anomalous),  # takes the first of them back
    ):
        split[_in_turns(ranked[rows]).index[:maximum]] = name.value
    return frame.assign(split=split.sort_index().to_numpy())


def _wanted_splits(ranked: pd.DataFrame, params: DataParams) -> pd.Series:
    """Where each row would go if no split had a maximum."""
    hint = ranked["split_hint"].fillna("")
    normal = ranked["label"] == Label.NORMAL
    wanted = hint.where(normal, Split.TEST).mask(hint == Split.STREAM, Split.STREAM)
    wanted = wanted.mask(ranked["label"] == Label.UNKNOWN, Split.STREAM)

    free = wanted.index[wanted == ""]
    num_test = _count(params.test_share, len(free))
    num_val = _count(params.val_share, len(free) - num_test)
    wanted[free[:num_test]] = Split.TEST
    wanted[free[num_test : num_test + num_val]] = Split.VAL
    wanted[free[num_test + num_val :]] = Split.TRAIN

    hinted_train = ranked.index[normal & (hint == Split.TRAIN)]
    if not (normal & (hint == Split.VAL)).any():
        wanted[hinted_train[: _count(params.val_share, len(hinted_train))]] = Split.VAL
    return wanted


def _in_turns(ranked: pd.DataFrame) -> pd.DataFrame:
    """Round-robin over the defect types, by rank within each; with one type (normals), the ranking itself."""
    turn = ranked.groupby("defect_type").cumcount()
    return ranked.assign(turn=turn).sort_values(["turn", "rank"])


def shared_content(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a manifest whose image_id is in more than one class or split, equal ones together."""
    images = frame.groupby("image_id")
    shared = (images["class_name"].transform("nunique") > 1) | (images["split"].transform("nunique") > 1)
    return frame[shared].sort_values(["image_id", "class_name", "split"]).reset_index(drop=True)


def _rank(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).hexdigest()


def _count(share: float, total: int) -> int:
    """`share` of `total`, rounded half up: one more in total is at most one more in the share."""
    return math.floor(share * total + 0.5)


def _check(frame: pd.DataFrame) -> None:
    missing = sorted(set(_NEEDED) - set(frame.columns))
    if missing:
        raise ValueError(f"images to split: no columns {missing}, need {list(_NEEDED)}")
    repeated = frame["image_id"][frame["image_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"images to split: {len(repeated)} repeated, first {repeated.iloc[0]}; drop duplicates before")
    for column, words in (("label", set(Label)), ("split_hint", {*Split, ""})):
        unknown = sorted(set(frame[column].dropna()) - words)
        if unknown:
            raise ValueError(f"images to split: {column} {unknown}, expected one of {sorted(words)}")
