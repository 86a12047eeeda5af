"""A factory's inventory, of its single-class models and of itself: a validated YAML file; docs/examples shows two."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shadowline.core.params import ClassName, Share

Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LegacyEntry(_Frozen):
    """One single-class model in production."""

    class_name: ClassName = Field(alias="class")
    auroc: Share | None = None  # image AUROC as the factory measured it; needed where the baseline is known
    storage_mb: Amount  # 10^6 bytes
    hours_per_month: Amount  # of maintenance
    yearly_cost: Amount  # $
    critical: bool  # safety is at stake
    stable: bool  # production without frequent changes
    baseline_known: bool  # there is a measurement to compare with
    material: str
    size: str  # in the factory's own words; classes of one material and size are similar

    @property
    def group(self) -> tuple[str, str]:
        return self.material, self.size

    @model_validator(mode="after")
    def _baseline_is_there(self) -> LegacyEntry:
        if self.baseline_known and self.auroc is None:
            raise ValueError(f"class {self.class_name!r}: baseline_known, but no auroc; give it or set it to false")
        return self


class Site(_Frozen):
    """What holds for the factory as a whole."""

    normal_images_per_class: Count  # of the class that has the fewest
    consistent_imaging: bool  # light, angle and background
    accelerator_gb: Amount  # memory of the largest accelerator; 0: none
    cloud: bool  # an accelerator may be rented
    new_products_per_year: Count
    engineer_rate: Amount  # $ an hour
    accelerator_rate: Amount  # $ an hour


class Inventory(_Frozen):
    site: Site
    models: tuple[LegacyEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_class_once(self) -> Inventory:
        twice = sorted(name for name, count in Counter(model.class_name for model in self.models).items() if count > 1)
        if twice:
            raise ValueError(f"classes {twice} occur more than once; give each class one model")
        return self


def load_inventory(path: Path) -> Inventory:
    """Raises FileNotFoundError, or ValueError naming every wrong field with its place."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; docs/examples/inventory.yaml shows what it holds")
    try:
        return Inventory.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        lines = [f"{path.name}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError("\n".join(lines)) from None
