"""Enrolment of a new product: its images, its starter model, and its entry into the multi-class model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import get_run_logger, task
from sklearn.metrics import roc_auc_score

from shadowline.core.atomic_files import read_json, write_json
from shadowline.core.device import pick_device
from shadowline.core.hashing import file_sha256
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.core.progress import default_progress
from shadowline.core.secrets import mask
from shadowline.data.additions import Addition, Additions, Intake, Offer, known_images
from shadowline.data.bit_depth import bit_depth_of
from shadowline.data.images import ImageFiles, decode_image
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.data.sources.source_image import reader
from shadowline.enrolment.inbox import Inbox, InboxContents, OfferedFolder, classes_waiting, read_folder
from shadowline.enrolment.policy import Advice, EnrolmentPhase, Trial, advise, choose_phase, missing_images
from shadowline.enrolment.starter import build_few_shot, build_zero_shot, try_few_shot, try_zero_shot
from shadowline.evaluation.summary import Summary
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.features.encoder import load_encoder
from shadowline.features.keys import ids_of
from shadowline.inference.shadow_batch import SUFFIXES
from shadowline.models.class_identification import ClassIdentity, Identities
from shadowline.models.fingerprints import class_fingerprints
from shadowline.models.legacy_validation import DeclaredMetrics, LegacyModel, validate_legacy_model
from shadowline.models.loader import DetectorKind
from shadowline.models.winclip.weights import MissingWeightsError
from shadowline.records.stores import open_records
from shadowline.stages.identity import embed_all
from tasks.integrations.dvc_pipeline import stale_targets
from tasks.integrations.git import project_lock
from tasks.integrations.object_storage import folders_of, local_copy
from tasks.rollout.legacy_models import list_legacy

_NUM_NAMED = 5  # images that an error names
_STARTERS = {str(DetectorKind.WINCLIP): EnrolmentPhase.ZERO_SHOT, str(DetectorKind.FEW_SHOT): EnrolmentPhase.FEW_SHOT}


class RefusedEnrolmentError(ValueError):
    """The enrolment is refused, and everything is as it was before. The message says why."""


@dataclass(frozen=True)
class EvaluationBaseline:
    """The state before an enrolment: what must not change, and the scores to compare with."""

    class_fingerprints: dict[str, str]
    decoder_sha256: str
    scores: pd.DataFrame | None  # of the class's test images, where the model knows it already


# --- images ---------------------------------------------------------------------------------------------------------


@task
def take_images(class_name: str, location: str, layout: Layout, params: Params) -> InboxContents:
    """Copy new images from a folder or an s3:// prefix into the class's inbox; returns all that lies there.

    Raises ValueError that names the images, with none of them kept, where too many are refused.
    """
    inbox = Inbox(layout.inbox, class_name)
    if location:
        folder = local_copy(location, layout.scratch / "inbox", SUFFIXES, drop_gone=True)
        offered = read_folder(folder, class_name)
        done = inbox.take(offered.images, params.data)
        if len(done.refused) > params.data.max_refused_share * len(offered.images):
            for path in done.new:
                path.unlink()
                with suppress(OSError):  # other images lie there; an empty folder would be taken for a new class
                    os.removedirs(path.parent)
            raise ValueError(_name_all(f"class '{class_name}': {len(done.refused)} images refused", done.refused))
        _say_left_out(class_name, offered)
        for line in done.refused:
            get_run_logger().warning("refused %s", line)
    return inbox.stock


def _say_left_out(class_name: str, offered: OfferedFolder) -> None:
    for reason, count in offered.left_out.items():
        get_run_logger().info("class '%s': left out %s, %d times", class_name, reason, count)


def _name_all(subject: str, lines: Sequence[str]) -> str:
    more = f"\n  and {len(lines) - _NUM_NAMED} more" if len(lines) > _NUM_NAMED else ""
    return f"{subject}:\n  " + "\n  ".join(lines[:_NUM_NAMED]) + more


@task
def take_additions(class_name: str, location: str, layout: Layout, params: Params) -> Intake:
    """New images of a class of the model, from a folder or an s3:// prefix, or else from its inbox.

    Raises ValueError that names the images where too many are refused.
    """
    offers = _offers(class_name, location, layout, params)
    existing = known_images(params.classes, layout)
    taken = Additions(layout.additions, class_name).keep(offers, existing, params.data, datetime.now(UTC))
    if len(taken.refused) > params.data.max_refused_share * len(offers):
        raise ValueError(_name_all(f"class '{class_name}': {len(taken.refused)} images refused", taken.refused))
    for line in taken.refused:
        get_run_logger().warning("refused %s", line)
    return taken


def entry_with(class_name: str, new: Sequence[Addition], params: Params, layout: Layout) -> dict[str, Any]:
    """The part of the class's entry in params.yaml that the images change."""
    additions = [
        addition.model_dump(mode="json", exclude_defaults=True) for addition in params.classes[class_name].additions
    ]
    if new:
        additions.append({"index": Additions(layout.additions, class_name).write(new)})
    return {"additions": additions} if additions else {}


def count_normals(class_name: str, layout: Layout) -> int:
    """Normal images of a class of the model, in all splits."""
    return int((read_manifest([layout.manifest(class_name)])["label"] == Label.NORMAL).sum())


def _offers(class_name: str, location: str, layout: Layout, params: Params) -> list[Offer]:
    inbox = Inbox(layout.inbox, class_name)
    if location:
        folder = local_copy(location, layout.scratch / "additions", SUFFIXES, drop_gone=True)
        offered = read_folder(folder, class_name)
        _say_left_out(class_name, offered)
        return [Offer(image.name, image.kind, image.read, image.name) for image in offered.images]
    is_source = layout.root / params.classes[class_name].location == inbox.folder
    paths = [] if is_source else [*inbox.stock.normals, *inbox.stock.defects]
    if not paths:
        raise ValueError(f"class '{class_name}': no new images named; name the folder or s3:// prefix that holds them")
    return [Offer(path.as_posix(), path.parent.name, reader(inbox.folder, path), path.as_posix()) for path in paths]


# --- the first days -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Starter:
    """A starter model that has been tried; `model` is None where it may not answer."""

    phase: EnrolmentPhase
    trial: Trial
    advice: Advice
    model: LegacyModel | None


@task
def make_starter(class_name: str, stock: InboxContents, params: Params, layout: Layout) -> Starter:
    """Build, try and validate the starter: zero-shot without images, else the better of zero-shot and few-shot.

    Raises MissingWeightsError where there are neither images nor weights for zero-shot.
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
    stated = DeclaredMetrics(auroc=trial.auroc)
    model = validate_legacy_model(class_name, str(directory), params, layout, stated) if advice.may_answer else None
    return Starter(phase, trial, advice, model)


def _make_of_images(
    class_name: str, stock: InboxContents, params: Params, layout: Layout, directory: Path
) -> tuple[EnrolmentPhase, Trial]:
    """Few-shot, unless zero-shot has its weights, may answer by the deployment rule, and has the higher AUROC."""
    depth = _bit_depth([*_usable(stock.normals, params), *_usable(stock.defects, params)], params)
    normals, defects = (
        ImageFiles(tuple(_usable(paths, params)), params.data, depth) for paths in (stock.normals, stock.defects)
    )
    encoder = load_encoder(layout.encoder, pick_device())
    with default_progress().task(f"starter model of {class_name}", total=3) as steps:
        trial = try_few_shot(class_name, normals, defects, encoder, params)
        steps.advance(note="tried with images")
        with suppress(MissingWeightsError):
            words = build_zero_shot(class_name, params, layout.root, bit_depth=depth)
            of_words = try_zero_shot(words, normals, defects, params)
            may_answer = advise(EnrolmentPhase.ZERO_SHOT, of_words, params.enrolment) is Advice.DEPLOY
            if may_answer and (of_words.auroc or 0.0) > (trial.auroc or 0.0):
                words.save(directory)
                steps.advance(2, note="made of words")
                return EnrolmentPhase.ZERO_SHOT, of_words
        steps.advance(note="tried with words")
        build_few_shot(class_name, normals, encoder, params, bit_depth=depth).save(directory, layout.encoder)
        steps.advance(note="made of images")
    return EnrolmentPhase.FEW_SHOT, trial


def _usable(paths: Sequence[Path], params: Params) -> Sequence[Path]:
    """As many images as a starter or its trial can use."""
    return paths[: params.enrolment.few_shot_images]


def _bit_depth(paths: Sequence[Path], params: Params) -> int:
    return bit_depth_of(decode_image(path, params.data) for path in paths)


# --- into the model -------------------------------------------------------------------------------------------------


def check_enrollable(class_name: str, params: Params, *, update: bool, resumed: bool) -> None:
    """Raises ValueError for an update of a class that is not in the model, and for an enrolment of one that is."""
    if resumed:  # killed when all was done but the registration
        return
    if update and class_name not in params.classes:
        raise ValueError(f"class '{class_name}' is not in the model; enrol it with `shadowline enroll`")
    if not update and class_name in params.classes:
        raise ValueError(f"class '{class_name}' is in the model already; `shadowline bank update` adds images to it")


@task
def snapshot_metrics(class_name: str, root: Path, *, resumed: bool) -> EvaluationBaseline:
    """The state of the model now. Raises ValueError where a stage is stale: it would run as well.

    `resumed`: after a kill, the import of the class itself may have to run.
    """
    layout = Layout(root)
    stale = stale_targets(root) - ({f"import@{class_name}"} if resumed else set())
    if stale or not layout.package.is_dir():
        named = ", ".join(sorted(stale)) or "package"
        raise ValueError(f"stages {named} are not up to date; run `shadowline retrain` first, so that only "
                         f"'{class_name}' changes now")  # fmt: skip
    decoder = file_sha256(layout.decoder_weights)
    return EvaluationBaseline(class_fingerprints(layout.package), decoder, _scores_of(class_name, layout))


def _scores_of(class_name: str, layout: Layout) -> pd.DataFrame | None:
    """Scores of the class's test images in the last evaluation; None for a class that was not in it."""
    path = layout.evaluation(class_name) / "scores.parquet"
    return pd.read_parquet(path, columns=["image_id", "label", "score"]) if path.is_file() else None


def accept(
    class_name: str, before: EvaluationBaseline, root: Path, summary: Summary, new: frozenset[str] | None = None
) -> None:
    """Raises RefusedEnrolmentError where the class looks like another one, fails a gate, changes another class, or got
    worse on the test images that it had before. `new`: the images to check; without it, all images of the class."""
    layout = Layout(root)
    params = load_params(layout.params)
    num_images = sum(summary.num_images[class_name].values()) if new is None else len(new)
    alike = confusable_classes(class_name, params, layout, new)
    if len(alike) > params.enrolment.max_lookalikes * num_images:
        raise RefusedEnrolmentError(_name_all(f"class '{class_name}': {len(alike)} images look like another", alike))
    _refuse_touched(class_name, before, layout)
    if not summary.verdict.passed:
        checks = summary.verdict.checks
        reasons = [check.reason for check in checks if not check.passed and not check.advisory]
        raise RefusedEnrolmentError(_name_all(f"class '{class_name}': gates not passed", reasons))
    _refuse_loss(class_name, before, params, layout)


def confusable_classes(
    class_name: str, params: Params, layout: Layout, among: frozenset[str] | None = None
) -> list[str]:
    """One line for each normal image of the class that is identified as another class of the model."""
    manifest = read_manifest([layout.manifest(class_name)])
    if among is None:
        normal = [*ids_of(manifest, Split.TRAIN), *ids_of(manifest, Split.VAL)]
    else:
        has_features = (manifest["split"] != Split.STREAM) & (manifest["label"] == Label.NORMAL)
        normal = sorted(among & set(manifest.loc[has_features, "image_id"]))
    names = dict(zip(manifest["image_id"], manifest["source"], strict=True))
    classes = {name: ClassIdentity.load(layout.identity(name)) for name in params.classes}
    identities = Identities.of(classes)
    embedded = embed_all(
        FeatureFile(layout.features(class_name)), [FeatureKey(image_id) for image_id in normal]
    ).numpy()
    identified = zip(normal, (identities.identify(embedding) for embedding in embedded), strict=True)
    return [
        f"{names[image_id]}: looks like {identification.class_name}"
        for image_id, identification in identified
        if identification.class_name not in {None, class_name}
    ]


def _refuse_touched(class_name: str, before: EvaluationBaseline, layout: Layout) -> None:
    after = class_fingerprints(layout.package)
    touched = sorted(
        name for name, old in before.class_fingerprints.items() if name != class_name and after[name] != old
    )
    if file_sha256(layout.decoder_weights) != before.decoder_sha256:
        touched.append("the decoder")
    if touched:
        raise RefusedEnrolmentError(
            f"class '{class_name}': {', '.join(touched)} would change as well; nothing was changed"
        )


def _refuse_loss(class_name: str, before: EvaluationBaseline, params: Params, layout: Layout) -> None:
    """Compare the AUROC on the test images from before; new test images are judged by the gates."""
    scores = _scores_of(class_name, layout)
    if before.scores is None or scores is None:
        return
    was = _auroc_of(before.scores)
    now = _auroc_of(scores[scores["image_id"].isin(before.scores["image_id"])])
    get_run_logger().info("class %s: AUROC %.3f before, %.3f now", class_name, was, now)
    if now < was - params.enrolment.max_loss:
        raise RefusedEnrolmentError(
            f"class '{class_name}': AUROC {now:.3f} with the new images, {was:.3f} without, may lose "
            f"{params.enrolment.max_loss:g}; look at the new images"
        )


def _auroc_of(scores: pd.DataFrame) -> float:
    return float(roc_auc_score(scores["label"] == Label.ANOMALOUS, scores["score"]))


# --- how things stand -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolment:
    """How far the enrolment of a class has come."""

    class_name: str
    num_normal: int  # in the inbox
    num_defects: int
    due: EnrolmentPhase  # by its images
    reached: EnrolmentPhase | None  # by the records; None: no model answers yet
    auroc: float | None  # of the starter's trial
    missing: int  # normal images that the next phase lacks

    @property
    def is_due(self) -> bool:
        """Whether an enrolment is worthwhile: more images improve a few-shot model, other phases are entered once."""
        return self.reached is not EnrolmentPhase.BANK and (
            self.due is not self.reached or self.due is EnrolmentPhase.FEW_SHOT
        )


def list_enrolments(root: Path) -> list[Enrolment]:
    """Every class that has a folder in the inbox, or a starter model on record, and was not removed."""
    layout = Layout(root)
    params = load_params(layout.params)
    tags = {model.place.class_name: model.tags for model in reversed(list_legacy())}
    started = {name for name, class_tags in tags.items() if class_tags.get("kind") in _STARTERS}
    names = sorted({*classes_waiting(layout.inbox), *started} - removed_classes(params))
    return [_enrolment(name, params, layout, tags.get(name, {})) for name in names]


def removed_classes(params: Params) -> frozenset[str]:
    """Classes that a person has removed: no poll brings them back, only a person does."""
    return open_records().rollout.state().retired_names - params.classes.keys()


def _enrolment(class_name: str, params: Params, layout: Layout, tags: dict[str, str]) -> Enrolment:
    """`tags`: of the class's newest legacy or starter model."""
    stock = Inbox(layout.inbox, class_name).stock
    num_normal = len(stock.normals)
    reached = EnrolmentPhase.BANK if class_name in params.classes else _STARTERS.get(tags.get("kind", ""))
    auroc = float(tags["auroc"]) if "auroc" in tags else None
    due, missing = choose_phase(num_normal, params.enrolment), missing_images(num_normal, params.enrolment)
    return Enrolment(class_name, num_normal, len(stock.defects), due, reached, auroc, missing)


@dataclass(frozen=True)
class Forgotten:
    """Images that were taken out of an inbox."""

    class_name: str
    num_images: int
    kept_in: Path  # may be deleted


def forget_images(class_name: str, root: Path, now: datetime) -> Forgotten:
    """Empty the inbox of a class, to undo a wrong take-in; its starter model answers until the next enrolment.

    Raises ValueError where there is nothing to forget, and where the model was made from the inbox.
    """
    layout = Layout(root)
    inbox = Inbox(layout.inbox, class_name)
    known = load_params(layout.params).classes.get(class_name)
    if known and (root / known.location).resolve() == inbox.folder.resolve():
        raise ValueError(
            f"class '{class_name}': it is in the model, which was made from its inbox; correct single images there, "
            "or take the class out of params.yaml first"
        )
    if not inbox.folder.is_dir():
        waiting = ", ".join(classes_waiting(layout.inbox)) or "none"
        raise ValueError(f"class '{class_name}': no images in the inbox; classes with images there: {waiting}")
    kept_in = layout.scratch / "forgotten" / f"{class_name}-{now:%Y%m%dT%H%M%S%f}"
    with project_lock(root, wait=True):
        return Forgotten(class_name, inbox.forget(kept_in), kept_in)


@task
def collect_due(location: str, root: Path) -> list[str]:
    """Classes whose images allow a further phase than the one reached; each is tried once per number of images.

    `location`: an s3:// prefix with a folder per class, whose new images are taken into the inbox first; or empty. A
    class that was removed is left alone.
    A class whose images cannot be taken in is logged, and does not block the other classes.
    """
    layout = Layout(root)
    params = load_params(layout.params)
    offered = sorted(set(folders_of(location)) - removed_classes(params)) if location else []
    for class_name in offered:
        try:
            take_images.fn(class_name, f"{location.rstrip('/')}/{class_name}", layout, params)
        except (FileNotFoundError, ValueError) as error:
            get_run_logger().error("class '%s' not taken in: %s", class_name, mask(str(error)))
    due = {
        enrolment.class_name: enrolment.num_normal + enrolment.num_defects
        for enrolment in list_enrolments(root)
        if enrolment.is_due
    }
    tried = read_json(layout.enrolments_tried) if layout.enrolments_tried.is_file() else {}
    write_json(layout.enrolments_tried, {**tried, **due})
    return sorted(name for name, num_images in due.items() if tried.get(name) != num_images)
