"""The plan of a rollout as a JSON file: what `shadowline assess --out` writes, or a person by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shadowline.core.params import ClassName

EXAMPLE = '{"waves": [["textile", "carpet"], ["bolt"]]}'
Wave = Annotated[list[ClassName], Field(min_length=1)]


class Plan(BaseModel):
    """Which classes move together, in order; further keys, such as the reasons of an assessment, are ignored."""

    model_config = ConfigDict(frozen=True)

    waves: Annotated[list[Wave], Field(min_length=1)]


def load_plan(path: Path) -> Plan:
    """Raises ValueError, in one line, with the file, the first wrong place in it and an example."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; need a JSON file with waves of classes, e.g. {EXAMPLE}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path}: {place}: {first['msg']}; need waves of classes, e.g. {EXAMPLE}") from None
