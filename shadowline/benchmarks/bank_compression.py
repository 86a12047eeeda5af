"""The quality of smaller banks: every format of models/gaussian_bank/covariance.py on the same test images.

    bench_compression(params, layout, progress, ranks=(16, 32, 64, 128))

Each format is judged twice: with the calibration that the class has, as if only its bank's file were replaced,
and with one that is fitted anew on val, as the pipeline would. B images · M maps · P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score
from torch import Tensor

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.data.splits import halve
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.keys import defect_keys, ids_of
from shadowline.models.calibration import Calibration, calibrate, raw_maps
from shadowline.models.calibration_file import load_calibration
from shadowline.models.dinomaly.model import load_decoder
from shadowline.models.gaussian_bank.bank import Bank, Moments
from shadowline.models.gaussian_bank.covariance import CovarianceFormat

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_SELECTING, _CALIBRATING, _TEST = "selecting", "calibrating", "test"


@dataclass(frozen=True)
class Quality:
    """Quality of the decisions on test."""

    auroc: float
    false_alarms: float  # share of normal images
    misses: float  # share of anomalous images


@dataclass(frozen=True)
class CompressedQuality:
    """One class's bank in one format."""

    class_name: str
    storage: CovarianceFormat
    rank: int | None  # of low_rank
    num_bytes: int  # of the bank
    distance_error: float  # largest over patches of test: |distance / exact distance − 1|
    bank_auroc: float  # of the bank alone, calibration kept
    kept: Quality  # full model, calibration of the class as it is
    refitted: Quality  # full model, recipe and threshold fitted anew


def bench_compression(
    params: Params, layout: Layout, progress: Progress, *, ranks: Sequence[int]
) -> list[CompressedQuality]:
    """All classes of `params`, every format; raises ValueError for a rank beyond the width of the features."""
    formats = [
        (CovarianceFormat.FLOAT32, None),
        (CovarianceFormat.FLOAT16, None),
        *((CovarianceFormat.LOW_RANK, rank) for rank in ranks),
    ]
    results = []
    with progress.task("compression", total=len(params.classes) * len(formats)) as task:
        for name in sorted(params.classes):
            bench = _ClassBench(name, params, layout)
            for storage, rank in formats:
                results.append(bench.judge(storage, rank))
                task.advance()
    return results


class _ClassBench:
    """The images that select, calibrate and test one class; what does not depend on the bank is computed once."""

    def __init__(self, name: str, params: Params, layout: Layout) -> None:
        self._name, self._params = name, params
        manifest = read_manifest([layout.manifest(name)]).set_index("image_id", drop=False)
        self._exact = _fit(name, params, layout)
        self._kept = load_calibration(name, layout)
        selecting, calibrating = halve(ids_of(manifest, Split.VAL), params.seed)
        test = ids_of(manifest, Split.TEST)
        self._anomalous: Bools = (manifest.loc[test, "label"] == Label.ANOMALOUS).to_numpy()
        plain = {_SELECTING: selecting, _CALIBRATING: calibrating, _TEST: test}
        self._defects = defect_keys(manifest, params)
        parts = {part: [FeatureKey(image_id) for image_id in ids] for part, ids in plain.items()} | self._defects
        features = FeatureFile(layout.features(name))
        decoder, spec = load_decoder(layout.decoder_weights)
        self._num_prefix = spec.num_prefix
        self._fused: dict[str, Tensor] = {part: features.fetch(keys) for part, keys in parts.items()}
        self._maps = {part: raw_maps(x, decoder, self._exact, spec.num_prefix) for part, x in self._fused.items()}

    def judge(self, storage: CovarianceFormat, rank: int | None) -> CompressedQuality:
        bank = self._exact.compressed(storage, rank or 1)
        maps = {part: self._with_bank(part, bank) for part in self._fused}
        defects = {kind: maps[kind] for kind in self._defects}
        refitted = calibrate(
            self._name, maps[_SELECTING], defects, maps[_CALIBRATING], self._params.calibration_of(self._name)
        ).calibration
        test = maps[_TEST]
        alone = self._kept.score_raw(test, self._kept.alone["bank"])
        return CompressedQuality(
            class_name=self._name,
            storage=storage,
            rank=rank,
            num_bytes=bank.num_bytes,
            distance_error=float(np.abs(test[:, 1:] / self._maps[_TEST][:, 1:] - 1.0).max()),
            bank_auroc=float(roc_auc_score(self._anomalous, alone)),
            kept=self._quality(self._kept, test),
            refitted=self._quality(refitted, test),
        )

    def _with_bank(self, part: str, bank: Bank) -> Floats:
        """Raw maps (B, M, P): the decoder's as they are, the others of `bank`."""
        maps = raw_maps(self._fused[part], None, bank, self._num_prefix)
        maps[:, 0] = self._maps[part][:, 0]
        return maps

    def _quality(self, calibration: Calibration, test_BMP: Floats) -> Quality:
        scores = calibration.score_raw(test_BMP)
        flagged = scores > calibration.threshold
        return Quality(
            auroc=float(roc_auc_score(self._anomalous, scores)),
            false_alarms=float(flagged[~self._anomalous].mean()),
            misses=float((~flagged)[self._anomalous].mean()),
        )


def _fit(name: str, params: Params, layout: Layout) -> Bank:
    """The class's bank at full precision, whatever its file holds."""
    stored, moments = Bank.load(layout.bank(name)), Moments.load(layout.moments(name))
    method, num_images = params.bank.shrinkage, stored.num_images
    return Bank.fit(moments, method, num_images=num_images, fingerprint=stored.fingerprint)
