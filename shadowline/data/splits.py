"""Which images train, calibrate, test and play production: by hash, so that new images move few of the old ones.

    pools = assign_pools(frame, params, seed)      # the split that each image may enter, whatever the maxima are
    splits = assign_splits(frame, params, seed)    # the same, with every split cut to its maximum
    newest_and_most_different(frame, 200, seed)    # the cut alone

Images of a class's source are ranked by sha256("seed:image_id"), a fixed shuffle in which each image keeps its place
whatever else comes. Every pool is a stretch of that ranking, so one new image moves at most one other over each
boundary. The pool of an image that came later follows from its content alone, and moves no other image.

Where a pool holds more than its split may, half of the split is for the newest images and the other half for those
that differ most (k-center greedy, Gonzalez 1985, on brightness, contrast and sharpness); without dates, the ranking
decides alone. Images leave a split for `stream` only, never for another split.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from shadowline.core.params import DataParams
from shadowline.core.robust import robust_sigmas
from shadowline.data.labels import Label, Split

_NEEDED = ("image_id", "label", "defect_type", "split_hint")
_OPTIONAL: dict[str, Any] = {
    "bank_only": False,
    "captured_at": pd.NaT,
    "received_at": pd.NaT,
}  # of images of the source, undated
_STATISTICS = ["brightness", "contrast", "sharpness"]
_HASH_RANGE = 2**256


def assign_splits(frame: pd.DataFrame, params: DataParams, seed: int) -> pd.DataFrame:
    """`frame` of one class with a column `split`: each image's pool, or `stream` where the pool exceeds its maximum.

    Needs image_id (unique), label, defect_type and split_hint. Optional columns: `received_at`, set for images that
    came after the class's source; `captured_at`; `bank_only`, true for images that the decoder must not learn from
    yet: they come on top of the others, each split with the same maximum once more, and move none of them.

    Raises ValueError for missing columns, repeated images, and unknown labels or hints.
    """
    ranked = _ranked(frame, seed)
    split = pd.Series(Split.STREAM.value, index=ranked.index)
    pool = _pools(ranked, params)
    for _, rows in ranked.groupby("bank_only"):
        anomalous = rows["label"] == Label.ANOMALOUS
        for name, maximum, is_labelled in (
            (Split.TRAIN, params.max_train, ~anomalous),
            (Split.VAL, params.max_val, ~anomalous),
            (Split.TEST, params.max_test_normal, ~anomalous),
            (Split.TEST, params.max_test_anomalous, anomalous),
            (Split.TUNE, params.max_tune, anomalous),
        ):
            candidates = rows[is_labelled & (pool[rows.index] == name)]
            split[_choose(candidates, maximum)] = name.value
    return frame.assign(split=split.sort_index().to_numpy())


def newest_and_most_different(frame: pd.DataFrame, maximum: int, seed: int) -> pd.DataFrame:
    """At most `maximum` rows of `frame`, chosen as a split's images are; needs the columns of `assign_splits`."""
    return frame.iloc[sorted(_choose(_ranked(frame, seed), maximum))]


def assign_pools(frame: pd.DataFrame, params: DataParams, seed: int) -> pd.Series:
    """The split that each row of `frame` may enter, in its order; see `assign_splits`.

    Of the source:
    1. normal with a hint: there. Where the source has no normal test images, `test_share` of its train ones is test;
       where it has no validation images, `val_share` of the rest is val.
    2. normal without: `test_share` is test, `val_share` of the rest is val, what remains is train.
    In both, `val_share` gives way to `min_val` images, as long as half of the rest remains for train.
    3. anomalous: test, in turns over the defect types, so that each is there, up to the maximum; what is left, tune;
       never train or val.
    4. unknown, or hinted as stream: stream.
    Of what came later, by the image's own place in the shuffle: normals without a hint as in 2, defects test and tune
    in the ratio of the two maxima.
    """
    ranked = _ranked(frame, seed)
    return pd.Series(_pools(ranked, params).sort_index().to_numpy(), index=frame.index)


def _ranked(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows in the order of the shuffle, with all optional columns; the index counts rows of `frame`.

    `rank` is an image's place in the shuffle, `turn` its place among the images of its label and defect type.
    """
    _check(frame)
    missing = {name: value for name, value in _OPTIONAL.items() if name not in frame}
    ranked = frame.assign(**missing).reset_index(drop=True)
    ranked = ranked.assign(rank=[_rank(seed, image_id) for image_id in ranked["image_id"]]).sort_values("rank")
    is_stream = ranked["split_hint"] == Split.STREAM
    return ranked.assign(turn=ranked.groupby(["label", "defect_type", is_stream]).cumcount())


def _pools(ranked: pd.DataFrame, params: DataParams) -> pd.Series:
    came_later = ranked["received_at"].notna()
    pool = _pools_of_source(ranked[~came_later], params)
    later = _pools_of_later(ranked[came_later], params)
    return pd.Series(pd.concat([pool, later]).reindex(ranked.index))


def _pools_of_source(ranked: pd.DataFrame, params: DataParams) -> pd.Series:
    hint = ranked["split_hint"].fillna("")
    normal, anomalous = ranked["label"] == Label.NORMAL, ranked["label"] == Label.ANOMALOUS
    wanted = hint.where(normal, Split.STREAM.value)

    num_of = {split: int((wanted == split).sum()) for split in (*Split, "")}
    for own_hint in ("", Split.TRAIN):
        images = ranked.index[normal & (hint == own_hint)]
        num_test, num_val = num_held_out(own_hint, num_of, params)
        wanted[images[:num_test]] = Split.TEST.value
        wanted[images[num_test : num_test + num_val]] = Split.VAL.value
        wanted[images[num_test + num_val :]] = Split.TRAIN.value

    defects = ranked[anomalous & (hint != Split.STREAM)].sort_values("turn", kind="stable").index
    wanted[defects[: params.max_test_anomalous]] = Split.TEST.value
    wanted[defects[params.max_test_anomalous :]] = Split.TUNE.value
    return wanted


def num_held_out(hint: str, num_of: Mapping[str, int], params: DataParams) -> tuple[int, int]:
    """How many of a source's normals with `hint` ("" or train) are held out for test and for val.

    `num_of`: hint → normals of the source.
    """
    is_free = hint == ""
    total = num_of[hint]
    needs_test = is_free or not (num_of[Split.TEST] or num_of[""])
    num_test = _count(params.test_share, total) if needs_test else 0
    if not is_free and num_of[Split.VAL]:
        return num_test, 0
    rest = total - num_test
    return num_test, max(_count(params.val_share, rest), min(params.min_val, rest // 2))


def _pools_of_later(ranked: pd.DataFrame, params: DataParams) -> pd.Series:
    place = ranked["rank"].map(lambda rank: int(rank, 16) / _HASH_RANGE).astype(float)
    test_end = params.test_share
    val_end = test_end + params.val_share * (1 - test_end)
    by_place = np.select([place < test_end, place < val_end], [Split.TEST.value, Split.VAL.value], Split.TRAIN.value)
    hint = ranked["split_hint"].fillna("")
    wanted = hint.where(hint != "", by_place)
    test_of_defects = params.max_test_anomalous / (params.max_test_anomalous + params.max_tune)
    of_defects = np.where(place < test_of_defects, Split.TEST.value, Split.TUNE.value)
    wanted = wanted.mask(ranked["label"] == Label.ANOMALOUS, of_defects)
    return wanted.mask(ranked["label"] == Label.UNKNOWN, Split.STREAM.value)


def _choose(candidates: pd.DataFrame, maximum: int) -> pd.Index:
    """At most `maximum` rows of one pool, which come in the order of the shuffle."""
    date = _dates(candidates)
    if date.isna().all() or len(candidates) <= maximum:
        return candidates.sort_values("turn", kind="stable").index[:maximum]
    newest_first = candidates.loc[date.sort_values(ascending=False, kind="stable", na_position="last").index]
    if candidates["defect_type"].nunique() > 1:
        turn = newest_first.groupby("defect_type").cumcount()
        return turn.sort_values(kind="stable").index[:maximum]
    newest = newest_first.index[: math.ceil(maximum / 2)]
    return newest.append(_most_different(candidates, newest, maximum - len(newest)))


def _dates(rows: pd.DataFrame) -> pd.Series:
    """When an image was taken, or else when it was received; NaT where both are unknown."""
    captured, received = (pd.to_datetime(rows[name], utc=True) for name in ("captured_at", "received_at"))
    return captured.fillna(received)


def _most_different(candidates: pd.DataFrame, chosen: pd.Index, count: int) -> pd.Index:
    """`count` rows beside the chosen ones, each as far as possible from all before it; ties go to the first row."""
    values_NS = _standardised(candidates[_STATISTICS].to_numpy(dtype=np.float64))
    position = {label: number for number, label in enumerate(candidates.index)}
    distance_N = np.full(len(values_NS), np.inf)
    for label in chosen:
        distance_N = np.minimum(distance_N, np.linalg.norm(values_NS - values_NS[position[label]], axis=1))
    distance_N[[position[label] for label in chosen]] = -np.inf
    added: list[int] = []
    for _ in range(count):
        farthest = int(np.argmax(distance_N))
        added.append(farthest)
        distance_N = np.minimum(distance_N, np.linalg.norm(values_NS - values_NS[farthest], axis=1))
        distance_N[farthest] = -np.inf
    return candidates.index[added]


def _standardised(values_NS: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each statistic in robust sigmas around its median; 0 for a statistic that does not vary."""
    centred_NS = values_NS - np.median(values_NS, axis=0)
    sigma_S = robust_sigmas(values_NS)
    sigma_S = np.where(sigma_S > 0, sigma_S, np.std(values_NS, axis=0))
    return centred_NS / np.where(sigma_S > 0, sigma_S, 1.0)


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
    for column, allowed in (("label", set(Label)), ("split_hint", {*Split, ""})):
        unknown = sorted(set(frame[column].dropna()) - allowed)
        if unknown:
            raise ValueError(f"images to split: {column} {unknown}, expected one of {sorted(allowed)}")


def halve(image_ids: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Split val in a selecting and a calibrating half by hash: disjoint, complete, independent of the order."""
    ranked = sorted(image_ids, key=lambda image_id: hashlib.sha256(f"{seed}:half:{image_id}".encode()).digest())
    middle = len(ranked) // 2
    return sorted(ranked[:middle]), sorted(ranked[middle:])
