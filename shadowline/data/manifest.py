"""One row per image: the contract between all stages.

A manifest is a table with the columns of `COLUMNS`, kept as one Parquet slice per class
(`data/manifest/<class>.parquet`) and read together as one table. Rows are sorted by `image_id`, so that equal
content gives equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # sha256 of the file's bytes
        ("path", pa.string()),  # relative to the project's root
        ("class_name", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("defect_type", pa.string()),  # the source's name of it; "" for normals
        ("mask_path", pa.string()),  # relative; "" where there is no mask
        ("width", pa.int32()),  # pixels
        ("height", pa.int32()),  # pixels
        (
            "mode",
            pa.string(),
        ),  # Pillow's mode of the file; beyond 8 bits a value with the class's bit depth: I;12
        ("brightness", pa.float64()),  # mean grey value, 0…1
        ("contrast", pa.float64()),  # standard deviation of the grey values, 0…1
        ("sharpness", pa.float64()),  # standard deviation of the Laplacian of the grey values
        ("captured_at", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),  # importer and original name, e.g. elpv:images/cell0001.png
        ("bank_only", pa.bool_()),  # came after the last full retraining: the decoder does not learn from it
    ]
)
COLUMNS = tuple(SCHEMA.names)
ADDED = "addition"  # in the place of the importer, for images that came after the class's source


def content_id(data: bytes) -> str:
    """sha256 of a file's bytes, in hex: what identifies an image everywhere."""
    return hashlib.sha256(data).hexdigest()


def mode_depth(mode: str) -> int | None:
    """The bit depth that a `mode` names; None for files of at most 8 bits a value."""
    bits = mode.partition(";")[2].rstrip("BLN")  # slices of earlier versions name the order of bytes as well
    return int(bits) if bits else None


def class_bit_depth(rows: pd.DataFrame) -> int | None:
    """The bit depth of a class's files, by its manifest; None where none has more than 8 bits a value."""
    return max((depth for mode in rows["mode"].dropna().unique() if (depth := mode_depth(mode))), default=None)


def write_manifest(rows: pd.DataFrame, path: Path) -> None:
    """Write one slice, sorted by image_id, columns in order; raises ValueError on missing or extra columns.

    Rows without the column `bank_only` are all of the class's source.
    """
    rows = _with_bank_only(rows)
    if set(rows.columns) != set(COLUMNS):
        wrong = sorted(set(rows.columns) ^ set(COLUMNS))
        raise ValueError(f"{path}: manifest columns differ from the contract in {wrong}")
    ordered = rows[list(COLUMNS)].sort_values(["image_id", "path"], kind="stable").reset_index(drop=True)
    table = pa.Table.from_pandas(ordered, schema=SCHEMA, preserve_index=False).replace_schema_metadata(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def empty_manifest() -> pd.DataFrame:
    """A table with the columns of a manifest, and no rows."""
    return pd.DataFrame(SCHEMA.empty_table().to_pandas())


def read_manifest(paths: Iterable[Path]) -> pd.DataFrame:
    """Read one or many slices as one table, in the contract's column order.

    Raises FileNotFoundError for a missing slice and ValueError for one whose columns differ.
    """
    frames = [_read_slice(path) for path in paths]
    if not frames:
        raise ValueError("no manifest slice given; run `shadowline stage import` first")
    return pd.concat(frames, ignore_index=True)


def source_names(rows: pd.DataFrame) -> dict[str, str]:
    """Path in the project → the user's own name of the file, without the importer."""
    sources = rows["source"].fillna("").astype(str)
    return {
        path: source.partition(":")[2] or source for path, source in zip(rows["path"], sources, strict=True) if source
    }


def _read_slice(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no manifest slice; run `dvc repro import@{path.stem}`")
    frame = _with_bank_only(pq.read_table(path).to_pandas())  # slices of earlier versions have no such images
    if tuple(frame.columns) != COLUMNS:
        raise ValueError(f"{path}: manifest columns differ from the contract; run `dvc repro import@{path.stem}`")
    return frame


def _with_bank_only(rows: pd.DataFrame) -> pd.DataFrame:
    return rows if "bank_only" in rows else rows.assign(bank_only=False)
