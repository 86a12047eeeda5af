"""Which class is an image of? The nearest class that can accept it, or none of them.

    identity = ClassIdentity.fit(known_ND, val_ND, params, class_name=..., fingerprint=...)   # of one class's images
    identities = Identities.of({"bolt": identity, "nut": other})                # stacked once
    answer = identities.identify(embed(fused_BGTD, num_prefix)[0].numpy())
    answer.class_name, answer.confidence                                        # None: an unknown product

A class is a Gaussian of image embeddings: its strongest directions are kept, in all others it spreads evenly. The
distance of an image to it becomes a conformal p-value: the share of the class's normal images, this image among them,
that lie as far out. A class accepts an image whose p-value exceeds `unknown_share`. Of the classes that accept it the
answer is the nearest, in units of the class's own typical distance; if no class accepts it the product is unknown.

So a class rejects at most `unknown_share` of its normal images, and adding a class can only turn rejections into
acceptances. Everything about a class comes from its own images, and the distance to a class is computed separately from
the others: bit for bit the same, whichever other classes there are and in whatever order.

B images · N images · G groups · T tokens · D width · C classes · R directions. Sources: Tipping & Bishop,
"Probabilistic principal component analysis" (1999), equations 7 and 8; conformal p-values:
shadowline/core/conformal.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn.functional import normalize

from shadowline.core.atomic_files import replace_file
from shadowline.core.conformal import promised_rate
from shadowline.core.params import IdentificationParams
from shadowline.models.gaussian_bank.bank import Moments, shrunk_covariance

Floats = npt.NDArray[np.float32]

_ROUNDING = 1e-12  # of a p-value, which is a fraction of two counts
_SUPPORT_OF_UNKNOWN = 1.0  # in units of the p-value up to which a class rejects
_TAIL = 4  # beyond the farthest val image, support falls with this power of the distance; see docs/decisions/0013


def embed(fused_BGTD: Tensor, num_prefix: int) -> Tensor:
    """What an image looks like as a whole: the mean patch of the last group, of length 1. (B, D), float32."""
    return normalize(fused_BGTD[:, -1, num_prefix:].mean(dim=1), dim=1)


@dataclass(frozen=True, eq=False)
class ClassIdentity:
    """What one class's images look like, and how far out its normal ones lie."""

    mean_D: Floats
    directions_RD: Floats  # with R rows a: distance² = precision · ‖x − μ‖² − Σ (a · (x − μ))²
    precision: float  # 1 / variance in all directions that are not kept
    distances_N: Floats  # of the class's val images, ascending
    unknown_share: float  # the class rejects at most this share of its normal images
    num_images: int  # that the Gaussian is fitted to
    fingerprint: str  # of the encoder

    @classmethod
    def fit(
        cls,
        known_ND: npt.ArrayLike,
        val_ND: npt.ArrayLike,
        params: IdentificationParams,
        *,
        class_name: str,
        fingerprint: str,
    ) -> ClassIdentity:
        """Fit the Gaussian to `known_ND`, images of the class with or without defects; `val_ND` are other, normal ones.

        Where the val images are too few for `params.unknown_share`, the class rejects the least share that they allow.
        Raises ValueError without val images.
        """
        val, known = np.asarray(val_ND, dtype=np.float32), np.asarray(known_ND, dtype=np.float64)
        if not len(val):
            raise ValueError(f"class {class_name!r}: 0 val images; add normal images")
        mean, directions, precision = _gaussian(known, params.directions)
        alone = mean[None], directions[None], np.full(1, precision, dtype=np.float32)
        distances = [_distance(*alone, embedding)[0] for embedding in val]
        return cls(
            mean_D=mean,
            directions_RD=directions,
            precision=precision,
            distances_N=np.sort(np.array(distances, dtype=np.float32)),
            unknown_share=promised_rate(params.unknown_share, len(val)),
            num_images=len(known),
            fingerprint=fingerprint,
        )

    @property
    def num_bytes(self) -> int:
        return self.mean_D.nbytes + self.directions_RD.nbytes + self.distances_N.nbytes

    def save(self, path: Path) -> None:
        facts = {
            "precision": self.precision,
            "unknown_share": self.unknown_share,
            "num_images": self.num_images,
            "fingerprint": self.fingerprint,
        }
        arrays = {"mean": self.mean_D, "directions": self.directions_RD, "distances": self.distances_N}
        with replace_file(path) as temporary:
            save_file(arrays, temporary, metadata={"identity": json.dumps(facts, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> ClassIdentity:
        """Raises FileNotFoundError where the class has no identity file."""
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["identity"])
            mean, directions, distances = (file.get_tensor(name) for name in ("mean", "directions", "distances"))
        return cls(mean_D=mean, directions_RD=directions, distances_N=distances, **facts)


def _gaussian(known_ND: npt.NDArray[np.float64], num_directions: int) -> tuple[Floats, Floats, float]:
    """Mean, scaled directions and precision; the covariance is shrunk (Ledoit-Wolf), so that few images suffice."""
    mean, covariance, _ = shrunk_covariance(Moments.of(known_ND[None]), 0, "ledoit_wolf")
    variances, vectors = np.linalg.eigh(covariance)  # ascending
    kept = min(num_directions, len(mean) - 1)
    rest = float(variances[:-kept].mean())  # Tipping & Bishop, equation 8
    rows = np.sqrt(1.0 / rest - 1.0 / variances[-kept:])[:, None] * vectors[:, -kept:].T
    return mean.astype(np.float32), np.ascontiguousarray(rows, dtype=np.float32), 1.0 / rest


def _distance(mean_CD: Floats, directions_CRD: Floats, precision_C: Floats, embedding_D: Floats) -> Floats:
    """Mahalanobis distance of one image to each class: (C,). One matrix product per class, apart from the others."""
    centred_CD = embedding_D - mean_CD
    along_CR = np.matmul(directions_CRD, centred_CD[:, :, None])[:, :, 0]
    squared_C = precision_C * np.square(centred_CD).sum(axis=1) - np.square(along_CR).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squared_C, np.float32(0.0))))


@dataclass(frozen=True)
class Identification:
    """The class of an image, with a confidence that the image is of the nearest class.

    The confidence is the nearest class's share of all support. A class's support is its p-value in units of the p-value
    up to which it rejects, and "unknown" has a support of 1: for an image that a single class just accepts it is 0.5.
    The farther an image lies inside a class, and from all others, the higher is the confidence; the farther it lies
    beyond every class, the closer it is to 0. All classes and "unknown" together have 1.

    Guarantee where all classes reject the same share: of any class's normal images at most a share of (1 − q) / q is
    given to a wrong class with a confidence of q or more, as far as n val images can tell (down to 1 / (n + 1)). There
    is no guarantee for products that belong to no class.
    """

    class_name: str | None  # None: an unknown product
    nearest_class: str
    p_value: float  # of the nearest class
    confidence: float  # 0…1, the nearest class's share of all support


@dataclass(frozen=True, eq=False)
class Identities:
    """All classes, stacked; sorted by name, so that ties go to the first name."""

    names: tuple[str, ...]
    mean_CD: Floats
    directions_CRD: Floats
    precision_C: Floats
    distances_CN: Floats  # padded with −∞, which is never as far out as an image
    num_val_C: npt.NDArray[np.int64]
    typical_C: Floats  # median distance of the class's val images
    farthest_C: Floats  # largest distance of the class's val images
    unknown_share_C: npt.NDArray[np.float64]

    @classmethod
    def of(cls, classes: Mapping[str, ClassIdentity]) -> Identities:
        """Raises ValueError for no classes, and for classes of different encoders."""
        names = tuple(sorted(classes))
        identities = [classes[name] for name in names]
        if len({identity.fingerprint for identity in identities}) != 1:
            raise ValueError(f"identities of {', '.join(names) or 'no class'}: need one encoder's; run `dvc repro`")
        return cls(
            names=names,
            mean_CD=np.stack([identity.mean_D for identity in identities]),
            directions_CRD=_stack([identity.directions_RD for identity in identities], 0.0),
            precision_C=np.array([identity.precision for identity in identities], dtype=np.float32),
            distances_CN=_stack([identity.distances_N for identity in identities], -np.inf),
            num_val_C=np.array([len(identity.distances_N) for identity in identities]),
            typical_C=np.array([np.median(identity.distances_N) for identity in identities], dtype=np.float32),
            farthest_C=np.array([identity.distances_N.max() for identity in identities], dtype=np.float32),
            unknown_share_C=np.array([identity.unknown_share for identity in identities]),
        )

    @property
    def num_bytes(self) -> int:
        return self.mean_CD.nbytes + self.directions_CRD.nbytes + self.distances_CN.nbytes

    def identify(self, embedding_D: Floats) -> Identification:
        """The class of one image, from its embedding (`embed`)."""
        distance_C = self.distance(embedding_D)
        p_C = self.p_values(distance_C)
        accepts_C = p_C > self.unknown_share_C + _ROUNDING
        relative_C = distance_C / self.typical_C
        is_known = bool(accepts_C.any())
        nearest = int(np.argmin(np.where(accepts_C, relative_C, np.inf) if is_known else relative_C))
        support_C = self._extended(p_C, distance_C) / self.unknown_share_C
        confidence = float(support_C[nearest]) / (_SUPPORT_OF_UNKNOWN + float(support_C.sum()))
        name = self.names[nearest]
        return Identification(name if is_known else None, name, float(p_C[nearest]), confidence)

    def distance(self, embedding_D: Floats) -> Floats:
        """Mahalanobis distance to each class: (C,)."""
        return _distance(self.mean_CD, self.directions_CRD, self.precision_C, embedding_D)

    def p_values(self, distance_C: Floats) -> npt.NDArray[np.float64]:
        """Conformal p-value for each class, (C,): P(p ≤ α) ≤ α for normal images exchangeable with its val."""
        as_far_C = (self.distances_CN >= distance_C[:, None]).sum(axis=1)
        return np.asarray((1 + as_far_C) / (1 + self.num_val_C), dtype=np.float64)

    def _extended(self, p_C: npt.NDArray[np.float64], distance_C: Floats) -> npt.NDArray[np.float64]:
        """P-values that go on falling beyond a class's farthest val image, where the count of val images stays at 0."""
        beyond_C = np.maximum(distance_C / self.farthest_C, 1.0)
        return np.asarray(p_C * beyond_C**-_TAIL, dtype=np.float64)


def _stack(arrays: list[Floats], padding: float) -> Floats:
    """Stack arrays whose first axes differ in length; shorter arrays are filled up with `padding`."""
    longest = max(len(array) for array in arrays)
    filled = np.full((len(arrays), longest, *arrays[0].shape[1:]), padding, dtype=np.float32)
    for row, array in zip(filled, arrays, strict=True):
        row[: len(array)] = array
    return filled
