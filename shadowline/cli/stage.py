"""`shadowline stage NAME`: one stage of dvc.yaml, as DVC runs it."""

from __future__ import annotations

import importlib
from enum import StrEnum
from typing import Annotated

import typer

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.stages.pipeline import PER_CLASS, STAGE_MODULES


class StageName(StrEnum):
    """Stages of the library; the value is the name in dvc.yaml. `validate` is `python -m tasks.validation`."""

    CODE = "code"
    CLASSES = "classes"
    IMPORT = "import"
    ENCODER = "encoder"
    FEATURES = "features"
    TRAINING_SET = "training_set"
    TRAIN = "train"
    BANK = "bank"
    IDENTITY = "identity"
    CALIBRATE = "calibrate"
    LEGACY = "legacy"
    EVALUATE = "evaluate"
    PACKAGE = "package"
    COST = "cost"
    SUMMARY = "summary"


def stage(
    name: Annotated[StageName, typer.Argument(help="The stage, as named in dvc.yaml.")],
    class_name: Annotated[str, typer.Option("--class", help="The product class, for per-class stages.")] = "",
) -> None:
    """Run one stage of the pipeline on the files of this project. `dvc repro` calls this.

    Example: `shadowline stage features --class solar_mono`
    """
    layout = Layout()
    params = load_params(layout.params)
    module = importlib.import_module(STAGE_MODULES[name])
    if (name in PER_CLASS) != bool(class_name):
        raise ValueError(f"stage {name}: {'give --class' if name in PER_CLASS else 'takes no --class'}")
    if class_name and class_name not in params.classes:
        raise ValueError(f"class {class_name!r} is not in params.yaml; known: {', '.join(params.classes)}")
    module.run(*([class_name] if class_name else []), params, layout, default_progress())
