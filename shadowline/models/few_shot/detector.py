"""A detector from 1 to 16 normal images, for the days between a new product's first image and its bank.

    references = encode_references("bolt", images, encoder, params.few_shot.views)
    detector = FewShot.fit("bolt", references, encoder, params.few_shot, target_fpr=0.05)
    detector.save(directory, encoder_directory)
    FewShot.load(directory).score(images) > detector.threshold

The directory holds encoder.safetensors, encoder.json, references.safetensors and config.json, and needs nothing
else. config.json states the false-alarm rate that the threshold guarantees, if any.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict

from shadowline.core.atomic_files import copy_file, read_json, write_json
from shadowline.core.device import pick_device
from shadowline.core.params import ClassName, FewShotParams
from shadowline.data.bit_depth import FULL_DEPTH
from shadowline.features.encoder import Encoder, load_encoder
from shadowline.models.few_shot.model import (
    Basis,
    Distance,
    FewShotReferences,
    distance_map,
    image_score,
    leave_one_out,
    patches_of,
    unit_patches,
)
from shadowline.models.saved_detector import BitDepth

Floats = npt.NDArray[np.float64]

_REFERENCES, _CONFIG = "references.safetensors", "config.json"


class FewShotConfig(BaseModel):
    """Everything that decides besides the references, and the basis of the threshold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["few_shot"] = "few_shot"
    class_name: ClassName
    encoder_fingerprint: str
    distance: Distance
    top_share: float  # of the map that is averaged to the image score
    num_images: int  # references without their views
    views: tuple[str, ...]
    threshold: float  # in the unit of the distance
    target_fpr: float  # the false-alarm rate that was asked for
    promised_fpr: float | None  # guaranteed on exchangeable normals; None: no guarantee
    provisional: bool  # promised_fpr is above target_fpr, or None
    basis: Basis  # whose scores the threshold was taken from
    bit_depth: BitDepth = FULL_DEPTH  # of the class's files


@dataclass(frozen=True, eq=False)
class FewShot:
    """A detector of one class; see `shadowline.models.detector.Detector`. Scores images one by one.

    Raises ValueError where references, encoder and config do not belong together.
    """

    config: FewShotConfig
    references: FewShotReferences
    encoder: Encoder

    def __post_init__(self) -> None:
        _check_class(self.config.class_name, self.references)
        for part, fingerprint in (
            ("references", self.references.fingerprint),
            ("config", self.config.encoder_fingerprint),
        ):
            _check_encoder(part, fingerprint, self.encoder)

    @classmethod
    def fit(
        cls,
        class_name: str,
        references: FewShotReferences,
        encoder: Encoder,
        params: FewShotParams,
        target_fpr: float,
        *,
        bit_depth: int = FULL_DEPTH,
    ) -> FewShot:
        """Set the threshold by leaving each reference out; raises ValueError as `leave_one_out` does."""
        _check_class(class_name, references)
        _check_encoder("references", references.fingerprint, encoder)
        distance = Distance(params.distance)
        rule = leave_one_out(references, distance, params.top_share, target_fpr)
        config = FewShotConfig(
            class_name=class_name,
            encoder_fingerprint=encoder.config.fingerprint,
            distance=distance,
            top_share=params.top_share,
            num_images=references.num_images,
            views=references.views,
            threshold=rule.threshold,
            target_fpr=target_fpr,
            promised_fpr=rule.promised_fpr,
            provisional=rule.provisional,
            basis=rule.basis,
            bit_depth=bit_depth,
        )
        return cls(config, references, encoder)

    @property
    def class_name(self) -> str:
        return self.config.class_name

    @property
    def bit_depth(self) -> int:
        return self.config.bit_depth

    @property
    def threshold(self) -> float:
        return self.config.threshold

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the config, with the encoder's own fingerprint in it, and the references."""
        digest = hashlib.sha256(json.dumps(self.config.model_dump(mode="json"), sort_keys=True).encode())
        digest.update(self.references.fused_NVGPD.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """Image scores (N,), 0…2: 0 for an image that is one of the references."""
        scores = [image_score(self._map_one(image), self.config.top_share) for image in images]
        return np.array(scores, dtype=np.float64)

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """Distance per patch (N, H, W)."""
        side = math.isqrt(self.references.fused_NVGPD.shape[3])
        maps = [self._map_one(image).reshape(side, side) for image in images]
        return np.stack(maps) if maps else np.empty((0, side, side))

    def save(self, directory: Path, encoder_directory: Path) -> None:
        """Write a directory that needs no other; raises ValueError where `encoder_directory` holds another encoder."""
        _check_encoder("detector", self.config.encoder_fingerprint, load_encoder(encoder_directory))
        for name in ("encoder.safetensors", "encoder.json"):
            copy_file(encoder_directory / name, directory / name)
        self.references.save(directory / _REFERENCES)
        write_json(directory / _CONFIG, {**self.config.model_dump(mode="json"), "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, directory: Path) -> FewShot:
        """The inverse of `save`; raises FileNotFoundError, or ValueError where the content is not what was saved."""
        for name in (_REFERENCES, _CONFIG):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory / name}: no such file; not a few-shot detector, or a partial one")
        fields = read_json(directory / _CONFIG)
        expected = fields.pop("fingerprint", None)
        config = FewShotConfig.model_validate(fields)
        detector = cls(config, FewShotReferences.load(directory / _REFERENCES), load_encoder(directory, pick_device()))
        if detector.fingerprint != expected:
            actual = detector.fingerprint[:12]
            raise ValueError(f"{directory}: fingerprint {actual}…, but config.json says {expected}; restore it")
        return detector

    def _map_one(self, image: Image.Image) -> Floats:
        query_GPD = unit_patches(patches_of(image, self.encoder))
        return distance_map(query_GPD, self.references.all_RGPD, self.config.distance)


def _check_class(class_name: str, references: FewShotReferences) -> None:
    if references.class_name != class_name:
        raise ValueError(f"class '{class_name}': references of class '{references.class_name}'; give its own images")


def _check_encoder(part: str, fingerprint: str, encoder: Encoder) -> None:
    if fingerprint != encoder.config.fingerprint:
        actual, wanted = fingerprint[:12], encoder.config.fingerprint[:12]
        raise ValueError(f"few-shot {part}: encoder {actual}…, need {wanted}…; encode the references again")
