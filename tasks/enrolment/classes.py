"""Classes of params.yaml: one is added, gets another name, or is removed from everything but the history.

    add_class("bolt", ClassParams(source="folder", location="/srv/images"), root, learns=True)
    rename_class("blot", "bolt", root, records)
    remove_class("bolt", root, records, "Ada", "made no more")

Only params.yaml, the inbox and what the stages made are changed, and the rollout by an event. `shadowline retrain`
makes the version that knows the new classes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import CLASS_NAME_PATTERN, ClassParams, Params, class_key, load_params
from shadowline.core.params_file import editing
from shadowline.data.class_forecast import ClassCounts, ClassForecast, forecast_class
from shadowline.data.sources import list_images
from shadowline.enrolment.inbox import Inbox
from shadowline.records.stores import Records
from shadowline.rollout.engine import retire
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import STAYS, ClassState, RolloutState
from tasks.enrolment.params_transaction import recover_enrolment
from tasks.integrations.git import project_lock

_OUTSIDE = "outside the rollout"


@dataclass(frozen=True)
class Removal:
    """What a removal found and did."""

    was_in_params: bool
    retired_from: str | None  # its phase, or "outside the rollout"; None: no model answered for it
    inbox: Path | None  # where its waiting images lie now; None: there were none


def add_class(class_name: str, entry: ClassParams, root: Path, *, learns: bool) -> ClassForecast:
    """Add the class to params.yaml; `learns`: the decoder learns from it at the next retraining.

    Raises ValueError, with nothing changed, for a name that is taken or illegal, a source that cannot be read, and
    images that are too few for a model. Returns what the images allow.
    """
    with project_lock(root):
        recover_enrolment(root)
        layout = Layout(root)
        params = load_params(layout.params)
        _check_new_name(class_name, params)
        counts = ClassCounts.of(list_images(class_name, entry, root))
        planned = params.model_copy(update={"classes": {**params.classes, class_name: entry}})
        forecast = forecast_class(class_name, counts, planned)
        if forecast.problems:
            raise ValueError("\n".join(forecast.lines[: len(forecast.problems)]))

        def add(content: dict[str, Any]) -> None:
            content["classes"][class_name] = entry.model_dump(mode="json", exclude_defaults=True)
            if learns:
                content["train"]["classes"].append(class_name)

        _change_params(layout, add)
        return forecast


def rename_class(old: str, new: str, root: Path, records: Records) -> None:
    """Give a class another name in params.yaml, in the inbox, among the additions and in what was computed.

    Raises ValueError, with nothing changed, for a class that is in the rollout or has models on record: those are
    signed under its name.
    """
    with project_lock(root):
        recover_enrolment(root)
        layout = Layout(root)
        params = load_params(layout.params)
        entry_before = params.entry(old)
        _check_new_name(new, params)
        _refuse_signed_name(old, new, records)
        inbox_moves = layout.root / entry_before.location == Inbox(layout.inbox, old).folder

        def rename(content: dict[str, Any]) -> None:
            entry = content["classes"][old]
            content["classes"].insert(list(content["classes"]).index(old), new, entry)
            del content["classes"][old]
            if inbox_moves:
                entry["location"] = Inbox(layout.inbox, new).folder.relative_to(root).as_posix()
            elif not entry.get("select") and (root / entry["location"] / old).is_dir():
                entry["select"] = old
            learning = content["train"]["classes"]
            if old in learning:
                learning[learning.index(old)] = new

        _change_params(layout, rename)
        _move(Inbox(layout.inbox, old).folder, Inbox(layout.inbox, new).folder)
        if (layout.additions / old).is_dir():  # copied: versions that are registered name the old folder
            shutil.copytree(layout.additions / old, layout.additions / new, dirs_exist_ok=True)
        for place in (layout.images, layout.features):  # named by content: nothing is encoded again
            _move(place(old), place(new))
        layout.forget(old)


def remove_class(class_name: str, root: Path, records: Records, by: str, why: str) -> Removal:
    """Take the class out of rollout, params.yaml and inbox, and remove what the stages made of it.

    Its events, pairs, labels, registered versions, additions and kept images stay. Repeating it after a kill finishes
    it. Raises ValueError, with nothing changed, for a class that is nowhere, and for the only one that is left.
    """
    with project_lock(root):
        recover_enrolment(root)
        layout = Layout(root)
        params = load_params(layout.params)
        now, state = datetime.now(UTC), records.rollout.state()
        inbox = Inbox(layout.inbox, class_name).folder
        answered = _answered(class_name, state, records, now)
        if answered is None and not inbox.is_dir() and class_name not in layout.imported_classes():
            params.entry(class_name)
        _refuse_last(class_name, params)
        if answered is not None:
            records.rollout.commit(retire(state, answered, now, by, why))

        def remove(content: dict[str, Any]) -> None:
            content["classes"].pop(class_name, None)
            if class_name in content["train"]["classes"]:
                content["train"]["classes"].remove(class_name)

        if class_name in params.classes:
            _change_params(layout, remove)
        archive = layout.retired(class_name) / f"{now:%Y-%m-%dT%H%M%SZ}"
        moved = _move(inbox, archive)
        layout.forget(class_name)
        shutil.rmtree(layout.starter(class_name), ignore_errors=True)
        planned = any(cls.class_name == class_name for cls in state.classes)
        place = (str(answered.phase) if planned else _OUTSIDE) if answered else None
        return Removal(class_name in params.classes, place, archive if moved else None)


def _answered(class_name: str, state: RolloutState, records: Records, now: datetime) -> ClassState | None:
    """The class in the rollout, or with the models on record that answer for it outside; None where none does."""
    for cls in state.classes:
        if cls.class_name == class_name:
            return cls
    known = records.locations.known_models().get(class_name)
    if known is None or class_name in state.retired_names:
        return None
    return ClassState(class_name, STAYS, Phase.LEGACY, now, known.legacy or "", known.champion or "", share=0.0)


def _change_params(layout: Layout, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit params.yaml; where the result breaks its schema, the file is as it was, and ValueError says why."""
    before = layout.params.read_bytes()
    try:
        with editing(layout.params) as content:
            change(content)
        load_params(layout.params)
    except BaseException:
        with replace_file(layout.params) as temporary:
            temporary.write_bytes(before)
        raise


def _check_new_name(class_name: str, params: Params) -> None:
    if not re.fullmatch(CLASS_NAME_PATTERN, class_name):
        raise ValueError(
            f"class {class_name!r}: use a-z, 0-9, _ and -, at most 64 of them; name it {class_key(class_name)}, and "
            "its folder by --select"
        )
    if class_name in params.classes:
        raise ValueError(f"class {class_name!r} is in params.yaml already; `shadowline data list` lists the classes")


def _refuse_last(class_name: str, params: Params) -> None:
    for key, names in (("classes", list(params.classes)), ("train.classes", list(params.train.classes))):
        if names == [class_name]:
            raise ValueError(f"class {class_name!r} is the only one in {key} of params.yaml; add another one first")


def _refuse_signed_name(old: str, new: str, records: Records) -> None:
    way_out = f"add {new!r} with `shadowline class add`, and remove {old!r} with `shadowline class remove`"
    for cls in records.rollout.state().classes:
        if cls.class_name == old:
            raise ValueError(f"class {old!r} is in the rollout ({cls.phase}), signed under its name; {way_out}")
    if old in records.locations.known_models():
        raise ValueError(f"class {old!r} has a legacy model or a champion, signed under its name; {way_out}")


def _move(source: Path, target: Path) -> bool:
    """Whether there was something to move."""
    if not source.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    return True
