"""JSON files with a schema, written and read by one record type that lies beside the code that owns the file.

class Cost(Artifact):
    memory: Memory
    latency: Latency

Cost(memory=…, latency=…).write(layout.cost)     # the stage
Cost.read(layout.cost)                           # every reader

Reading refuses unknown and missing fields and numbers that are not finite, and names the file and the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shadowline.core.atomic_files import write_json


class Artifact(BaseModel):
    """Base of the record types; the rules hold for standard dataclasses among the fields as well."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FileNotFoundError for a missing file, ValueError as `parse` does."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; run the stage that writes it")
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes | str, name: str) -> Self:
        """`content` as JSON; raises ValueError naming the file `name` and its first wrong field."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"{name}: not JSON ({first['msg']}); run the stage that writes it again")
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{name}: {field}: {first['msg']}; run the stage that writes it again")

    def write(self, path: Path) -> None:
        """Equal records give equal bytes. Raises ValueError for a value of another type and for a number not finite."""
        write_json(path, self.model_dump(mode="json", warnings="error"))
