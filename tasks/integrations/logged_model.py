"""A model logged in MLflow as code, with its signature and an input example that `mlflow models serve` answers.

logged = log_pyfunc("inspector", "inspector_model.py", {"inspector": str(package)}, requirements(), example("bolt"))
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from PIL import Image

import shadowline

_EXAMPLE_SIDE = 64  # pixels

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "image", required=False),
            ColSpec(DataType.string, "path", required=False),
            ColSpec(DataType.string, "class_name", required=False),
        ]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.double, "score", required=False),
            ColSpec(DataType.double, "threshold", required=False),
            ColSpec(DataType.string, "decision", required=False),
            ColSpec(DataType.boolean, "stop"),
            ColSpec(DataType.string, "class_name", required=False),
            ColSpec(DataType.string, "model_version"),
            ColSpec(DataType.string, "fingerprint"),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
)


def log_pyfunc(
    name: str, code: str, artifacts: Mapping[str, str], pip_requirements: Sequence[str], input_example: pd.DataFrame
) -> Any:
    """Log a module of `shadowline/models/pyfunc` with its artifacts in the active run."""
    library = Path(shadowline.__file__).parent
    return Model.log(
        artifact_path=None,
        name=name,
        flavor=_Pyfunc,
        python_model=str(library / "models/pyfunc" / code),
        artifacts=dict(artifacts),
        code_paths=[str(library)],
        signature=SIGNATURE,
        pip_requirements=list(pip_requirements),
        input_example=input_example,
        validate_serving_input=False,
    )


class _Pyfunc:
    """`mlflow.pyfunc`, as `Model.log` calls it, without the option that it hands on.

    MLflow would try the example by loading the model into this process, with the logged code first on `sys.path`.
    """

    @staticmethod
    def save_model(*, validate_serving_input: bool, **arguments: Any) -> None:
        mlflow.pyfunc.save_model(**arguments)


def example(class_name: str) -> pd.DataFrame:
    """One row as a served model takes it: a plain grey PNG in base64, and the class."""
    png = io.BytesIO()
    Image.new("RGB", (_EXAMPLE_SIDE, _EXAMPLE_SIDE), "grey").save(png, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(png.getvalue()).decode()], "class_name": [class_name]})


def requirements() -> list[str]:
    """The packages that serving needs, in the installed versions; the library's code is logged with the model."""
    names = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "safetensors", "pandas")
    more = ("pydantic", "pydantic-settings", "pyyaml", "mlflow")
    return [f"{name}=={version(name).partition('+')[0]}" for name in (*names, *more)]
