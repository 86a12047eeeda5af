"""A new product from Prefect: its images, its starter model, and its place in the multi-class model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from prefect import get_run_logger, task

from shadowline.atomic import write_json
from shadowline.detectors.load import Kind
from shadowline.device import pick_device
from shadowline.encoder import load_encoder
from shadowline.enrolment import Advice, EnrolmentPhase, Trial, advise, choose_phase, missing_images
from shadowline.features import FeatureFile, Key
from shadowline.identification import ClassIdentity, Identities
from shadowline.images import open_within
from shadowline.inbox import Inbox, Stock, classes_waiting, named_images
from shadowline.inspector import class_fingerprints
from shadowline.legacy import LegacyModel, Stated, examine
from shadowline.manifest import Split, read_manifest
from shadowline.params import Params, load_params
from shadowline.paths import Layout
from shadowline.shadowing import SUFFIXES
from shadowline.stages.features import ids_of
from shadowline.stages.identity import embed_all
from shadowline.starter import build_few_shot, build_zero_shot, try_few_shot, try_zero_shot
from shadowline.winclip.weights import MissingWeightsError
from tasks.legacy import list_legacy
from tasks.pipeline import stale_targets
from tasks.storage import folders_of, local_copy

_NUM_NAMED = 5  # images that an error names
_STARTERS = {str(Kind.WINCLIP): EnrolmentPhase.ZERO_SHOT, str(Kind.FEW_SHOT): EnrolmentPhase.FEW_SHOT}


class RefusedEnrolmentError(ValueError):
    """The evidence speaks against it; everything is as it was before. The message says why."""


@dataclass(frozen=True)
class Before:
    """What an enrolment must leave as it is, and what it is compared with."""

    class_fingerprints: dict[str, str]
    auroc: float | None  # of the class, where the model knows it already


# --- images ---------------------------------------------------------------------------------------------------------


@task
def take_images(class_name: str, location: str, layout: Layout, params: Params) -> Stock:
    """Copy new images from a folder or an s3:// prefix into the class's inbox; returns all that lies there.

    Raises ValueError that names the images, with none of them kept, where too many cannot be trusted.
    """
    inbox = Inbox(layout.inbox, class_name)
    if location:
        folder = local_copy(location, layout.scratch / "inbox", SUFFIXES, drop_gone=True)
        offered = list(named_images(folder))
        done = inbox.take(offered, params.data)
        if len(done.refused) > params.data.max_refused_share * len(offered):
            for path in done.new:
                path.unlink()
                with suppress(OSError):  # others lie there; a class without any would be taken for a new one
                    os.removedirs(path.parent)
            raise ValueError(_name_all(f"class '{class_name}': {len(done.refused)} images refused", done.refused))
        for line in done.refused:
            get_run_logger().warning("refused %s", line)
    return inbox.stock


def _name_all(subject: str, lines: Sequence[str]) -> str:
    more = f"\n  and {len(lines) - _NUM_NAMED} more" if len(lines) > _NUM_NAMED else ""
    return f"{subject}:\n  " + "\n  ".join(lines[:_NUM_NAMED]) + more


# --- the first days -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Starter:
    """A starter model that has been tried; `model` is None where it may not answer."""

    phase: EnrolmentPhase
    trial: Trial
    advice: Advice
    model: LegacyModel | None


@task
def make_starter(class_name: str, stock: Stock, params: Params, layout: Layout) -> Starter:
    """Words where there is no image, the better of words and references where there are some; tried and examined.

    Raises MissingWeightsError where there are neither images nor weights for words.
    """
    phase = choose_phase(len(stock.normals), params.enrolment)
    directory = layout.starter(class_name)
    shutil.rmtree(directory, ignore_errors=True)
    if phase is EnrolmentPhase.ZERO_SHOT:
        trial = Trial(None, 0, len(stock.defects), injected=False)
        build_zero_shot(class_name, params, layout.root).save(directory)
    else:
        phase, trial = _make_of_images(class_name, stock, params, layout, directory)
    advice = advise(phase, trial, params.enrolment)
    stated = Stated(auroc=trial.auroc)
    may_answer = advice is Advice.DEPLOY
    model = examine(class_name, str(directory), params, layout, stated) if may_answer else None
    return Starter(phase, trial, advice, model)


def _make_of_images(
    class_name: str, stock: Stock, params: Params, layout: Layout, directory: Path
) -> tuple[EnrolmentPhase, Trial]:
    """References, unless words are here, may answer by the deployment rule, and tell more apart."""
    normals, defects = (_open(paths, params) for paths in (stock.normals, stock.defects))
    encoder = load_encoder(layout.encoder, pick_device())
    trial = try_few_shot(class_name, normals, defects, encoder, params)
    with suppress(MissingWeightsError):
        words = build_zero_shot(class_name, params, layout.root)
        of_words = try_zero_shot(words, normals, defects, params)
        may_answer = advise(EnrolmentPhase.ZERO_SHOT, of_words, params.enrolment) is Advice.DEPLOY
        if may_answer and (of_words.auroc or 0.0) > (trial.auroc or 0.0):
            words.save(directory)
            return EnrolmentPhase.ZERO_SHOT, of_words
    build_few_shot(class_name, normals, encoder, params).save(directory, layout.encoder)
    return EnrolmentPhase.FEW_SHOT, trial


def _open(paths: Sequence[Path], params: Params) -> list[Image.Image]:
    """As many as a starter or its trial can use."""
    return [open_within(path, params.data) for path in paths[: params.enrolment.few_shot_images]]


# --- into the model -------------------------------------------------------------------------------------------------


def refuse_known(class_name: str, params: Params, *, update: bool, resumed: bool) -> None:
    """A class that exists is updated on demand only, and only one that came in through the inbox."""
    known = params.classes.get(class_name)
    if resumed:  # killed when all was done but the registration
        return
    if known is None and update:
        raise ValueError(f"class '{class_name}' is not in the model; enrol it with `shadowline enroll`")
    if known is not None and not update:
        raise ValueError(f"class '{class_name}' is in the model already; `shadowline bank update` adds images to it")
    if update and class_name in params.train.classes:
        raise ValueError(
            f"class '{class_name}': the decoder learns from it, so that more images of it change every class; add them "
            f"to {known.location if known else 'its location'} and run `shadowline retrain`"
        )
    if known is not None and Path(known.location) != Inbox(Layout().inbox, class_name).folder:
        raise ValueError(
            f"class '{class_name}' is imported from {known.location}; add the images there and run `shadowline retrain`"
        )


@task
def look_before(class_name: str, root: Path) -> Before:
    """What is in the model now. Raises ValueError where a stage is stale: an enrolment would run it as well."""
    layout = Layout(root)
    others = sorted(one for one in stale_targets(root) if one != f"import@{class_name}")
    if others or not layout.package.is_dir():
        stale = ", ".join(others) or "package"
        raise ValueError(f"stages {stale} are not up to date; run `shadowline retrain` first, so that only "
                         f"'{class_name}' changes now")  # fmt: skip
    return Before(class_fingerprints(layout.package), _auroc_of(class_name, layout))


def _auroc_of(class_name: str, layout: Layout) -> float | None:
    """What the evaluation measured last; None of a class that it does not know."""
    metrics = layout.evaluation(class_name) / "metrics.json"
    if not metrics.is_file():
        return None
    return float(json.loads(metrics.read_text(encoding="utf-8"))["image"]["auroc"]["value"])


def accept(class_name: str, before: Before, root: Path, summary: dict[str, Any]) -> None:
    """Raises RefusedEnrolmentError where the class looks like another one, fails a gate, touches another class, or got
    worse by the new images."""
    layout = Layout(root)
    params = load_params(layout.params)
    alike = look_alikes(class_name, params, layout)
    num_images = sum(summary["num_images"][class_name].values())
    if len(alike) > params.enrolment.max_lookalikes * num_images:
        raise RefusedEnrolmentError(_name_all(f"class '{class_name}': {len(alike)} images look like another", alike))
    _refuse_touched(class_name, before, layout)
    verdict = summary["verdict"]
    if not verdict["passed"]:
        reasons = [one["reason"] for one in verdict["checks"] if not one["passed"] and not one["advisory"]]
        raise RefusedEnrolmentError(_name_all(f"class '{class_name}': gates not passed", reasons))
    _refuse_loss(class_name, before, params, layout)


def look_alikes(class_name: str, params: Params, layout: Layout) -> list[str]:
    """The class's own normal images that another class of the model would rather call its own, with its name."""
    manifest = read_manifest([layout.manifest(class_name)])
    normal = [*ids_of(manifest, Split.TRAIN), *ids_of(manifest, Split.VAL)]
    names = dict(zip(manifest["image_id"], manifest["source"], strict=True))
    classes = {name: ClassIdentity.load(layout.identity(name)) for name in params.classes}
    identities = Identities.of(classes)
    embedded = embed_all(FeatureFile(layout.features(class_name)), [Key(image_id) for image_id in normal]).numpy()
    found = zip(normal, (identities.identify(one) for one in embedded), strict=True)
    return [f"{names[i]}: looks like {one.class_name}" for i, one in found if one.class_name not in {None, class_name}]


def _refuse_touched(class_name: str, before: Before, layout: Layout) -> None:
    after = class_fingerprints(layout.package)
    touched = sorted(
        name for name, old in before.class_fingerprints.items() if name != class_name and after[name] != old
    )
    if touched:
        raise RefusedEnrolmentError(
            f"class '{class_name}': {', '.join(touched)} would change as well; nothing was changed"
        )


def _refuse_loss(class_name: str, before: Before, params: Params, layout: Layout) -> None:
    after = _auroc_of(class_name, layout)
    if before.auroc is None or after is None:
        return
    get_run_logger().info("class %s: AUROC %.3f before, %.3f now", class_name, before.auroc, after)
    if after < before.auroc - params.enrolment.max_loss:
        raise RefusedEnrolmentError(
            f"class '{class_name}': AUROC {after:.3f} with the new images, {before.auroc:.3f} without, may lose "
            f"{params.enrolment.max_loss:g}; look at the new images"
        )


# --- how things stand -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolment:
    """Where one class stands on its way in."""

    class_name: str
    num_normal: int  # in the inbox
    num_defects: int
    due: EnrolmentPhase  # by its images
    reached: EnrolmentPhase | None  # by what is on record; None: nothing answers yet
    auroc: float | None  # of the starter's trial
    missing: int  # normal images that the next phase lacks

    @property
    def is_due(self) -> bool:
        """More images make a better few-shot model, and other phases are entered once."""
        return self.reached is not EnrolmentPhase.BANK and (
            self.due is not self.reached or self.due is EnrolmentPhase.FEW_SHOT
        )


def list_enrolments(root: Path) -> list[Enrolment]:
    """Every class that has a folder in the inbox, or a starter model on record."""
    layout = Layout(root)
    params = load_params(layout.params)
    tags = {one.place.class_name: one.tags for one in reversed(list_legacy())}
    started = {name for name, found in tags.items() if found.get("kind") in _STARTERS}
    names = sorted({*classes_waiting(layout.inbox), *started})
    return [_enrolment(name, params, layout, tags.get(name, {})) for name in names]


def _enrolment(class_name: str, params: Params, layout: Layout, tags: dict[str, str]) -> Enrolment:
    """`tags`: of the class's newest model in the place of a legacy one."""
    stock = Inbox(layout.inbox, class_name).stock
    num_normal = len(stock.normals)
    reached = EnrolmentPhase.BANK if class_name in params.classes else _STARTERS.get(tags.get("kind", ""))
    auroc = float(tags["auroc"]) if "auroc" in tags else None
    due, missing = choose_phase(num_normal, params.enrolment), missing_images(num_normal, params.enrolment)
    return Enrolment(class_name, num_normal, len(stock.defects), due, reached, auroc, missing)


@task
def collect_due(location: str, root: Path) -> list[str]:
    """Classes whose images allow more than is on record, each tried once for the images that it has.

    `location`: an s3:// prefix with a folder per class, whose new images are taken into the inbox first; or nothing.
    A class whose images cannot be taken in is named in the log, and keeps no other from its turn.
    """
    layout = Layout(root)
    params = load_params(layout.params)
    for class_name in folders_of(location) if location else ():
        try:
            take_images.fn(class_name, f"{location.rstrip('/')}/{class_name}", layout, params)
        except (FileNotFoundError, ValueError) as error:
            get_run_logger().error("class '%s' not taken in: %s", class_name, error)
    due = {one.class_name: one.num_normal + one.num_defects for one in list_enrolments(root) if one.is_due}
    tried = json.loads(layout.enrolments_tried.read_text()) if layout.enrolments_tried.is_file() else {}
    write_json(layout.enrolments_tried, {**tried, **due})
    return sorted(name for name, num_images in due.items() if tried.get(name) != num_images)
