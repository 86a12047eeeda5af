"""The types that sections of `params.yaml` are made of."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PoolShare = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Days = Annotated[int, Field(ge=0)]  # production days
CLASS_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
ClassName = Annotated[str, Field(pattern=CLASS_NAME_PATTERN)]


class Severity(StrEnum):
    CRITICAL = "critical"  # stops the pipeline
    ADVISORY = "advisory"  # is reported


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
