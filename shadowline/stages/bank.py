"""`shadowline stage bank --class C`: the memory bank of one class, from its training features alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.manifest import read_manifest
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.keys import train_keys
from shadowline.models.gaussian_bank.bank import Bank, Moments
from shadowline.models.gaussian_bank.covariance import CovarianceFormat

_CHUNK = 16  # images that are in memory at once


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> Bank:
    features = FeatureFile(layout.features(class_name))
    keys = train_keys(class_name, read_manifest([layout.manifest(class_name)]), params)
    chunks = [keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK)]
    _, G, _, D = features.shape
    moments = reduce(Moments.__add__, (_moments(features, chunk) for chunk in chunks), Moments.empty(G, D))
    moments.save(layout.moments(class_name))
    fitted = Bank.fit(moments, params.bank.shrinkage, num_images=len(keys), fingerprint=features.fingerprint)
    bank = fitted.compressed(CovarianceFormat(params.bank.storage), params.bank.rank)
    bank.save(layout.bank(class_name))
    return bank


def _moments(features: FeatureFile, keys: Sequence[FeatureKey]) -> Moments:
    patches_BGPD = features.fetch(keys)[:, :, features.num_prefix :]
    B, G, P, D = patches_BGPD.shape
    return Moments.of(patches_BGPD.permute(1, 0, 2, 3).reshape(G, B * P, D).numpy())
