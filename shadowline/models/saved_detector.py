"""What all detectors share that are saved as tensors and a config."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field
from torch import Tensor

from shadowline.data.bit_depth import FULL_DEPTH

BitDepth = Annotated[int, Field(exclude_if=lambda depth: depth == FULL_DEPTH)]  # models of before had no such field


class SavedConfig(BaseModel):
    """What decides besides the tensors; each kind adds its own fields."""

    class_name: str
    threshold: float | None  # None before calibration
    bit_depth: BitDepth = FULL_DEPTH  # of the class's files


class SavedDetector(ABC):
    """Class, threshold and fingerprint from config and tensors; see `shadowline.models.detector.Detector`."""

    config: SavedConfig

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Everything that is saved besides the config, contiguous and on the CPU."""

    @property
    def class_name(self) -> str:
        return self.config.class_name

    @property
    def threshold(self) -> float:
        if self.config.threshold is None:
            raise ValueError(f"class '{self.class_name}': no threshold; call calibrate with scores of val normals")
        return self.config.threshold

    @property
    def bit_depth(self) -> int:
        return self.config.bit_depth

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the config, threshold included, and every tensor."""
        return fingerprint_of(self.config, self._tensors())

    @property
    def memory_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())


def fingerprint_of(config: BaseModel, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over a config and named tensors."""
    digest = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
