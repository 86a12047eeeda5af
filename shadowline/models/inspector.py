"""The packaged multi-class model: encoder, decoder, banks and calibration in one directory; the public Python API.

    inspector = Inspector.load("models/inspector")              # `models:/…` URIs: see `models/registry_inspector.py`
    result = inspector.inspect("cell0042.png", class_name="solar_mono")
    result.score, result.threshold, result.decision, result.anomaly_map
    inspector.inspect("part.png")                               # identifies the class, or returns UnknownProduct

The directory holds encoder.safetensors, encoder.json, decoder.safetensors, banks/<class>.safetensors,
identity/<class>.safetensors, calibration.json, config.json and, where
images have more than 8 bits, decoding.json; no pickle is read. H, W patches per side of a map.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from shadowline.core.atomic_files import read_json
from shadowline.core.device import pick_device
from shadowline.data.images import ImageLimits, ImageSource, decode_image
from shadowline.data.labels import Label
from shadowline.features.encoder import Encoder, load_encoder
from shadowline.models.calibration import Calibration, raw_maps
from shadowline.models.class_identification import ClassIdentity, Identification, Identities, embed
from shadowline.models.decoding import Decoding
from shadowline.models.dinomaly.model import load_decoder
from shadowline.models.fingerprints import class_fingerprints, model_fingerprint
from shadowline.models.gaussian_bank.bank import Bank

Array = npt.NDArray[np.float64]
ImageInput = ImageSource  # a path, the bytes of a file, a PIL image, or an array (H, W[, 3 | 4]) of uint8 or uint16


@dataclass(frozen=True)
class Inspection:
    """One image, judged by one model."""

    score: float  # robust sigmas above a typical normal image of the class
    threshold: float  # the same unit
    decision: Label  # normal or anomalous
    class_name: str
    class_confidence: float | None  # that it is of this class (`Identification`); None when the class was given
    model_version: str  # of the registry, or "directory"
    fingerprint: str  # of everything that can change the decision
    latency_ms: float
    anomaly_map: Array  # (H, W), robust sigmas

    @property
    def stop(self) -> bool:
        """Whether the part must not pass."""
        return self.decision is not Label.NORMAL

    def to_dict(self) -> dict[str, Any]:
        """Everything but the map, as JSON values."""
        values = {name: value for name, value in self.__dict__.items() if name != "anomaly_map"}
        return {**values, "stop": self.stop}


@dataclass(frozen=True)
class UnknownProduct:
    """The result for an image, sent without a class, that no class accepts: no decision, and the part must not pass."""

    nearest_class: str
    class_confidence: float  # that it is of the nearest class (`Identification`)
    model_version: str  # of the registry, or "directory"
    fingerprint: str  # of everything that can change this answer
    latency_ms: float

    @property
    def stop(self) -> bool:
        """A part that nobody judged must not pass."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what only an `Inspection` has is None."""
        missing = {"score": None, "threshold": None, "decision": None, "class_name": None}
        return {**missing, **self.__dict__, "stop": self.stop}


class Inspector:
    """Load once, inspect many images; other images in a batch change a score by rounding at most."""

    def __init__(self, directory: Path, encoder: Encoder, model_version: str) -> None:
        self.config: dict[str, Any] = read_json(directory / "config.json")
        self.decoding = Decoding.load(directory)
        self.limits = ImageLimits(**self.config["limits"], exif_orientation=self.decoding.exif_orientation)
        self.encoder, self.model_version = encoder, model_version
        self.decoder, self._spec = load_decoder(directory / "decoder.safetensors")
        raw = read_json(directory / "calibration.json")
        self.calibrations = {name: Calibration.from_dict(calibration) for name, calibration in raw.items()}
        self.banks = {name: Bank.load(directory / f"banks/{name}.safetensors") for name in self.calibrations}
        self._identities = _load_identities(directory, self.classes)
        self.fingerprint: str = self.config["fingerprint"]
        self.class_fingerprints = class_fingerprints(directory)

    @classmethod
    def load(cls, location: str | Path, model_version: str = "directory") -> Self:
        """From a local directory; `model_version` is what inspections name as their model's version.

        Raises FileNotFoundError, or ValueError when a file is not what was packaged.
        """
        directory = Path(location)
        if not (directory / "config.json").is_file():
            raise FileNotFoundError(
                f"{directory}: no packaged inspector; run `shadowline retrain` or name another --model"
            )
        fingerprint = model_fingerprint(directory)
        inspector = cls(directory, load_encoder(directory, pick_device()), model_version)
        if fingerprint != inspector.fingerprint:
            raise ValueError(
                f"{directory}: files changed since packaging ({fingerprint[:12]}…); restore them from the registry"
            )
        return inspector

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(self.calibrations))

    @property
    def identified_classes(self) -> tuple[str, ...]:
        """The classes that it can identify; empty for a model that was packaged without identities."""
        return () if self._identities is None else self._identities.names

    @overload
    def inspect(self, image: ImageInput, class_name: str, *, bgr: bool = False) -> Inspection: ...
    @overload
    def inspect(
        self, image: ImageInput, class_name: str | None = None, *, bgr: bool = False
    ) -> Inspection | UnknownProduct: ...
    def inspect(
        self, image: ImageInput, class_name: str | None = None, *, bgr: bool = False
    ) -> Inspection | UnknownProduct:
        """Judge one image; without a class, the class is identified first. `bgr`: the order of an array's channels.

        Raises ValueError for an unknown class, or without a class where the model has no identities, and
        RefusedImage for an image that cannot be trusted.
        """
        return next(iter(self.inspect_many([image], class_name, bgr=bgr)))

    @overload
    def inspect_many(
        self, images: Sequence[ImageInput], class_name: str, *, bgr: bool = False
    ) -> Iterable[Inspection]: ...
    @overload
    def inspect_many(
        self, images: Sequence[ImageInput], class_name: str | None = None, *, bgr: bool = False
    ) -> Iterable[Inspection | UnknownProduct]: ...
    def inspect_many(
        self, images: Sequence[ImageInput], class_name: str | None = None, *, bgr: bool = False
    ) -> Iterable[Inspection | UnknownProduct]:
        """Judge images one batch of the encoder at a time; latency is the batch's time per image."""
        return self.inspect_each([(image, class_name) for image in images], bgr=bgr)

    @overload
    def inspect_each(self, images: Sequence[tuple[ImageInput, str]], *, bgr: bool = False) -> Iterable[Inspection]: ...
    @overload
    def inspect_each(
        self, images: Sequence[tuple[ImageInput, str | None]], *, bgr: bool = False
    ) -> Iterable[Inspection | UnknownProduct]: ...
    def inspect_each(
        self, images: Sequence[tuple[ImageInput, str | None]], *, bgr: bool = False
    ) -> Iterable[Inspection | UnknownProduct]:
        """`inspect_many` for images of several classes, each image paired with its class."""
        for class_name in {name for _, name in images}:
            if class_name is None:
                self._need_identities()
            elif class_name not in self.calibrations:
                raise ValueError(f"class {class_name!r} is not in this model; it knows {', '.join(self.classes)}")
        return self._inspect_batches(images, bgr)

    def identify_many(self, images: Sequence[ImageInput], *, bgr: bool = False) -> list[Identification]:
        """The class of each image, without inspecting it; raises as `inspect` does without a class."""
        self._need_identities()
        size = self.encoder.config.batch_size
        nameless = [(image, None) for image in images]
        batches = [nameless[start : start + size] for start in range(0, len(images), size)]
        return [self._identify(fused[None]) for batch in batches for fused in self._encode(batch, bgr)]

    def _inspect_batches(
        self, images: Sequence[tuple[ImageInput, str | None]], bgr: bool
    ) -> Iterator[Inspection | UnknownProduct]:
        size = self.encoder.config.batch_size
        for start in range(0, len(images), size):
            started = time.perf_counter()
            batch = images[start : start + size]
            fused_BGTD = self._encode(batch, bgr)
            results = [self._answer(fused[None], name) for fused, (_, name) in zip(fused_BGTD, batch, strict=True)]
            latency_ms = 1000.0 * (time.perf_counter() - started) / len(batch)
            yield from (result(latency_ms=latency_ms) for result in results)

    def open(self, image: ImageInput, class_name: str | None, *, bgr: bool = False) -> Image.Image:
        """The RGB image that the model sees, decoded as its training images were; raises RefusedImage."""
        return self.decoding.to_rgb(decode_image(image, self.limits, bgr=bgr), class_name)

    def _encode(self, images: Sequence[tuple[ImageInput, str | None]], bgr: bool) -> Tensor:
        """(B, G, T, D), rounded as in the cache that calibration saw."""
        opened = (self.open(image, class_name, bgr=bgr) for image, class_name in images)
        return self.encoder.encode(opened, padded=False).half().float()

    def _answer(self, fused_BGTD: Tensor, class_name: str | None) -> partial[Inspection] | partial[UnknownProduct]:
        """The result for one image, except for its latency."""
        if class_name is not None:
            return self._judge(fused_BGTD, class_name, None)
        identification = self._identify(fused_BGTD)
        if identification.class_name is not None:
            return self._judge(fused_BGTD, identification.class_name, identification.confidence)
        return partial(
            UnknownProduct,
            nearest_class=identification.nearest_class,
            class_confidence=identification.confidence,
            model_version=self.model_version,
            fingerprint=self.fingerprint,
        )

    def _judge(self, fused_BGTD: Tensor, class_name: str, class_confidence: float | None) -> partial[Inspection]:
        calibration = self.calibrations[class_name]
        anomaly_map = calibration.fuse(self._raw(fused_BGTD, class_name))
        score = float(calibration.score(anomaly_map)[0])
        return partial(
            Inspection,
            score=score,
            threshold=calibration.threshold,
            decision=Label.ANOMALOUS if score > calibration.threshold else Label.NORMAL,
            class_name=class_name,
            class_confidence=class_confidence,
            model_version=self.model_version,
            fingerprint=self.fingerprint,
            anomaly_map=anomaly_map[0],
        )

    def _raw(self, fused_BGTD: Tensor, class_name: str) -> Array:
        has_weight = self.calibrations[class_name].recipe.weights[0] > 0.0
        decoder = self.decoder if has_weight else None
        return raw_maps(fused_BGTD, decoder, self.banks[class_name], self._spec.num_prefix)

    def _identify(self, fused_BGTD: Tensor) -> Identification:
        return self._need_identities().identify(embed(fused_BGTD, self._spec.num_prefix)[0].numpy())

    def _need_identities(self) -> Identities:
        if self._identities is None:
            raise ValueError(
                f"class: none given, and model {self.fingerprint[:12]} holds no identity/ to tell classes apart; "
                f"name one of {', '.join(self.classes)}, or package again with `shadowline retrain`"
            )
        return self._identities

    @property
    def memory_mb(self) -> dict[str, float]:
        """Weights in memory by part, in 10⁶ bytes."""
        encoder = sum(p.nbytes for p in self.encoder.parameters())
        decoder = sum(p.nbytes for p in self.decoder.parameters())
        banks = sum(bank.num_bytes for bank in self.banks.values())
        identities = 0 if self._identities is None else self._identities.num_bytes
        sizes = {"encoder": encoder, "decoder": decoder, "banks": banks, "identities": identities}
        return {f"{part}_mb": size / 1e6 for part, size in sizes.items()}


def _load_identities(directory: Path, classes: Sequence[str]) -> Identities | None:
    """The identities of the classes that have one; None for a model without any: its callers must name the class."""
    paths = {name: directory / f"identity/{name}.safetensors" for name in classes}
    identities = {name: ClassIdentity.load(path) for name, path in paths.items() if path.is_file()}
    return Identities.of(identities) if identities else None
