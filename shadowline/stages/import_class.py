"""`shadowline stage import --class solar_mono`: one class's source becomes checked image files and a manifest slice.

    <images>/<image_id>.<suffix>      the source's bytes, untouched
    <images>/masks/<image_id>.png     0 or 255, all masks of the image in one
    <manifest>/<class>.parquet        one row per file
    <import>/<class>.json             what was refused, dropped and kept

Images that came after the source (`shadowline/data/additions.py`) are listed before it: of equal content the addition
stays, so that an image keeps its split where it is put into the source as well.

A run that is killed leaves whole files only; the next run reuses them, removes stale files, and ends in the same bytes
as an undisturbed run.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from pydantic import Field

from shadowline.core.artifacts import Artifact
from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import DataParams, Params
from shadowline.core.progress import Progress
from shadowline.data.additions import list_additions
from shadowline.data.class_forecast import ClassCounts, SplitSizes, forecast_class
from shadowline.data.images import SUFFIX_OF, ImageProperties, Refusal, RefusedImage, measure_image, read_mask
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import ADDED, COLUMNS, class_bit_depth, content_id, mode_depth, write_manifest
from shadowline.data.sources import SourceImage, list_source
from shadowline.data.splits import assign_pools, assign_splits
from shadowline.data.synthetic_defects import INJECTED, PREFIX, injected_defects

_NUM_NAMED = 5  # refused files that an error names; the report names all


@dataclass(frozen=True)
class RefusedFile:
    name: str
    reason: Refusal
    message: str


class ImportReport(Artifact):
    """The result for every file that the source listed: num_found = num_imported − injected + refused + duplicates."""

    class_name: str
    num_found: int
    num_imported: int  # with the injected ones
    refused: tuple[RefusedFile, ...]
    num_injected: int  # test defects made of its own normals, where the source has none
    duplicates: tuple[tuple[str, str], ...]  # name, name of the one with the same content that was kept
    reasons: dict[str, int]  # refused files per reason
    splits: dict[str, int]  # imported images per split
    labels: dict[str, int]  # imported images per label
    left_out: dict[str, int] = Field({}, exclude_if=operator.not_)  # reason → files that the source does not list
    training_images: str  # in words: how many of those that could train were used, and how they were chosen


@dataclass(frozen=True)
class _Imported:
    source: SourceImage
    image_id: str
    path: Path
    mask_path: Path | None
    properties: ImageProperties


def run(class_name: str, params: Params, layout: Layout, progress: Progress) -> ImportReport:
    """Import one class below `layout.root`.

    Raises ValueError if the class is unknown, nothing could be imported, or more than `data.max_refused_share` was
    refused: then the report is written, and an earlier manifest stays as it was.
    """
    class_params = params.entry(class_name)
    source = list_source(class_name, class_params, layout.root)
    listed = [*list_additions(class_name, class_params, layout.additions), *source.images]
    read, refused = _read_all(listed, params.data, layout.images(class_name), progress, f"import {class_name}")
    kept, duplicates, contradictory = _settle_equal_content(read)
    kept = _at_one_depth(kept, class_params.bit_depth, params.data)
    rows = _rows(class_name, kept, params, layout)
    if injected := injected_defects(rows[~rows["bank_only"]], params, layout):
        added, _ = _read_all(injected, params.data, layout.images(class_name), progress, f"inject {class_name}")
        kept += _at_one_depth(added, class_bit_depth(rows), params.data)
        rows = _rows(class_name, kept, params, layout)
    _say_forecast(class_name, kept, rows, params, progress)
    training_images = _training_images(rows, params.of_class(class_name), params.seed)
    rows = rows.drop(columns=["split_hint", "received_at"])
    left_out = {reason: len(paths) for reason, paths in source.left_out.items()}
    refused_files = (*refused, *contradictory)
    report = _report(class_name, len(listed), rows, refused_files, duplicates, left_out, training_images)
    if _too_many_refused(report, params.data):
        report.write(layout.import_report(class_name))
        raise ValueError(_explain(report, params.data, layout))
    with replace_file(layout.manifest(class_name)) as temporary:
        write_manifest(rows, temporary)
    _remove_stale(layout, class_name, kept)
    report.write(layout.import_report(class_name))
    return report


def _say_forecast(
    class_name: str, kept: Iterable[_Imported], rows: pd.DataFrame, params: Params, progress: Progress
) -> None:
    """What the later stages will have too little of, said before anything is computed."""
    own = [image.source for image in kept if not image.source.name.startswith(INJECTED)]
    forecast = forecast_class(class_name, ClassCounts.of(own), params, SplitSizes.of_manifest(rows))
    for line in forecast.lines:
        progress.message(line)


def _read_all(
    listed: list[SourceImage], params: DataParams, folder: Path, progress: Progress, description: str
) -> tuple[list[_Imported], list[RefusedFile]]:
    imported: list[_Imported] = []
    refused: list[RefusedFile] = []
    written: set[str] = set()
    with progress.task(description, total=len(listed)) as task:
        for source in listed:
            try:
                image = _import_one(source, params, folder, written)
                imported.append(image)
                written.add(image.image_id)
            except RefusedImage as error:
                refused.append(RefusedFile(source.name, error.refusal, str(error)))
            task.advance()
    return imported, refused


def _import_one(source: SourceImage, params: DataParams, folder: Path, written: Container[str]) -> _Imported:
    """Read, judge and write one image with its mask; content in `written` keeps the mask that it came with first."""
    data = source.read(params.max_file_bytes + 1)
    properties = measure_image(data, params, name=source.name)
    mask = _merged_mask(source, params)
    image_id = content_id(data)
    if source.image_id not in ("", image_id):
        raise ValueError(f"{source.name}: the file's content is not {source.image_id[:12]}… any more; restore a backup")
    path = folder / f"{image_id}{SUFFIX_OF[properties.format]}"
    mask_path = None if mask is None else folder / "masks" / f"{image_id}.png"
    if image_id not in written:
        _write(path, data)
        if mask is not None and mask_path is not None:
            _write(mask_path, _mask_png(mask))
    return _Imported(source, image_id, path, mask_path, properties)


def _merged_mask(source: SourceImage, params: DataParams) -> npt.NDArray[np.bool_] | None:
    """(H, W) union of the image's masks, or None; the stage `validate` checks whether it fits the image."""
    parts = [_mask_part(source, number, params) for number in range(len(source.read_masks))]
    if not parts:
        return None
    if len({part.shape for part in parts}) > 1:
        sizes = sorted({f"{part.shape[1]} × {part.shape[0]}" for part in parts})
        message = f"{source.name}: its {len(parts)} masks have the sizes {', '.join(sizes)}; they must be equal"
        raise RefusedImage(Refusal.BAD_MASK, message)
    return np.asarray(np.logical_or.reduce(parts))


def _mask_part(source: SourceImage, number: int, params: DataParams) -> npt.NDArray[np.bool_]:
    try:
        data = source.read_masks[number](params.max_file_bytes + 1)
        name = f"mask {number + 1}"
        return read_mask(data, params, name=name)
    except RefusedImage as error:
        raise RefusedImage(Refusal.BAD_MASK, f"{source.name}: {error}") from None


def _mask_png(mask_HW: npt.NDArray[np.bool_]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.where(mask_HW, np.uint8(255), np.uint8(0))).save(buffer, "PNG")
    return buffer.getvalue()


def _settle_equal_content(
    read: list[_Imported],
) -> tuple[list[_Imported], tuple[tuple[str, str], ...], tuple[RefusedFile, ...]]:
    """Of files with equal bytes keep the first, unless their labels differ: then refuse them all."""
    groups: dict[str, list[_Imported]] = {}
    for image in read:
        groups.setdefault(image.image_id, []).append(image)
    kept, duplicates, refused = [], [], []
    for first, *others in groups.values():
        if len({image.source.label for image in (first, *others)}) > 1:
            refused += [_contradiction(image, (first, *others)) for image in (first, *others)]
            continue
        kept.append(first)
        duplicates += [(other.source.name, first.source.name) for other in others]
    return kept, tuple(duplicates), tuple(refused)


def _at_one_depth(kept: list[_Imported], bit_depth: int | None, params: DataParams) -> list[_Imported]:
    """The images, those with more than 8 bits measured at one bit depth: the given one, else the largest of theirs."""
    deepest = max((bits for image in kept if (bits := mode_depth(image.properties.mode))), default=None)
    depth = bit_depth or deepest
    return [_at_depth(image, depth, params) if mode_depth(image.properties.mode) != depth else image for image in kept]


def _at_depth(image: _Imported, bit_depth: int | None, params: DataParams) -> _Imported:
    if bit_depth is None or mode_depth(image.properties.mode) is None:
        return image
    return replace(image, properties=measure_image(image.path, params, bit_depth, name=image.source.name))


def _contradiction(image: _Imported, group: Iterable[_Imported]) -> RefusedFile:
    others = [f"{other.source.name} ({other.source.label})" for other in group if other is not image]
    message = (
        f"{image.source.name} ({image.source.label}): same content as {', '.join(others)}; decide on one label and "
        "delete the others"
    )
    return RefusedFile(image.source.name, Refusal.CONTRADICTORY_LABELS, message)


def _rows(class_name: str, kept: list[_Imported], params: Params, layout: Layout) -> pd.DataFrame:
    """The manifest's rows, with split_hint and received_at; `captured_at` is NaT where the source does not know."""
    importer = params.classes[class_name].source
    rows = pd.DataFrame(
        [
            {
                "image_id": image.image_id,
                "path": image.path.relative_to(layout.root).as_posix(),
                "class_name": class_name,
                "label": image.source.label.value,
                "defect_type": image.source.defect_type,
                "split_hint": image.source.split_hint.value if image.source.split_hint else "",
                "mask_path": image.mask_path.relative_to(layout.root).as_posix() if image.mask_path else "",
                **asdict(image.properties),
                "source": f"{ADDED if image.source.received_at else importer}:{image.source.name}",
                "bank_only": image.source.bank_only,
            }
            for image in kept
        ],
        columns=[*(name for name in COLUMNS if name not in ("split", "captured_at")), "split_hint"],
    )
    captured, received = ([getattr(image.source, name) for image in kept] for name in ("captured_at", "received_at"))
    rows = rows.assign(captured_at=_times(captured), received_at=_times(received)).astype({"bank_only": bool})
    return assign_splits(rows, params.of_class(class_name), params.seed)


def _times(values: list[datetime | None]) -> pd.Series:
    return pd.to_datetime(pd.Series(values, dtype=object), utc=True)


def _training_images(rows: pd.DataFrame, params: DataParams, seed: int) -> str:
    """How the training images were chosen, for people: `200 of 588 training images used: …`."""
    candidates = rows[assign_pools(rows, params, seed) == Split.TRAIN]
    settled, later = (candidates[candidates["bank_only"] == bank_only] for bank_only in (False, True))
    used = int((settled["split"] == Split.TRAIN).sum())
    text = f"{used} of {len(settled)} training images used"
    if used < len(settled):
        is_dated = settled[["captured_at", "received_at"]].notna().any(axis=None)
        text += ": the newest half, and those that differ most" if is_dated else ": chosen by content hash, no dates"
    if len(later):
        in_bank = int((later["split"] == Split.TRAIN).sum())
        text += f"; {in_bank} of {len(later)} that came later are in the bank alone until the next retraining"
    return text


def _report(
    class_name: str,
    num_found: int,
    rows: pd.DataFrame,
    refused: tuple[RefusedFile, ...],
    duplicates: tuple[tuple[str, str], ...],
    left_out: dict[str, int],
    training_images: str,
) -> ImportReport:
    splits, labels = Counter(rows["split"]), Counter(rows["label"])
    return ImportReport(
        class_name=class_name,
        num_found=num_found,
        num_imported=len(rows),
        num_injected=int(rows["defect_type"].str.startswith(PREFIX).sum()),
        refused=refused,
        duplicates=duplicates,
        reasons=dict(sorted(Counter(file.reason.value for file in refused).items())),
        splits={split.value: splits[split] for split in Split},
        labels={label.value: labels[label] for label in Label},
        left_out=left_out,
        training_images=training_images,
    )


def _too_many_refused(report: ImportReport, params: DataParams) -> bool:
    return report.num_imported == 0 or len(report.refused) > params.max_refused_share * report.num_found


def _explain(report: ImportReport, params: DataParams, layout: Layout) -> str:
    named = "\n".join(f"  {file.message}" for file in report.refused[:_NUM_NAMED])
    return (
        f"class '{report.class_name}': {len(report.refused)} of {report.num_found} files refused, at most "
        f"{params.max_refused_share:.0%} may be; mend them or raise data.max_refused_share; "
        f"all are named in {layout.import_report(report.class_name)}, the first are\n{named}"
    )


def _write(path: Path, data: bytes) -> None:
    """Write the file in one step; a file that already holds `data` is left alone."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def _remove_stale(layout: Layout, class_name: str, kept: list[_Imported]) -> None:
    """Remove images that the manifest does not name: of an earlier source, or half written by a killed run.

    What a kill leaves beside the manifest and the report, the next `replace_file` of the same path replaces.
    """
    named = {image.path for image in kept} | {image.mask_path for image in kept if image.mask_path}
    stale = [path for path in layout.images(class_name).rglob("*") if path not in named and not path.is_dir()]
    for path in stale:
        path.unlink()
