"""What the decoder learns from: a class's training and validation keys in the feature cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.labels import Split
from shadowline.data.manifest import read_manifest
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.keys import ids_of, train_keys


class TokenSource(Protocol):
    """Gives the fused features of images: from the cache, or from the encoder itself."""

    @property
    def fingerprint(self) -> str: ...  # of the encoder

    def fetch(self, keys: Sequence[FeatureKey]) -> Tensor: ...


@dataclass(frozen=True)
class ClassData:
    """The images of one class that training may see."""

    source: TokenSource
    train: tuple[FeatureKey, ...]
    val: tuple[FeatureKey, ...]


def class_data(class_name: str, params: Params, layout: Layout) -> ClassData:
    """What training may see of a class: its train rows with their declared views, and val to stop on.

    Images that came after the last full retraining (`bank_only`) are not among them.
    """
    manifest = read_manifest([layout.manifest(class_name)])
    manifest = manifest[~manifest["bank_only"]]
    return ClassData(
        source=FeatureFile(layout.features(class_name)),
        train=tuple(train_keys(class_name, manifest, params)),
        val=tuple(FeatureKey(image_id) for image_id in ids_of(manifest, Split.VAL)),
    )
