"""How far an AUROC, or the difference of two, may be off because there were only so many frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

CONFIDENCE = 0.95
_NEAR = 1e-9
_Z = float(norm.ppf((1 + CONFIDENCE) / 2))

Interval = tuple[float, float]


def auroc_interval(auroc: float, ok: int, damaged: int) -> Interval:
    """Return the 95% interval of an AUROC from so many OK and damaged frames, one at least of each.

    It does not shrink to a point at 1, where the usual ones claim certainty. Source: Newcombe, Confidence intervals for
    an effect size measure based on the Mann-Whitney statistic, part 2, Statistics in Medicine 25, 2006, method 5.
    """
    spare = (ok + damaged) / 2 - 1

    def excess(true: float) -> float:
        variance = true * (1 - true) * (1 + spare * ((1 - true) / (2 - true) + true / (1 + true))) / (ok * damaged)
        return (auroc - true) ** 2 - _Z**2 * variance

    # 0 and 1 are roots of their own, though nothing is certain there
    low = 0.0 if auroc == 0 else float(brentq(excess, 0.0, min(auroc, 1 - _NEAR)))
    high = 1.0 if auroc == 1 else float(brentq(excess, max(auroc, _NEAR), 1.0))
    return low, high


def auroc_difference(
    first: tuple[Sequence[float], Sequence[float]], second: tuple[Sequence[float], Sequence[float]]
) -> tuple[float, Interval]:
    """Return by how much the first model's AUROC is larger, and the 95% interval of that.

    first, second: scores of OK and of damaged frames, two at least of each, of the same frames in the same order: a
    frame that is hard for both says nothing of their difference. Source: DeLong, DeLong and Clarke-Pearson, Comparing
    the areas under two or more correlated ROC curves, Biometrics 44, 1988.
    """
    ok, damaged = (one - other for one, other in zip(_placements(*first), _placements(*second), strict=True))
    difference = float(damaged.mean())
    reach = _Z * math.sqrt(ok.var(ddof=1) / len(ok) + damaged.var(ddof=1) / len(damaged))
    return difference, (difference - reach, difference + reach)


def _placements(
    ok: Sequence[float], damaged: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return, for each OK frame, the share of damaged frames above it, and for each damaged one, of OK frames below.

    Ties count half; the mean of either is the AUROC.
    """
    both = rankdata([*ok, *damaged])
    below = (both[len(ok) :] - rankdata(damaged)) / len(ok)
    above = 1 - (both[: len(ok)] - rankdata(ok)) / len(damaged)
    return above, below
