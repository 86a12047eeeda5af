"""Before a full retraining: train on images that inspectors labelled in production, and on images added to banks.

    take_in(root, engine)       # enters them into params.yaml as images that the decoder learns from

A kept image (`data/inspected`) is taken in where its label is settled and no class holds it yet. Normal images go to
the train split alone: they were kept because a model flagged them, so that neither a threshold nor a false-alarm rate
may be measured on them. Anomalous images are known defects, and go to tune or test by content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import Engine

from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.params_file import editing
from shadowline.data.additions import Additions, KnownImage, Offer, known_images
from shadowline.data.images import RefusedImage, measure_image, read_bounded
from shadowline.data.labels import Label, Split
from shadowline.data.sources.source_image import GOOD, reader
from shadowline.data.splits import newest_and_most_different
from shadowline.records.label_settlement import SettledLabel, settle_label
from shadowline.records.traces import LabelEvent, first_captured, words_by_image

DEFECT_TYPE = "production"  # of defects that inspectors found; a label does not name the kind


@dataclass(frozen=True)
class Collected:
    """The images that production gave one class."""

    class_name: str
    index: str  # of the new images; "" where there are none
    num_normal: int
    num_anomalous: int
    num_left: int  # labelled and settled, over the maximum; they stay where they are
    disputed: tuple[str, ...]  # image ids
    changed: tuple[str, ...]  # image ids, of images that came in
    refused: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"class {self.class_name}: {self.num_normal} normal and {self.num_anomalous} anomalous images that were "
            f"labelled in production, {self.num_left} more over the maximum, {len(self.disputed)} disputed"
        )


@task(cache_policy=NO_CACHE)
def take_in(root: Path, engine: Engine) -> list[Collected]:
    """Collect images for every class, and mark all additions in params.yaml as images to train on.

    `engine`: of the records, which hold the labels.
    """
    layout = Layout(root)
    params = load_params(layout.params)
    existing = known_images(params.classes, layout)
    collected = [_collect(class_name, existing, params, layout, engine) for class_name in params.classes]
    for result in collected:
        _log(result)
    new = {result.class_name: result.index for result in collected if result.index}
    if new or any(not addition.trained for cls in params.classes.values() for addition in cls.additions):
        with editing(layout.params) as content:
            for class_name, entry in content["classes"].items():
                _take_in(entry, new.get(class_name, ""))
        load_params(layout.params)
    return collected


def _take_in(entry: dict[str, Any], index: str) -> None:
    additions = [*entry.get("additions", []), *([{"index": index}] if index else [])]
    if additions:
        entry["additions"] = [{**addition, "trained": True} for addition in additions]


def _log(collected: Collected) -> None:
    if collected.index or collected.disputed or collected.refused:
        get_run_logger().info("%s", collected)
    for image_id in collected.disputed:
        get_run_logger().warning("class %s: %s is left out: inspectors disagree", collected.class_name, image_id)
    for image_id in collected.changed:
        get_run_logger().warning("class %s: %s: its label was changed", collected.class_name, image_id)
    for line in collected.refused:
        get_run_logger().warning("class %s: refused %s", collected.class_name, line)


# --- one class ------------------------------------------------------------------------------------------------------


def _collect(
    class_name: str, existing: Mapping[str, KnownImage], params: Params, layout: Layout, engine: Engine
) -> Collected:
    events = words_by_image(engine, class_name)
    kept = {path.stem: path for path in sorted((layout.inspected / class_name).glob("[!.]*")) if path.stem in events}
    labels = {image_id: settle_label(events[image_id]) for image_id in kept if image_id not in existing}
    settled = {image_id: label for image_id, label in labels.items() if label is not None}
    offers, num_left, refused = _choose(class_name, kept, settled, params, layout, engine)
    additions = Additions(layout.additions, class_name)
    intake = additions.keep(offers, existing, params.data, datetime.now(UTC))
    taken = {addition.image_id: addition.label for addition in intake.new}
    return Collected(
        class_name=class_name,
        index=additions.write(intake.new) if taken else "",
        num_normal=list(taken.values()).count(Label.NORMAL),
        num_anomalous=list(taken.values()).count(Label.ANOMALOUS),
        num_left=num_left,
        disputed=tuple(sorted(set(labels) - set(settled))),
        changed=tuple(sorted(image_id for image_id in taken if settled[image_id].was_changed)),
        refused=(*refused, *intake.refused, *_changed_since(events, existing, class_name)),
    )


def _choose(
    class_name: str,
    kept: Mapping[str, Path],
    settled: Mapping[str, SettledLabel],
    params: Params,
    layout: Layout,
    engine: Engine,
) -> tuple[list[Offer], int, list[str]]:
    """The newest and most different images, as many as a class may have; how many are left; the refused files."""
    captured = first_captured(engine, class_name, set(settled))
    rows, refused = [], list[str]()
    for image_id, label in settled.items():
        try:
            rows.append(_row(image_id, kept[image_id], label, captured, params))
        except RefusedImage as error:
            refused.append(str(error))
    limits = params.data
    chosen: list[str] = []
    for wanted, maximum in (
        (Label.NORMAL, limits.max_train),
        (Label.ANOMALOUS, limits.max_test_anomalous + limits.max_tune),
    ):
        frame = pd.DataFrame([row for row in rows if row["label"] == wanted])
        if len(frame):
            chosen += newest_and_most_different(frame, maximum, params.seed)["image_id"].tolist()
    dates = {row["image_id"]: row["captured_at"] for row in rows}
    offers = [_offer(kept[image_id], settled[image_id], dates[image_id], layout) for image_id in chosen]
    return offers, len(rows) - len(chosen), refused


def _row(
    image_id: str, path: Path, label: SettledLabel, captured: Mapping[str, datetime], params: Params
) -> dict[str, Any]:
    """The properties that the choice reads. No image is newer than its label, whatever a camera's clock says."""
    limits = params.data
    data = read_bounded(path, limits.max_file_bytes + 1)
    properties = measure_image(data, limits, name=path.as_posix())
    captured_at = min(captured.get(image_id, label.at), label.at)
    described = {"image_id": image_id, "label": str(label.label), "defect_type": "", "split_hint": ""}
    return {**described, "captured_at": captured_at, **asdict(properties)}


def _offer(path: Path, label: SettledLabel, captured_at: datetime, layout: Layout) -> Offer:
    is_normal = label.label is Label.NORMAL
    return Offer(
        name=path.as_posix(),
        kind=GOOD if is_normal else DEFECT_TYPE,
        read=reader(layout.inspected, path),
        origin=f"{path.relative_to(layout.inspected).as_posix()}, {label}",
        split_hint=Split.TRAIN if is_normal else None,
        captured_at=captured_at,
    )


def _changed_since(
    events: Mapping[str, tuple[LabelEvent, ...]], existing: Mapping[str, KnownImage], class_name: str
) -> list[str]:
    """A line for each image of the class whose label inspectors have changed since it was taken in."""
    lines = []
    for image_id, history in events.items():
        held, label = existing.get(image_id), settle_label(history)
        if held is None or held.class_name != class_name or held.label == Label.UNKNOWN:
            continue
        if label is None or label.label != held.label:
            now = str(label) if label else "disputed"
            lines.append(f"{image_id}: in the class as {held.label}, now {now}; correct its source or take it out")
    return lines
