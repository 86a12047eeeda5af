"""A single-class model in an ONNX file, as it came from the tool that trained it.

The directory holds model.onnx and detector.json:

    {"class_name": "bolt", "threshold": 0.42, "higher_is_anomalous": true,
     "input_name": "input", "input_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
     "score_output": "score", "map_output": "anomaly_map"}

Axes: N images · S input size, pixels · h w of a map. The input is (1, 3, S, S) float32, RGB, normalised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from shadowline.core.params import Positive
from shadowline.data.transforms import to_array
from shadowline.models.external.description import (
    DESCRIPTION,
    ONNX_FILE,
    ExternalDetector,
    ExternalModelSpec,
    read_description,
)

Floats = npt.NDArray[np.float64]
Deviation = Annotated[float, Field(gt=0)]


class OnnxDescription(ExternalModelSpec):
    input_name: str
    input_size: Positive  # S, pixels; an image is squeezed to a square
    mean: tuple[float, float, float]  # per channel, of pixels in 0…1
    std: tuple[Deviation, Deviation, Deviation]
    score_output: str  # one number an image
    map_output: str = ""  # (1, 1, h, w), (1, h, w) or (h, w); empty: the model gives no map


@dataclass(frozen=True, eq=False)
class OnnxDetector(ExternalDetector):
    """A detector of one class; see `shadowline.models.detector.Detector`. Runs on the CPU, one image at a time."""

    description: OnnxDescription
    fingerprint: str  # sha256 over both files
    session: Any

    @classmethod
    def load(cls, directory: Path) -> OnnxDetector:
        """Raises FileNotFoundError, or ValueError where the graph and detector.json do not fit."""
        description = read_description(directory / DESCRIPTION, OnnxDescription)
        graph = (directory / ONNX_FILE).read_bytes()
        session = _open(graph, directory / ONNX_FILE)
        _check_fit(session, description, directory)
        digest = hashlib.sha256((directory / DESCRIPTION).read_bytes())
        digest.update(hashlib.sha256(graph).digest())
        return cls(description, digest.hexdigest(), session)

    def maps(self, images: Sequence[Image.Image]) -> Floats:
        """The model's own maps (N, h, w); raises ValueError for a model without a map output."""
        if not self.description.map_output:
            raise ValueError(f"class '{self.class_name}': the model gives no map; name one as map_output, if it does")
        return np.stack([self._map_one(image) for image in images])

    def _score_one(self, image: Image.Image) -> float:
        values = self._run(self.description.score_output, image)
        if values.size != 1 or not np.isfinite(values).all():
            raise ValueError(
                f"class '{self.class_name}': output {self.description.score_output!r} gave {_shown(values)}, "
                "need one finite number an image; name another score_output"
            )
        return self.description.oriented(float(values.reshape(())))

    def _map_one(self, image: Image.Image) -> Floats:
        values = self._run(self.description.map_output, image)
        if values.ndim < 2 or values.size != values.shape[-2] * values.shape[-1]:
            raise ValueError(
                f"class '{self.class_name}': output {self.description.map_output!r} gave {_shown(values)}, "
                "need one map (1, 1, h, w) an image; name another map_output"
            )
        flat = values.reshape(values.shape[-2:])
        return flat if self.description.higher_is_anomalous else -flat

    def _run(self, output: str, image: Image.Image) -> Floats:
        (values,) = self.session.run([output], {self.description.input_name: _prepare(image, self.description)})
        return np.asarray(values, dtype=np.float64)


def _open(graph: bytes, path: Path) -> Any:
    """A session on the CPU, from bytes, so that the hashed bytes are those that run; no weights from other files."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError:
        raise ValueError(f"{path}: onnxruntime is not installed; run `pip install 'shadowline[onnx]'`") from None
    options = onnxruntime.SessionOptions()
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised below, in one line
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.InvalidArgument, errors.NotImplemented,
            errors.NoSuchFile, errors.RuntimeException) as error:  # fmt: skip
        line = str(error).partition("\n")[0]
        raise ValueError(f"{path}: {line}; export it again, as one file") from None


def _check_fit(session: Any, description: OnnxDescription, directory: Path) -> None:
    """Raises ValueError where the graph lacks the described input or outputs, or its input differs in type or shape."""
    inputs = {graph_input.name: graph_input for graph_input in session.get_inputs()}
    outputs = sorted(output.name for output in session.get_outputs())
    if set(inputs) != {description.input_name}:
        raise ValueError(f"{directory}: input_name {description.input_name!r}, but the graph asks for {sorted(inputs)}")
    missing = {description.score_output, description.map_output or description.score_output} - set(outputs)
    if missing:
        raise ValueError(f"{directory}: no output {sorted(missing)}; the graph gives {outputs}")
    node, size = inputs[description.input_name], description.input_size
    fits = len(node.shape) == 4 and all(
        not isinstance(have, int) or have == want for have, want in zip(node.shape, (1, 3, size, size), strict=True)
    )
    if not fits or node.type != "tensor(float)":
        raise ValueError(
            f"{directory}: the graph wants {node.type} {node.shape}, but gets tensor(float) [1, 3, {size}, {size}]; "
            "correct input_size, or export it for single RGB images"
        )


def _prepare(image: Image.Image, description: OnnxDescription) -> npt.NDArray[np.float32]:
    """(1, 3, S, S)."""
    size = (description.input_size, description.input_size)
    pixels_SS3 = to_array(image, size, description.mean, description.std)
    return np.ascontiguousarray(pixels_SS3.transpose(2, 0, 1)[None])


def _shown(values: Floats) -> str:
    return str(values.reshape(-1)[0]) if values.size == 1 else f"shape {values.shape}"
