"""The demo's images, straight out of two pinned packages of the Python registry: nothing is installed or unpacked.

elpv     electroluminescence images of solar cells; select: mono | poly. The label is a probability of a defect, agreed
         on by experts: 0 is normal, 1 is defective, what lies between is unknown and plays production.
         Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images", 2021.
textile  simulated textile images, 250 × 250; select: simulated. Local and global defects.
"""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from shadowline.core.params import ClassParams
from shadowline.data.images import Refusal, RefusedImage
from shadowline.data.labels import Label, Split
from shadowline.data.sources.source_image import Listing, Read, SourceImage, expect_images, location_of

_ELPV_DATA = "elpv_dataset/data"
_TEXTILE_DATA = "conformal_clip_data/data/textile_images"
_TEXTILE_KINDS = {"nominal": "", "local": "local", "global": "global"}  # folder → defect type


def list_elpv(class_name: str, params: ClassParams, root: Path) -> Listing:
    _check_select(class_name, params.select, ("mono", "poly"))
    archive = _open(class_name, params, root)
    lines = _member(archive, f"{_ELPV_DATA}/labels.csv")(1 << 24).decode("utf-8").splitlines()
    rows = [_elpv_row(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    images = [_elpv_image(archive, name, probability) for name, probability, kind in rows if kind == params.select]
    return expect_images(images, class_name, location_of(class_name, params, root), f"{_ELPV_DATA}/labels.csv")


def list_textile(class_name: str, params: ClassParams, root: Path) -> Listing:
    _check_select(class_name, params.select, ("simulated",))
    archive = _open(class_name, params, root)
    members = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
    folder = PurePosixPath(_TEXTILE_DATA) / params.select
    images = [
        _textile_image(archive, member, defect_type)
        for kind, defect_type in _TEXTILE_KINDS.items()
        for member in sorted(members)
        if member.parent == folder / kind
    ]
    return expect_images(images, class_name, location_of(class_name, params, root), f"{folder}/nominal")


def _elpv_row(number: int, line: str) -> tuple[str, float, str]:
    """Name, probability of a defect, kind of cell."""
    fields = line.split()
    try:
        name, probability, kind = fields
        return name, float(probability), kind
    except ValueError:
        raise ValueError(
            f"labels.csv:{number}: expected 'name probability kind', got {line.strip()!r}; run `shadowline data fetch`"
        ) from None


def _elpv_image(archive: zipfile.ZipFile, name: str, probability: float) -> SourceImage:
    label = {0.0: Label.NORMAL, 1.0: Label.ANOMALOUS}.get(probability, Label.UNKNOWN)
    return SourceImage(
        name=name,
        label=label,
        defect_type="defective" if label == Label.ANOMALOUS else "",
        split_hint=Split.STREAM if label == Label.UNKNOWN else None,
        read=_member(archive, str(PurePosixPath(_ELPV_DATA) / name)),
    )


def _textile_image(archive: zipfile.ZipFile, member: PurePosixPath, defect_type: str) -> SourceImage:
    return SourceImage(
        name=member.relative_to(_TEXTILE_DATA).as_posix(),
        label=Label.ANOMALOUS if defect_type else Label.NORMAL,
        defect_type=defect_type,
        split_hint=None,
        read=_member(archive, str(member)),
    )


def _check_select(class_name: str, select: str, allowed: Sequence[str]) -> None:
    if select not in allowed:
        nearest = difflib.get_close_matches(select, allowed, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"class '{class_name}': select '{select}' is not one of {list(allowed)}{hint}")


def _open(class_name: str, params: ClassParams, root: Path) -> zipfile.ZipFile:
    """Open the wheel. It stays open as long as the listed images exist: opening it for each image would be slower."""
    location = location_of(class_name, params, root)
    try:
        return zipfile.ZipFile(location)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"class '{class_name}': {location}: no wheel ({error}); run `shadowline data fetch`") from None


def _member(archive: zipfile.ZipFile, name: str) -> Read:
    return partial(_read_member, archive, name)


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise RefusedImage(Refusal.OUTSIDE_SOURCE, f"{name}: leads out of the wheel; run `shadowline data fetch`")
    try:
        with archive.open(name) as file:
            return file.read(limit)
    except (KeyError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
        message = f"{name}: cannot be read from the wheel ({error}); run `shadowline data fetch`"
        raise RefusedImage(Refusal.UNREADABLE, message) from None
