"""The types that sections of `params.yaml` are made of."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PoolShare = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Days = Annotated[int, Field(ge=0)]  # production days
CLASS_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
ClassName = Annotated[str, Field(pattern=CLASS_NAME_PATTERN)]
_MAX_NAME = 64  # characters of a class's name
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


class Severity(StrEnum):
    CRITICAL = "critical"  # stops the pipeline
    ADVISORY = "advisory"  # is reported


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def class_key(name: str) -> str:
    """A legal name of a class, or of a kind of defect, that resembles `name`.

    Accents are dropped, umlauts and Hangul are spelt out in Latin letters: Müller Nuß → mueller_nuss, 나사 → nasa.
    """
    text = unicodedata.normalize("NFC", name).casefold().translate(_UMLAUTS)
    latin = "".join(_latin(character) for character in unicodedata.normalize("NFKC", text))
    return re.sub(r"[^a-z0-9-]+", "_", latin).strip("_-")[:_MAX_NAME] or "class"


def _latin(character: str) -> str:
    """The character in Latin letters: an accented letter without its accent, another one by its Unicode name."""
    base = unicodedata.normalize("NFKD", character)[0]
    if base.isascii():
        return base
    if not character.isalnum():
        return "_"
    name = re.sub(r" WITH .*", "", unicodedata.name(character, ""))  # LATIN SMALL LETTER O WITH STROKE
    return re.split(r"[ -]", name)[-1].lower()
