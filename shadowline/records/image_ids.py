"""Which image a person means: by a path to its file, by its id, or by the beginning of its id.

image_id_of("9c1d03aa41f2", "solar_mono", records.pairs.engine)
"""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import Engine, select

from shadowline.core.hashing import file_sha256
from shadowline.records.database import reading
from shadowline.records.tables import PairRow

SHOWN_DIGITS = 12  # of an id, in tables for people
_WHOLE_ID = 64  # hexadecimal digits of a sha256
_MIN_DIGITS = 8
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{_MIN_DIGITS},{_WHOLE_ID}}}")


def image_id_of(image: str, class_name: str, engine: Engine) -> str:
    """The whole id. An image with this id is certain to be on record only where a beginning of the id was given.

    Raises ValueError for what is neither a file nor an id, and for a beginning of no id or of several of the class.
    """
    if Path(image).is_file():
        return file_sha256(Path(image))
    digits = image.lower()
    if not _HEXADECIMAL.fullmatch(digits):
        raise ValueError(
            f"image {image!r}: no such file, and no id; give a path, or an id of {_MIN_DIGITS} to {_WHOLE_ID} "
            "hexadecimal digits"
        )
    return digits if len(digits) == _WHOLE_ID else _only_id(digits, class_name, engine)


def _only_id(beginning: str, class_name: str, engine: Engine) -> str:
    query = select(PairRow.image_id).where(PairRow.class_name == class_name, PairRow.image_id.startswith(beginning))
    with reading(engine) as connection:
        ids = connection.execute(query.distinct().order_by(PairRow.image_id).limit(2)).scalars().all()
    if not ids:
        raise ValueError(f"class {class_name!r}: no image id on record begins with {beginning}; check the id")
    if len(ids) > 1:
        raise ValueError(
            f"class {class_name!r}: {beginning} begins more than one image id, {ids[0]} and {ids[1]} among them; "
            "give more digits"
        )
    return ids[0]
