"""Everything that can be known of a project before anything is computed, as one list.

    check = check_project(layout)
    check.findings              # those that stop a training first
    check.plans["bolt"]         # what each class gets of its images

Nothing is trained and no image but a few is decoded: the files of the project, their headers and their numbers tell.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shadowline.core.layout import Layout
from shadowline.core.params import Params, Severity, load_params
from shadowline.data.sources import SourceImage, list_images
from shadowline.project.class_plan import ClassPlan, normals_needed, plan_class
from shadowline.project.image_survey import ImageSurvey, survey_images
from shadowline.project.skeleton import pipeline_text

_COMMITTED_BY_A_RUN = frozenset({"params.yaml", "dvc.lock"})
_KEY = re.compile(r"([a-z_]+\.[a-z_.]+|SHADOWLINE_[A-Z_]+)[:=] ?")  # of params.yaml, or an environment variable
_RESERVED = "overall"  # the name of the results that all classes have together
_NUM_NAMED = 3  # files, sizes or modes that a finding names
_FEATURE_BYTES = 2 * 2  # half precision, two groups of layers
_CACHE_FACTOR = 3  # features and images lie in the project, in DVC's cache and in its remote
_DINOV2_WIDTH = 384  # of the smallest; the estimate of the disk is a least one


@dataclass(frozen=True)
class Finding:
    """Something to know before a training."""

    severity: Severity  # critical: a training would fail, or is refused
    subject: str  # a class, a file, or a key of params.yaml
    message: str  # what is there, and what is needed
    way_out: str  # numbers or commands that would work

    @property
    def blocks(self) -> bool:
        return self.severity is Severity.CRITICAL


@dataclass(frozen=True)
class ProjectCheck:
    findings: tuple[Finding, ...]  # those that block first
    plans: Mapping[str, ClassPlan]  # of the classes whose images could be listed
    surveys: Mapping[str, ImageSurvey]  # likewise

    @property
    def blocks(self) -> bool:
        return any(finding.blocks for finding in self.findings)


def check_project(layout: Layout) -> ProjectCheck:
    """Look at the project below `layout.root`."""
    findings = list(_repository(layout.root))
    plans: dict[str, ClassPlan] = {}
    surveys: dict[str, ImageSurvey] = {}
    try:
        params = load_params(layout.params)
    except ValueError as error:
        findings += [_params_line(line) for line in str(error).splitlines()]
    else:
        findings += [*_weights(params, layout.root), *_device()]
        for name in params.classes:
            findings += _class(name, params, layout, plans, surveys)
        findings += _disk(params, plans, surveys, layout)
    return ProjectCheck(tuple(sorted(findings, key=lambda finding: not finding.blocks)), plans, surveys)


def _params_line(line: str) -> Finding:
    message, _, way_out = line.removeprefix("params.yaml: ").partition("; ")
    return Finding(Severity.CRITICAL, "params.yaml", message, way_out or "correct it")


# --- the project ------------------------------------------------------------------------------------------------------


def _repository(root: Path) -> Iterator[Finding]:
    """What a run refuses: it commits params.yaml and dvc.lock, so that a version's commit contains what made it."""
    if not (root / ".dvc" / "config").is_file():
        yield Finding(Severity.CRITICAL, ".dvc", "no DVC repository", "run `dvc init` in the project's root")
    if (root / "dvc.yaml").read_text(encoding="utf-8") != pipeline_text():
        yield Finding(
            Severity.ADVISORY,
            "dvc.yaml",
            "differs from the pipeline of this version of Shadowline",
            "run `shadowline check --update`, and commit dvc.yaml",
        )
    if not _git(root, "rev-parse", "--verify", "HEAD"):
        yield Finding(
            Severity.CRITICAL, "git", "no repository with a commit", "run `git init`, `git add .` and `git commit`"
        )
        return
    changed = {line[3:] for line in _git(root, "status", "--porcelain").splitlines()} - _COMMITTED_BY_A_RUN
    if changed:
        yield Finding(
            Severity.CRITICAL,
            "git",
            f"{len(changed)} uncommitted changes beside params.yaml and dvc.lock: {_first(sorted(changed))}",
            "commit them, or name them in .gitignore",
        )


def _git(root: Path, *arguments: str) -> str:
    """Git's output; empty where it fails, or there is no git."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout


def _weights(params: Params, root: Path) -> Iterator[Finding]:
    from shadowline.features.encoder_weights import check_weights  # and with it torch and timm

    yield from _error("encoder", lambda: check_weights(params.encoder, root))
    if params.encoder.weights == "hub":
        yield Finding(
            Severity.ADVISORY,
            "encoder.weights",
            "they come from the model hub",
            "set SHADOWLINE_ALLOW_NETWORK=true for the first run, or use `weights: file`",
        )
    if not (root / params.legacy.location).is_file():
        yield Finding(
            Severity.CRITICAL,
            "legacy.location",
            f"{params.legacy.location} is missing",
            "run `shadowline data fetch`, or place the file there",
        )


def _device() -> Iterator[Finding]:
    from shadowline.core.device import pick_device

    yield from _error("SHADOWLINE_DEVICE", pick_device)


def _error(subject: str, check: Callable[[], object]) -> Iterator[Finding]:
    """The finding that a check ends with, if it raises; a key that the message begins with is its subject."""
    try:
        check()
    except (ValueError, OSError) as error:
        message, _, way_out = str(error).partition("; ")
        message = message.removeprefix(f"class '{subject}': ")
        if match := _KEY.match(message):
            subject, message = match[1], message[match.end() :]
        yield Finding(Severity.CRITICAL, subject, message, way_out or "correct it")


def _disk(
    params: Params, plans: Mapping[str, ClassPlan], surveys: Mapping[str, ImageSurvey], layout: Layout
) -> Iterator[Finding]:
    """Features are the largest part: a vector per patch of every image."""
    num_images = sum(plan.num_normal + plan.num_defects for plan in plans.values())
    num_patches = (params.encoder.crop // 14) ** 2
    needed = num_images * num_patches * _DINOV2_WIDTH * _FEATURE_BYTES * _CACHE_FACTOR
    free = shutil.disk_usage(layout.root).free
    if needed > free:
        yield Finding(
            Severity.ADVISORY,
            "disk",
            f"{free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB needed for {num_images} images",
            "free some, or put the project and SHADOWLINE_DATA_URL on a larger disk",
        )


# --- classes ----------------------------------------------------------------------------------------------------------


def _class(
    name: str, params: Params, layout: Layout, plans: dict[str, ClassPlan], surveys: dict[str, ImageSurvey]
) -> Iterator[Finding]:
    """Findings about one class; what its images are like is added to `plans` and `surveys`."""
    if name == _RESERVED:
        yield Finding(Severity.CRITICAL, name, "the name is that of the results of all classes", "rename the class")
        return
    cls = params.classes[name]
    if cls.copy_of and not (layout.root / cls.location).exists():
        message = f"{cls.location} is not copied from {cls.copy_of} yet, so that its images are not known"
        yield Finding(Severity.ADVISORY, name, message, "`shadowline retrain` copies them first")
        return
    images: list[SourceImage] = []
    findings = list(_error(name, lambda: images.extend(list_images(name, cls, layout.root))))
    yield from findings
    if findings:
        return
    plans[name], surveys[name] = plan_class(name, images, params), survey_images(images, params.data)
    yield from _numbers(name, images, plans[name], params)
    yield from _looks(name, surveys[name], params)


def _numbers(name: str, images: Sequence[SourceImage], plan: ClassPlan, params: Params) -> Iterator[Finding]:
    def needed(is_enough: Callable[[ClassPlan], bool]) -> str:
        count = normals_needed(name, images, params, is_enough)
        return "raise the shares that `data` gives to val and test" if count is None else f"{count} normal images do"

    minimum = params.validation.min_normal
    if plan.num_train < minimum:
        yield Finding(
            params.validation.severity.min_normal,
            name,
            f"{plan.num_normal} normal images, of which {plan.num_train} train; validation.min_normal is {minimum}",
            f"{needed(lambda more: more.num_train >= minimum)}, or set validation.min_normal to {plan.num_train}",
        )
    if plan.num_val < 2:
        yield Finding(
            Severity.CRITICAL,
            name,
            f"{plan.num_val} of {plan.num_normal} normal images to calibrate on",
            needed(lambda more: more.num_val >= 2),
        )
    if not plan.num_test_normal:
        yield Finding(
            Severity.CRITICAL,
            name,
            "no normal images for test: false alarms could not be counted",
            f"{needed(lambda more: more.num_test_normal > 0)}, or move some to test/good",
        )
    if not plan.num_test_defects:
        yield Finding(
            Severity.CRITICAL,
            name,
            "no defects for test, known or injected",
            "add some, or raise data.injected_test above 0",
        )
    yield from _rates(name, plan, needed)


def _rates(name: str, plan: ClassPlan, needed: Callable[[Callable[[ClassPlan], bool]], str]) -> Iterator[Finding]:
    rates = {
        "calibration.target_fpr": plan.false_alarms,
        "identification.unknown_share": plan.unknown,
        "legacy.target_fpr": plan.legacy,
    }
    missed = [f"{key} {rate.possible:.3g} and not {rate.target:g}" for key, rate in rates.items() if not rate.is_kept]
    if missed:
        yield Finding(
            Severity.ADVISORY,
            name,
            f"{plan.num_val} normal images to calibrate on can promise {', '.join(missed)}",
            needed(lambda more: more.false_alarms.is_kept and more.unknown.is_kept and more.legacy.is_kept),
        )


def _looks(name: str, survey: ImageSurvey, params: Params) -> Iterator[Finding]:
    severity = params.validation.severity
    refused, most = len(survey.refused), params.data.max_refused_share
    if refused:
        yield Finding(
            Severity.CRITICAL if refused > most * survey.num_looked_at else Severity.ADVISORY,
            name,
            f"{refused} of {survey.num_looked_at} files looked at are refused: {_first(survey.refused)}",
            f"mend them or take them out; a share of {most:.0%} may be refused (data.max_refused_share)",
        )
    for what, key, counts in (
        (
            "sizes",
            "consistent_size",
            [f"{width} × {height} ({count})" for (width, height), count in survey.sizes.items()],
        ),
        ("modes", "consistent_mode", [f"{mode} ({count})" for mode, count in survey.modes.items()]),
    ):
        if len(counts) > 1:
            yield Finding(
                getattr(severity, key),
                name,
                f"images of {len(counts)} {what}: {_first(counts)}",
                f"make them alike, or set validation.severity.{key} to advisory",
            )
    if survey.num_turned:
        yield Finding(
            Severity.ADVISORY,
            name,
            f"{survey.num_turned} images have an EXIF orientation",
            "they are read as stored, like their masks",
        )


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
