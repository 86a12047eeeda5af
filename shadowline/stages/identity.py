"""`shadowline stage identity --class C`: the identity of one class, by which images without a class find theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Split
from shadowline.data.manifest import read_manifest
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.keys import ids_of, train_keys
from shadowline.models.class_identification import ClassIdentity, embed

_CHUNK = 16  # images that are in memory at once


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> ClassIdentity:
    """Known defects are images of the class as well: they widen the Gaussian. The p-values come from val alone."""
    features = FeatureFile(layout.features(class_name))
    manifest = read_manifest([layout.manifest(class_name)])
    defects = [FeatureKey(image_id) for image_id in ids_of(manifest, Split.TUNE)]
    identity = ClassIdentity.fit(
        embed_all(features, [*train_keys(class_name, manifest, params), *defects]).numpy(),
        embed_all(features, [FeatureKey(image_id) for image_id in ids_of(manifest, Split.VAL)]).numpy(),
        params.identification,
        class_name=class_name,
        fingerprint=features.fingerprint,
    )
    identity.save(layout.identity(class_name))
    return identity


def embed_all(features: FeatureFile, keys: Sequence[FeatureKey]) -> Tensor:
    """Embeddings of cached images, in their order: (N, D)."""
    chunks = [keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK)]
    _, _, _, D = features.shape
    parts = [embed(features.fetch(chunk), features.num_prefix) for chunk in chunks]
    return torch.cat(parts) if parts else torch.empty(0, D)
