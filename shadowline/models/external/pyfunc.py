"""A single-class model behind any MLflow pyfunc.

The directory is the MLflow model's (with MLmodel), and holds detector.json in it or in artifacts/:

    {"class_name": "bolt", "threshold": 0.42}

The model is called with a table of one row, the image in base64 (PNG) in the column `image`, and returns a table with
the column `score`. Other names: {"image_column": "payload", "score_column": "anomaly", …}. Loading a pyfunc runs its
code: import only models that you would run. A model that needs a pickle is refused.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from shadowline.core.hashing import file_sha256
from shadowline.models.external.description import (
    ExternalDetector,
    ExternalModelSpec,
    find_description,
    read_description,
)

Floats = npt.NDArray[np.float64]

_PICKLED = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth"})
_PICKLE_HEADS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_NO_PART = frozenset({"registered_model_meta", "__pycache__"})  # what MLflow and Python write beside a model


class PyfuncDescription(ExternalModelSpec):
    image_column: str = "image"  # of the input table; the bytes of a PNG in base64
    score_column: str = "score"  # of the output table


@dataclass(frozen=True, eq=False)
class PyfuncDetector(ExternalDetector):
    """A detector of one class; see `shadowline.models.detector.Detector`."""

    description: PyfuncDescription
    directory: Path
    model: Any

    @classmethod
    def load(cls, directory: Path) -> PyfuncDetector:
        """Raises FileNotFoundError, or ValueError for a model that needs a pickle or that MLflow cannot load."""
        description = read_description(find_description(directory), PyfuncDescription)
        pickled = [path.relative_to(directory).as_posix() for path in parts(directory) if _is_pickle(path)]
        if pickled:
            raise ValueError(f"{directory}: needs a pickle ({', '.join(pickled)}); log the model as code, or as ONNX")
        return cls(description, directory, load_model(directory))

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over every file of the model, detector.json included."""
        digest = hashlib.sha256()
        for path in parts(self.directory):
            digest.update(f"{path.relative_to(self.directory).as_posix()}\n".encode())
            digest.update(bytes.fromhex(file_sha256(path)))
        return digest.hexdigest()

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """Raises ValueError: a pyfunc returns scores only."""
        raise ValueError(f"class '{self.class_name}': a pyfunc gives no maps; only its scores can be compared")

    def _score_one(self, image: Image.Image) -> float:
        column = self.description.score_column
        answer = pd.DataFrame(self.model.predict(pd.DataFrame({self.description.image_column: [_encode(image)]})))
        if column not in answer or len(answer) != 1:
            raise ValueError(
                f"class '{self.class_name}': the model answered {len(answer)} rows of {list(answer.columns)}, "
                f"need one with {column!r}; name another score_column"
            )
        score = float(answer[column].iloc[0])
        if not np.isfinite(score):
            raise ValueError(f"class '{self.class_name}': score {score}, need a finite number; check the model")
        return self.description.oriented(score)


def load_model(directory: Path) -> Any:
    """Load a pyfunc with MLflow; raises ValueError where that fails."""
    import mlflow

    try:
        return mlflow.pyfunc.load_model(str(directory))
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{directory}: {error.message}") from None


def parts(directory: Path) -> Iterator[Path]:
    """The files that make up a model, sorted."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not _NO_PART & set(path.relative_to(directory).parts):
            yield path


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix in _PICKLED or file.read(2) in _PICKLE_HEADS


def _encode(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
