"""detector.json: an external model's class, threshold, input and output, which its own files do not state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shadowline.core.params import ClassName

DESCRIPTION = "detector.json"
ONNX_FILE = "model.onnx"
PYFUNC_FILE = "MLmodel"

Floats = npt.NDArray[np.float64]


def find_description(directory: Path) -> Path:
    """The path of detector.json: in artifacts/, where MLflow puts it as an artifact, or beside MLmodel."""
    as_artifact = directory / "artifacts" / DESCRIPTION
    return as_artifact if as_artifact.is_file() else directory / DESCRIPTION


class ExternalModelSpec(BaseModel):
    """Fields of every external model; each kind adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    class_name: ClassName
    threshold: float  # in the model's own unit
    bit_depth: Literal[8, 10, 12, 14, 16] = 16  # of files with 16 bits a value: which value it takes for white
    higher_is_anomalous: bool = Field(default=True)  # False: the model's score falls with the anomaly

    def oriented(self, value: float) -> float:
        """A score or threshold of the model, turned so that higher is more anomalous."""
        return value if self.higher_is_anomalous else -value


class ExternalDetector(ABC):
    """What all external models share; see `shadowline.models.detector.Detector`."""

    description: ExternalModelSpec

    @property
    def class_name(self) -> str:
        return self.description.class_name

    @property
    def bit_depth(self) -> int:
        return self.description.bit_depth

    @property
    def threshold(self) -> float:
        return self.description.oriented(self.description.threshold)

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """The model's own scores (N,), negated where lower is more anomalous; the model is called once per image."""
        return np.array([self._score_one(image) for image in images], dtype=np.float64)

    @abstractmethod
    def _score_one(self, image: Image.Image) -> float: ...


D = TypeVar("D", bound=ExternalModelSpec)


def read_description(path: Path, kind: type[D]) -> D:
    """Raises FileNotFoundError, or ValueError naming every wrong field."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it says what the model expects, see docs/decisions/0008")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()
        )
        raise ValueError(f"{path}: {wrong}; see docs/decisions/0008") from None
