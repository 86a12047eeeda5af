"""Enrol a new product: judged by words on the first day, then by a handful of images, then with a bank of its own.

shadowline enroll bolt /srv/new/bolt               # once, here
shadowline deploy                                   # on a Prefect server: whenever images arrive
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prefect import flow

from flows.register_legacy import register_legacy_models
from flows.retrain import RetrainResult, make_version
from shadowline.core.layout import Layout
from shadowline.core.params import Params, load_params
from shadowline.enrolment.inbox import Inbox
from shadowline.enrolment.policy import EnrolmentPhase, choose_phase
from shadowline.models.legacy_validation import DeclaredMetrics, validate_legacy_model
from shadowline.records.stores import open_records
from tasks.enrolment.enrolment import (
    Starter,
    accept,
    check_enrollable,
    collect_due,
    count_normals,
    entry_with,
    make_starter,
    snapshot_metrics,
    take_additions,
    take_images,
)
from tasks.enrolment.params_transaction import params_transaction, recover_enrolment
from tasks.integrations.audit_log import note_enrolment
from tasks.integrations.git import check_repository, project_lock
from tasks.integrations.prefect_api import cancel_interrupted
from tasks.integrations.prefect_events import announce_version

IMAGES_ARRIVED = "shadowline.images.arrived"  # event whose payload names class_name and location


@dataclass(frozen=True)
class Enrolled:
    """The result of an enrolment."""

    class_name: str
    phase: EnrolmentPhase
    num_normal: int  # images that are there
    starter: Starter | None  # in the first two phases
    made: RetrainResult | None  # in the last phase: the new version, and what ran for it


@flow(name="enroll", on_crashed=[cancel_interrupted])
def enroll(class_name: str, location: str = "", root: Path = Path(), update: bool = False) -> Enrolled:
    """Bring a class as far as its images allow; one enrolment at a time, others wait.

    `location`: a folder or an s3:// prefix with new images; without it, what lies in the inbox. `update`: the class is
    in the model, and the images are for its bank and calibration. Raises ValueError for images that cannot be used, and
    RefusedEnrolmentError where the evidence speaks against the class.
    """
    with project_lock(root, wait=True):
        layout = Layout(root)
        check_repository(root)
        resumed = recover_enrolment(root) == class_name
        params = load_params(layout.params)
        check_enrollable(class_name, params, update=update, resumed=resumed)
        if update:
            return _update(class_name, location, params, root, resumed=resumed)
        stock = take_images(class_name, location, layout, params)
        phase = choose_phase(len(stock.normals), params.enrolment)
        if phase is EnrolmentPhase.BANK:
            result = _into_the_model(class_name, params, root, resumed=resumed)
            note_enrolment(class_name, phase, len(stock.normals), result.version.uri)
            return Enrolled(class_name, phase, len(stock.normals), None, result)
        starter = make_starter(class_name, stock, params, layout)
        _let_answer(starter, params)
        answering = starter.model.fingerprint if starter.model else None
        note_enrolment(class_name, starter.phase, len(stock.normals), answering)
        return Enrolled(class_name, starter.phase, len(stock.normals), starter, None)


@flow(name="enroll-waiting")
def enroll_waiting(location: str = "", root: Path = Path()) -> list[str]:
    """Every class whose images allow more than is on record; `location`: an s3:// prefix with a folder per class."""
    due = collect_due(location, root)
    ended = [enroll(class_name, "", root, return_state=True) for class_name in due]
    for state in ended:  # a failure does not block the other classes
        state.result()
    return due


def _let_answer(starter: Starter, params: Params) -> None:
    """Register the starter in the place of a legacy model, and let the class join the rollout with it."""
    if starter.model is None:
        return
    now = datetime.now(UTC)
    register_legacy_models([starter.model], params.registry.experiment, now)
    open_records().rollout.join(starter.model.class_name, starter.model.fingerprint, now, "enrolment")


def _into_the_model(class_name: str, params: Params, root: Path, *, resumed: bool) -> RetrainResult:
    """Register a version with the class, to be compared with its starter, or with a PatchCore where there is none."""
    before = snapshot_metrics(class_name, root, resumed=resumed)
    source = Inbox(Layout(root).inbox, class_name).as_source(root, params.enrolment)
    with params_transaction(class_name, source.model_dump(mode="json", exclude_defaults=True), root):
        result = make_version(root, f"Enrol {class_name}", partial(accept, class_name, before, root))
    records, now, layout = open_records(), datetime.now(UTC), Layout(root)
    params = load_params(layout.params)
    if class_name not in records.locations.current_legacy():
        baseline = validate_legacy_model(class_name, str(layout.legacy(class_name)), params, layout, DeclaredMetrics())
        register_legacy_models([baseline], params.registry.experiment, now)
    records.rollout.join(class_name, records.locations.current_legacy()[class_name], now, "enrolment")
    announce_version(result.version)
    return result


def _update(class_name: str, location: str, params: Params, root: Path, *, resumed: bool) -> Enrolled:
    """Register a version with a new bank, identity and calibration of the class; the decoder stays as it is."""
    before = snapshot_metrics(class_name, root, resumed=resumed)
    taken = take_additions(class_name, location, Layout(root), params)
    if not taken.new and not resumed:
        raise ValueError(
            f"class '{class_name}': none of the images is new, {taken.num_known} are in it already; name others"
        )
    new = frozenset(addition.image_id for addition in taken.new)
    with params_transaction(class_name, entry_with(class_name, taken.new, params, Layout(root)), root):
        judge = partial(accept, class_name, before, root, new=new)
        result = make_version(root, f"Update the bank of {class_name}", judge)
    num_normal = count_normals(class_name, Layout(root))
    note_enrolment(class_name, EnrolmentPhase.BANK, num_normal, result.version.uri)
    return Enrolled(class_name, EnrolmentPhase.BANK, num_normal, None, result)
