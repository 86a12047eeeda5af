"""`params.yaml` as frozen models: every hyper-parameter, gate and policy number, loaded once.

    params = load_params(Path("params.yaml"))
    params.train.warmup_steps

Unknown keys are refused, and the error names the nearest right one. Code holds no fallback for a threshold:
what is not in the file is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import typing
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from shadowline.core.params.base import (
    CLASS_NAME_PATTERN,
    ClassName,
    Days,
    FrozenModel,
    PoolShare,
    Positive,
    Severity,
    Share,
    class_key,
)
from shadowline.core.params.data import AdditionParams, ClassParams, DataParams, SeverityParams, ValidationParams
from shadowline.core.params.model import (
    BankParams,
    CalibrationParams,
    EncoderParams,
    EvaluationParams,
    FewShotParams,
    GateParams,
    IdentificationParams,
    LatencyParams,
    LegacyParams,
    TrainParams,
    ZeroShotParams,
)
from shadowline.core.params.operation import (
    ApprovablePhase,
    AssessmentParams,
    DemoParams,
    EffortParams,
    EnrolmentParams,
    GatewayParams,
    GuardParams,
    GuardsParams,
    ImageRetentionPolicy,
    RegistryParams,
    RetuneParams,
    RolloutParams,
    ScheduleParams,
    ShadowParams,
    Unplanned,
)
from shadowline.core.params.strict_yaml import load_strictly
from shadowline.core.printable import without_kind

__all__ = [
    "CLASS_NAME_PATTERN",
    "AdditionParams",
    "ApprovablePhase",
    "AssessmentParams",
    "BankParams",
    "CalibrationParams",
    "ClassName",
    "ClassParams",
    "DataParams",
    "Days",
    "DemoParams",
    "EffortParams",
    "EncoderParams",
    "EnrolmentParams",
    "EvaluationParams",
    "FewShotParams",
    "GateParams",
    "GatewayParams",
    "GuardParams",
    "GuardsParams",
    "IdentificationParams",
    "ImageRetentionPolicy",
    "LatencyParams",
    "LegacyParams",
    "Params",
    "PoolShare",
    "Positive",
    "RegistryParams",
    "RetuneParams",
    "RolloutParams",
    "ScheduleParams",
    "Severity",
    "SeverityParams",
    "ShadowParams",
    "Share",
    "TrainParams",
    "Unplanned",
    "ValidationParams",
    "ZeroShotParams",
    "class_key",
    "load_params",
]


class Params(FrozenModel):
    seed: int  # seed of every random choice: splits, initial weights, batches
    classes: dict[ClassName, ClassParams] = Field(min_length=1)  # one entry per product class
    data: DataParams  # how images are split, and which are refused
    validation: ValidationParams  # what the images must be like before anything is trained
    encoder: EncoderParams  # the frozen encoder that all classes share
    train: TrainParams  # how the decoder is trained (Dinomaly, arXiv 2405.14325)
    bank: BankParams  # the memory bank of each class
    few_shot: FewShotParams
    calibration: CalibrationParams  # how a class's score is made, and where its threshold lies
    identification: IdentificationParams
    evaluation: EvaluationParams  # what is measured on the test images
    legacy: LegacyParams
    zero_shot: ZeroShotParams
    enrolment: EnrolmentParams  # how a new product comes in
    gates: GateParams  # what a version must reach to become the challenger
    latency: LatencyParams  # how the packaged model's latency is measured, beside a reference workload
    shadow: ShadowParams
    rollout: RolloutParams
    gateway: GatewayParams
    assessment: AssessmentParams
    demo: DemoParams | None = None  # the migration that `shadowline demo` runs; not in a project of one's own
    registry: RegistryParams  # names in MLflow
    schedule: ScheduleParams  # when a Prefect server starts the flows by itself

    @model_validator(mode="after")
    def _named_classes_exist(self) -> Params:
        missing = sorted(set(self.train.classes) - set(self.classes))
        if missing:
            raise ValueError(f"train.classes names {missing}, not among classes {sorted(self.classes)}")
        return self

    def entry(self, class_name: str) -> ClassParams:
        """What `classes` says of a class; raises ValueError, with the nearest name, where it does not know it."""
        if class_name not in self.classes:
            nearest = difflib.get_close_matches(class_name, self.classes, n=1, cutoff=0.0)
            raise ValueError(
                f"unknown class '{class_name}'; did you mean {', '.join(nearest)}? see params.yaml, classes"
            )
        return self.classes[class_name]

    def of_class(self, class_name: str) -> DataParams:
        """The section `data` with the class's own shares in it, if the class is known and has any."""
        if class_name not in self.classes:
            return self.data
        own = self.classes[class_name].model_dump(include={"test_share", "val_share"}, exclude_none=True)
        return self.data.model_copy(update=own)

    def promise(self, class_name: str) -> float:
        """The target false-positive rate of a class: its own, or the common one, also of a class not yet known."""
        own = self.classes[class_name].target_fpr if class_name in self.classes else None
        return self.calibration.target_fpr if own is None else own

    def calibration_of(self, class_name: str) -> CalibrationParams:
        """The section `calibration` with the class's own target false-positive rate in it."""
        return self.calibration.model_copy(update={"target_fpr": self.promise(class_name)})

    def of_demo(self) -> DemoParams:
        """The section `demo`; raises ValueError in a project without it."""
        if self.demo is None:
            raise ValueError("params.yaml: no section demo; the demo's migration runs in Shadowline's own repository")
        return self.demo

    def hash(self) -> str:
        """sha256 of the canonical JSON of all values: files with equal values have equal hashes."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_params(path: Path) -> Params:
    """Read and check `path`.

    Raises FileNotFoundError, or ValueError naming every wrong key with its place and the nearest right one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `shadowline init` makes a project")
    try:
        raw = load_strictly(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8; save it as UTF-8") from None
    except ValueError as error:
        raise ValueError("\n".join(f"{path.name}: {line}" for line in str(error).splitlines())) from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a mapping at the top level")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [f"{path.name}: {_explain(**_parts(detail))}" for detail in error.errors()]
        raise ValueError("\n".join(lines)) from None


_MOVED = {"calibration.class_target_fpr": "classes.<name>.target_fpr"}  # keys of earlier versions


def _parts(detail: Any) -> dict[str, Any]:
    """What `_explain` needs of pydantic's description of one error."""
    message = without_kind(detail["msg"])
    return {"location": detail["loc"], "kind": detail["type"], "message": message, "value": detail["input"]}


def _explain(location: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    dotted = ".".join(str(part) for part in location)
    if kind == "string_type" and isinstance(value, (bool, int, float, date)):
        return f"{dotted}: {value} is not a text; quote it"
    if location[:1] == ("classes",) and location[-1] == "[key]":
        return _explain_class_name(str(location[1]))
    if kind == "extra_forbidden" and dotted in _MOVED:
        return f"unknown key {dotted}; it is {_MOVED[dotted]} now"
    if kind == "extra_forbidden":
        nearest = difflib.get_close_matches(str(location[-1]), _keys_at(location[:-1]), n=1, cutoff=0.5)
        prefix = ".".join(str(part) for part in location[:-1])
        hint = f"; did you mean {prefix + '.' if prefix else ''}{nearest[0]}?" if nearest else ""
        return f"unknown key {dotted}{hint}"
    return f"{dotted}: {message}" if dotted else message


def _explain_class_name(name: str) -> str:
    key = class_key(name)
    return (
        f"classes: {name!r} is no name of a class, which has at most 64 of a-z, 0-9, _ and -; name it {key}, and set "
        f"classes.{key}.select to {name!r} where its folder is called so"
    )


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The legal keys of the (possibly nested) model that `location` leads to."""
    model: Any = Params
    for part in location:
        is_mapping = typing.get_origin(model) is dict
        model = typing.get_args(model)[1] if is_mapping else model.model_fields[str(part)].annotation
    return list(getattr(model, "model_fields", ()))
