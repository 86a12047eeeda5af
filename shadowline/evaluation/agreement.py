"""Shadow mode: two models on the same images, and how far their decisions agree.

    agree(PairCounts(count_cells(table)), confidence=0.95).settled

Every image is judged by both models; a pair is a pair of decisions on one image. Where an inspector has labelled the
image, the pair is settled: it speaks against the candidate only if the candidate was wrong and the legacy model right.

    cells_LCG[l, c, g]   number of pairs
                         L label: none, normal, anomalous · C, G decision of candidate and legacy: normal, anomalous
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from shadowline.evaluation.evidence import ALARM, ANOMALOUS, NO_ALARM, NORMAL

Cells = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rate:
    """A share of `num_total`, with its Wilson interval; NaN where `num_total` is 0."""

    num_hits: int
    num_total: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, num_hits: int, num_total: int, confidence: float) -> Rate:
        """Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).

        Raises ValueError for more hits than there are in all.
        """
        if not 0 <= num_hits <= num_total:
            raise ValueError(f"rate: {num_hits} of {num_total}; count the same images for both")
        if num_total == 0:
            return cls(0, 0, float("nan"), 0.0, 1.0)
        value = num_hits / num_total
        low, high = proportion_confint(num_hits, num_total, alpha=1.0 - confidence, method="wilson")
        # The value lies inside, but rounding can leave it out at 0 and 1: a faultless model would miss a bound of 1.
        return cls(num_hits, num_total, value, min(float(low), value), max(float(high), value))

    def __str__(self) -> str:
        if not self.num_total:
            return "nothing measured"
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.num_total}"


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Pairs of one class by label and both decisions: all that the statistics of agreement need."""

    cells_LCG: Cells  # (3, 2, 2)

    def __post_init__(self) -> None:
        if self.cells_LCG.shape != (3, 2, 2) or (self.cells_LCG < 0).any():
            raise ValueError(f"pair counts: shape {self.cells_LCG.shape}, need (3, 2, 2) without negatives")

    @classmethod
    def empty(cls) -> PairCounts:
        return cls(np.zeros((3, 2, 2), dtype=np.int64))

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(self.cells_LCG + other.cells_LCG)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PairCounts) and bool((self.cells_LCG == other.cells_LCG).all())

    @property
    def num_pairs(self) -> int:
        return int(self.cells_LCG.sum())

    @property
    def table(self) -> Cells:
        """Candidate × legacy, labels aside: (2, 2)."""
        return np.asarray(self.cells_LCG.sum(axis=0))

    @property
    def num_agreeing(self) -> int:
        return int(np.trace(self.table))

    @property
    def num_settled(self) -> int:
        """Pairs that agree, and those that disagree where the label says that the candidate was right."""
        proven = self.cells_LCG[NORMAL, NO_ALARM, ALARM] + self.cells_LCG[ANOMALOUS, ALARM, NO_ALARM]
        return self.num_agreeing + int(proven)

    @property
    def lost_and_gained(self) -> tuple[int, int]:
        """Labelled defects that the legacy model alone finds, and that the candidate alone finds."""
        return int(self.cells_LCG[ANOMALOUS, NO_ALARM, ALARM]), int(self.cells_LCG[ANOMALOUS, ALARM, NO_ALARM])

    def alarms(self, label: int, *, candidate: bool) -> tuple[int, int]:
        """Alarms of one model, and images, among those with this label."""
        table = self.cells_LCG[label]
        return int(table[ALARM].sum() if candidate else table[:, ALARM].sum()), int(table.sum())


@dataclass(frozen=True)
class Agreement:
    """Statistics of the pairs of one class; a rate is NaN, and a statistic None, where it is not defined."""

    num_pairs: int
    num_labelled: int
    agreement: Rate  # same decision
    settled: Rate  # same decision, or the candidate proven right
    kappa: float | None  # Cohen, "A coefficient of agreement for nominal scales" (1960); None for one decision only
    mcnemar_p: float | None  # exact McNemar test that both raise equally many alarms; None without disagreements
    drift: tuple[float, float, float]  # candidate's anomaly rate − legacy's, with its interval
    candidate_false_alarms: Rate  # among labelled normal
    candidate_misses: Rate  # among labelled anomalous
    legacy_false_alarms: Rate
    legacy_misses: Rate

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def agree(counts: PairCounts, confidence: float) -> Agreement:
    """All statistics of agreement of one class."""
    table, n = counts.table, counts.num_pairs

    def rate(label: int, *, candidate: bool, misses: bool) -> Rate:
        alarms, total = counts.alarms(label, candidate=candidate)
        return Rate.of(total - alarms if misses else alarms, total, confidence)

    disagreeing = n - counts.num_agreeing
    return Agreement(
        num_pairs=n,
        num_labelled=int(counts.cells_LCG[NORMAL:].sum()),
        agreement=Rate.of(counts.num_agreeing, n, confidence),
        settled=Rate.of(counts.num_settled, n, confidence),
        kappa=_kappa(table),
        mcnemar_p=float(mcnemar(table, exact=True).pvalue) if disagreeing else None,
        drift=paired_difference(int(table[ALARM, NO_ALARM]), int(table[NO_ALARM, ALARM]), n, confidence),
        candidate_false_alarms=rate(NORMAL, candidate=True, misses=False),
        candidate_misses=rate(ANOMALOUS, candidate=True, misses=True),
        legacy_false_alarms=rate(NORMAL, candidate=False, misses=False),
        legacy_misses=rate(ANOMALOUS, candidate=False, misses=True),
    )


def paired_difference(
    only_first: int, only_second: int, num_pairs: int, confidence: float
) -> tuple[float, float, float]:
    """Difference of two paired shares, with its interval: (difference, low, high); NaN and ±1 without pairs.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data" (2012), eq. 7.
    """
    if num_pairs == 0:
        return float("nan"), -1.0, 1.0
    first, second = (only_first + 1) / (num_pairs + 2), (only_second + 1) / (num_pairs + 2)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    half = z * float(np.sqrt((first + second - (first - second) ** 2) / (num_pairs + 2)))
    middle = first - second
    return (only_first - only_second) / num_pairs, max(-1.0, middle - half), min(1.0, middle + half)


def _kappa(table: Cells) -> float | None:
    is_constant = table.diagonal().max() == table.sum()
    return None if is_constant else float(cohens_kappa(table, return_results=False))


def score_correlation(candidate: npt.ArrayLike, legacy: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation of the two models' scores on the same images; None where a score never varies."""
    first, second = np.asarray(candidate, dtype=np.float64), np.asarray(legacy, dtype=np.float64)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)
