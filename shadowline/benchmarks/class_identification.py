"""How well classes are identified and unknown products rejected, and at which speed and size; on test.

bench_identify(params, layout)      # the features and identities of this project; no image is encoded
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shadowline.core.conformal import conformal_threshold
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.labels import Label, Split
from shadowline.data.manifest import read_manifest
from shadowline.evaluation.metrics import auroc, bootstrap
from shadowline.features.cache import FeatureFile, FeatureKey
from shadowline.models.class_identification import ClassIdentity, Identities
from shadowline.stages.identity import embed_all

UNKNOWN = "unknown"  # among the names of classes

_NUM_CLASSES = (3, 10, 100, 1000)
_TIMED_IMAGES = 60
_JITTER = 0.05  # by which a made-up class differs from the real one that it is made of, as a share of its values

Floats = npt.NDArray[np.float32]
Images = Mapping[tuple[str, Label], Floats]  # class and label → embeddings of its test images, (N, D)


@dataclass(frozen=True)
class RankResult:
    """How the test images of one class and label were identified."""

    class_name: str
    label: Label
    counts: dict[str, int]  # class or `unknown` → images
    wrong_nearest: int  # images whose nearest class is another, rejected or not

    @property
    def num_images(self) -> int:
        return sum(self.counts.values())

    @property
    def accuracy(self) -> float:
        return self.counts[self.class_name] / self.num_images


@dataclass(frozen=True)
class LeaveOneClassOut:
    """One class left out: its images are unknown to the others, and told from theirs by their open-set score."""

    class_name: str
    auroc: float  # against normal images of the other classes
    auroc_all: float  # against all images of the other classes
    rejected: float  # share of the left-out class's images; should be 1
    normal_rejected: float  # share of the others' normal images; at most identification.unknown_share
    anomalous_rejected: float  # share of the others' anomalous images; should be 0, without a guarantee


@dataclass(frozen=True)
class IdentificationSpeed:
    num_classes: int
    ms_per_image: float  # median, of one embedding against all classes
    megabytes: float  # 10⁶, in memory


@dataclass(frozen=True)
class IdentificationBench:
    unknown_share: float
    found: tuple[RankResult, ...]
    left_out: tuple[LeaveOneClassOut, ...]  # none for a single class
    speed: tuple[IdentificationSpeed, ...]
    bytes_per_class: float  # of its file, mean

    def accuracy(self, label: Label) -> float:
        """Over the test images of all classes."""
        rows = [row for row in self.found if row.label == label]
        return sum(row.counts[row.class_name] for row in rows) / sum(row.num_images for row in rows)


def bench_identify(params: Params, layout: Layout) -> IdentificationBench:
    """Raises FileNotFoundError where a class's features or identity are missing."""
    paths = {name: layout.identity(name) for name in params.classes}
    classes = {name: ClassIdentity.load(path) for name, path in paths.items()}
    images = {
        (name, label): _test_images(name, label, layout)
        for name in classes
        for label in (Label.NORMAL, Label.ANOMALOUS)
    }
    return IdentificationBench(
        unknown_share=params.identification.unknown_share,
        found=tuple(_found(Identities.of(classes), *key, embeddings) for key, embeddings in images.items()),
        left_out=tuple(_leave_out(name, classes, images) for name in classes) if len(classes) > 1 else (),
        speed=tuple(_speed(classes, number, params.seed) for number in _NUM_CLASSES),
        bytes_per_class=float(np.mean([path.stat().st_size for path in paths.values()])),
    )


def _test_images(class_name: str, label: Label, layout: Layout) -> Floats:
    manifest = read_manifest([layout.manifest(class_name)])
    chosen = manifest[(manifest["split"] == Split.TEST) & (manifest["label"] == label)]
    keys = [FeatureKey(image_id) for image_id in sorted(chosen["image_id"])]
    embeddings: Floats = embed_all(FeatureFile(layout.features(class_name)), keys).numpy()
    return embeddings


def _found(identities: Identities, class_name: str, label: Label, embeddings_ND: Floats) -> RankResult:
    answers = [identities.identify(embedding_D) for embedding_D in embeddings_ND]
    names = [answer.class_name or UNKNOWN for answer in answers]
    counts = {name: names.count(name) for name in (*identities.names, UNKNOWN)}
    return RankResult(class_name, label, counts, sum(answer.nearest_class != class_name for answer in answers))


def _leave_out(class_name: str, classes: Mapping[str, ClassIdentity], images: Images) -> LeaveOneClassOut:
    rest = {name: identity for name, identity in classes.items() if name != class_name}
    strange, normal, anomalous = (
        open_set_scores(rest, np.concatenate(chosen))
        for chosen in (
            [rows_ND for (name, _), rows_ND in images.items() if name == class_name],
            [rows_ND for (name, label), rows_ND in images.items() if name != class_name and label == Label.NORMAL],
            [rows_ND for (name, label), rows_ND in images.items() if name != class_name and label == Label.ANOMALOUS],
        )
    )
    return LeaveOneClassOut(
        class_name=class_name,
        auroc=_auroc(normal, strange),
        auroc_all=_auroc(np.concatenate([normal, anomalous]), strange),
        rejected=float(np.mean(strange > 1.0)),
        normal_rejected=float(np.mean(normal > 1.0)),
        anomalous_rejected=float(np.mean(anomalous > 1.0)),
    )


def open_set_scores(classes: Mapping[str, ClassIdentity], embeddings_ND: Floats) -> npt.NDArray[np.float64]:
    """Distance to a class over its rejection threshold, the smallest over classes: above 1 all reject it. (N,)

    A class rejects an image if and only if it lies beyond the conformal threshold of its val images (a test compares).
    """
    identities = Identities.of(classes)
    per_class = [classes[name] for name in identities.names]
    reach_C = np.array([conformal_threshold(identity.distances_N, identity.unknown_share) for identity in per_class])
    return np.array([(identities.distance(embedding_D) / reach_C).min() for embedding_D in embeddings_ND])


def _auroc(known: npt.NDArray[np.float64], strange: npt.NDArray[np.float64]) -> float:
    labels = np.arange(len(known) + len(strange)) >= len(known)
    return bootstrap(auroc, np.concatenate([known, strange]), labels, resamples=1, confidence=0.5, seed=0).value


# --- speed ----------------------------------------------------------------------------------------------------------


def _speed(classes: Mapping[str, ClassIdentity], num_classes: int, seed: int) -> IdentificationSpeed:
    random = np.random.default_rng(seed)
    synthetic = synthetic_classes(tuple(classes.values()), num_classes, random)
    identities = Identities.of(synthetic)
    means_CD = identities.mean_CD
    chosen = random.integers(num_classes, size=_TIMED_IMAGES + 1)
    milliseconds = [_time(identities, _shaken(means_CD[index], random)) for index in chosen][1:]  # the first warms up
    return IdentificationSpeed(num_classes, float(np.median(milliseconds)), identities.num_bytes / 1e6)


def synthetic_classes(
    real: Sequence[ClassIdentity], num_classes: int, random: np.random.Generator
) -> dict[str, ClassIdentity]:
    """Real classes in turn, each with its own jitter: of the true shapes and about the true values."""
    return {
        f"made-{number:04d}": replace(
            identity, mean_D=_shaken(identity.mean_D, random), directions_RD=_shaken(identity.directions_RD, random)
        )
        for number, identity in enumerate(real[number % len(real)] for number in range(num_classes))
    }


def _shaken(values: Floats, random: np.random.Generator) -> Floats:
    return (values * random.normal(1.0, _JITTER, values.shape)).astype(np.float32)


def _time(identities: Identities, embedding_D: Floats) -> float:
    started = time.perf_counter()
    identities.identify(embedding_D)
    return 1000.0 * (time.perf_counter() - started)
