"""Where every artifact lies, relative to the project's root. `dvc.yaml` writes the same paths; a test compares them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from shadowline.core.atomic_files import unfinished


@dataclass(frozen=True)
class Layout:
    """Paths below one project root."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def inbox(self) -> Path:
        """Images of products that are being enrolled, a folder per class; see `shadowline/enrolment/inbox.py`."""
        return self.root / "data/inbox"

    def retired(self, class_name: str) -> Path:
        """What lay in the inbox of a class that was removed, a folder per removal."""
        return self.root / "data/retired" / class_name

    @property
    def additions(self) -> Path:
        """Images that came to a class after its source, a folder per class; see `shadowline/data/additions.py`."""
        return self.root / "data/additions"

    @property
    def sources(self) -> Path:
        """Copies of images that lie in S3; see `tasks/training/source_copies.py`."""
        return self.root / "data/sources"

    @property
    def inspected(self) -> Path:
        """Images that the gateway kept, a folder per class; see `shadowline/gateway/image_retention.py`."""
        return self.root / "data/inspected"

    @property
    def decisions(self) -> Path:
        """Records of decisions, a folder per trace id; see `shadowline/audit/decision.py`."""
        return self.root / "data/audit/decisions"

    @property
    def reproductions(self) -> Path:
        """Results of reproductions, a file per attempt."""
        return self.root / "data/audit/reproductions"

    @property
    def evidence(self) -> Path:
        """Packs of evidence, unless another place is named."""
        return self.root / "data/audit/evidence"

    @property
    def code(self) -> Path:
        """A hash of the code of each stage, a file per stage; see `shadowline/core/code.py`."""
        return self.root / "data/code"

    @property
    def classes(self) -> Path:
        """The parameters of each class, as DVC compares them; see `shadowline/stages/classes.py`."""
        return self.root / "data/classes"

    def images(self, class_name: str) -> Path:
        return self.root / "data/images" / class_name

    def manifest(self, class_name: str) -> Path:
        return self.root / f"data/manifest/{class_name}.parquet"

    def import_report(self, class_name: str) -> Path:
        return self.root / f"data/import/{class_name}.json"

    @property
    def validation(self) -> Path:
        return self.root / "data/validation"

    @property
    def checks(self) -> Path:
        """One result of the validation per class, and `overall.json`."""
        return self.validation / "checks"

    def class_checks(self, class_name: str) -> Path:
        return self.checks / f"{class_name}.json"

    @property
    def overall_checks(self) -> Path:
        return self.checks / "overall.json"

    @property
    def encoder(self) -> Path:
        return self.root / "models/encoder"

    def features(self, class_name: str) -> Path:
        return self.root / f"data/features/{class_name}.safetensors"

    @property
    def training_set(self) -> Path:
        return self.root / "data/training_set.json"

    @property
    def decoder(self) -> Path:
        return self.root / "models/decoder"

    @property
    def decoder_weights(self) -> Path:
        return self.decoder / "decoder.safetensors"

    @property
    def history(self) -> Path:
        return self.decoder / "history.json"

    def bank(self, class_name: str) -> Path:
        return self.root / f"models/banks/{class_name}.safetensors"

    def moments(self, class_name: str) -> Path:
        return self.root / f"models/moments/{class_name}.safetensors"

    def identity(self, class_name: str) -> Path:
        return self.root / f"models/identity/{class_name}.safetensors"

    def calibration(self, class_name: str) -> Path:
        return self.root / f"models/calibration/{class_name}.json"

    def legacy(self, class_name: str) -> Path:
        return self.root / f"models/legacy/{class_name}"

    def legacy_scores(self, class_name: str) -> Path:
        """The legacy model's scores of the test split."""
        return self.legacy(class_name) / "test_scores.parquet"

    def evaluation(self, class_name: str) -> Path:
        return self.root / f"data/evaluation/{class_name}"

    def metrics(self, class_name: str) -> Path:
        return self.evaluation(class_name) / "metrics.json"

    @property
    def summary(self) -> Path:
        return self.root / "data/summary.json"

    @property
    def class_metrics(self) -> Path:
        """The main figures of every class, for `dvc metrics`."""
        return self.root / "data/class_metrics.json"

    @property
    def plots(self) -> Path:
        """Tables for `dvc plots`; see `shadowline/stages/summary.py`."""
        return self.root / "data/plots"

    @property
    def cost(self) -> Path:
        return self.root / "data/cost.json"

    @property
    def timings(self) -> Path:
        return self.scratch / "timings.json"

    def starter(self, class_name: str) -> Path:
        """What inspects a new product until it has a bank; see `shadowline/enrolment/starter.py`."""
        return self.scratch / "starters" / class_name

    @property
    def enrolling(self) -> Path:
        """A marker file that exists while an enrolment changes the project; a killed enrolment leaves it behind."""
        return self.scratch / "enrolling.json"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The folders that stages write and clear; no images of the user may lie there."""
        data = (
            "images", "manifest", "import", "classes", "code", "validation", "features", "evaluation", "report",
        )  # fmt: skip
        return (*(self.root / "data" / name for name in data), self.root / "models", self.scratch)

    @property
    def uncached(self) -> tuple[Path, ...]:
        """The outputs of all classes together that git and DVC do not keep."""
        return (self.validation / "docs", self.cost)

    @property
    def set_aside(self) -> Path:
        """Copies of the uncached outputs, from before an enrolment."""
        return self.scratch / "before-enrolment"

    @property
    def enrolments_tried(self) -> Path:
        """Class → number of images with which its enrolment was last tried by the poll."""
        return self.scratch / "enrolments.json"

    def imported_classes(self) -> frozenset[str]:
        """Classes that an import has left something of, in params.yaml or not."""
        slices = self.manifest("*"), self.import_report("*")
        return frozenset(path.stem for pattern in slices for path in pattern.parent.glob(pattern.name))

    def forget(self, class_name: str) -> None:
        """Remove everything that the stages made of one class, finished or not; its inbox stays."""
        places = (
            self.images, self.manifest, self.import_report, self.features, self.bank, self.moments, self.identity,
            self.calibration, self.legacy, self.evaluation,
        )  # fmt: skip
        for path in (place(class_name) for place in places):
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
            unfinished(path).unlink(missing_ok=True)

    @property
    def package(self) -> Path:
        return self.root / "models/inspector"

    @property
    def report(self) -> Path:
        return self.root / "data/report/report.html"

    @property
    def timeline(self) -> Path:
        """The course of the migration, as the report draws it."""
        return self.root / "data/report/timeline.json"

    @property
    def scratch(self) -> Path:
        """Resumable work in progress and caches; git-ignored, safe to delete."""
        return self.root / ".shadowline"
