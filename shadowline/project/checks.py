"""Everything that can be known of a project before anything is computed, as one list.

    check = check_project(layout)
    check.findings              # those that stop a training first
    check.forecasts["bolt"]     # what each class gets of its images

Nothing is trained and no image but a few is decoded: the files of the project, their headers and their numbers tell.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from shadowline.core.git import other_changes, run_git
from shadowline.core.layout import Layout
from shadowline.core.params import Params, Severity, load_params
from shadowline.core.printable import some_of, without_kind
from shadowline.data.class_forecast import ClassCounts, ClassForecast, forecast_class
from shadowline.data.sources import SourceImage, list_images
from shadowline.project.image_survey import ImageSurvey, survey_images
from shadowline.project.skeleton import pipeline_text

_KEY = re.compile(r"([a-z_]+\.[a-z_.]+|SHADOWLINE_[A-Z_]+)[:=] ?")  # of params.yaml, or an environment variable
_RESERVED = "overall"  # the name of the results that all classes have together
_NUM_NAMED = 3  # files, sizes or modes that a finding names
_FEATURE_BYTES = 2 * 2  # half precision, two groups of layers
_CACHE_FACTOR = 3  # features and images lie in the project, in DVC's cache and in its remote
_DINOV2_PATCH, _DINOV2_WIDTH = 14, 384  # pixels; of the smallest: the estimate of the disk is a least one


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
    forecasts: Mapping[str, ClassForecast]  # of the classes whose images could be listed
    surveys: Mapping[str, ImageSurvey]  # likewise

    @property
    def blocks(self) -> bool:
        return any(finding.blocks for finding in self.findings)


def check_project(layout: Layout) -> ProjectCheck:
    """Look at the project below `layout.root`."""
    findings = list(_repository(layout.root))
    forecasts: dict[str, ClassForecast] = {}
    surveys: dict[str, ImageSurvey] = {}
    try:
        params = load_params(layout.params)
    except ValueError as error:
        findings += [_params_line(line) for line in str(error).splitlines()]
    else:
        findings += [*_weights(params, layout.root), *_device()]
        for name in params.classes:
            findings += _class(name, params, layout, forecasts, surveys)
        findings += _disk(params, forecasts, layout)
    return ProjectCheck(tuple(sorted(findings, key=lambda finding: not finding.blocks)), forecasts, surveys)


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
    if shutil.which("git") is None or not run_git(root, "rev-parse", "--verify", "HEAD", check=False):
        yield Finding(
            Severity.CRITICAL, "git", "no repository with a commit", "run `git init`, `git add .` and `git commit`"
        )
        return
    if changed := other_changes(root):
        yield Finding(
            Severity.CRITICAL,
            "git",
            f"{len(changed)} uncommitted changes beside params.yaml and dvc.lock: "
            f"{some_of(sorted(changed), _NUM_NAMED)}",
            "commit them, or name them in .gitignore",
        )


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
        message, _, way_out = _text(error).partition("; ")
        message = message.removeprefix(f"class '{subject}': ")
        if match := _KEY.match(message):
            subject, message = match[1], message[match.end() :]
        yield Finding(Severity.CRITICAL, subject, message, way_out or "correct it")


def _text(error: ValueError | OSError) -> str:
    """What an error says; of an environment variable that is refused, without pydantic's frame."""
    if isinstance(error, ValidationError):
        return without_kind(error.errors()[0]["msg"])
    return str(error)


def _disk(params: Params, forecasts: Mapping[str, ClassForecast], layout: Layout) -> Iterator[Finding]:
    """Features are the largest part: a vector per patch of every image."""
    num_images = sum(forecast.counts.normals + forecast.counts.defects for forecast in forecasts.values())
    num_patches = (params.encoder.crop // _DINOV2_PATCH) ** 2
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
    name: str, params: Params, layout: Layout, forecasts: dict[str, ClassForecast], surveys: dict[str, ImageSurvey]
) -> Iterator[Finding]:
    """Findings about one class; what its images are like is added to `forecasts` and `surveys`."""
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
    forecasts[name] = forecast_class(name, ClassCounts.of(images), params)
    surveys[name] = survey_images(images, params.data)
    yield from _numbers(forecasts[name], params)
    yield from _looks(name, surveys[name], params)


def _numbers(forecast: ClassForecast, params: Params) -> Iterator[Finding]:
    """What the class has too few images for, with the number that would do."""
    name = forecast.class_name
    for problem in forecast.problems:
        yield Finding(Severity.CRITICAL, name, problem, _would_do(forecast.usable_normals))
    minimum, severity = params.validation.min_normal, params.validation.severity.min_normal
    for note in forecast.notes:
        is_minimum = note is forecast.notes[0] and forecast.splits.train < minimum
        way_out = _would_do(forecast.needed_normals)
        yield Finding(severity if is_minimum else Severity.ADVISORY, name, note, way_out)


def _would_do(normals: int | None) -> str:
    return "add images" if normals is None else f"{normals} normal images would do"


def _looks(name: str, survey: ImageSurvey, params: Params) -> Iterator[Finding]:
    severity = params.validation.severity
    refused, most = len(survey.refused), params.data.max_refused_share
    if refused:
        yield Finding(
            Severity.CRITICAL if refused > most * survey.num_looked_at else Severity.ADVISORY,
            name,
            f"{refused} of {survey.num_looked_at} files looked at are refused: {some_of(survey.refused, _NUM_NAMED)}",
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
                f"images of {len(counts)} {what}: {some_of(counts, _NUM_NAMED)}",
                f"make them alike, or set validation.severity.{key} to advisory",
            )
    if survey.num_turned:
        yield Finding(
            Severity.ADVISORY,
            name,
            f"{survey.num_turned} images have an EXIF orientation",
            "they are read as stored, like their masks",
        )
