"""What a threshold does to OK and damaged frames, how sure that is, and the threshold that does what is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from schemas.base import Value
from schemas.recipe import Fraction

CONFIDENCE = 0.95

Scores = Sequence[float] | npt.NDArray[np.float64]


class Measure(StrEnum):
    """What a sweep over OK and damaged frames reaches."""

    RECALL = "recall"
    PRECISION = "precision"


class Target(Value):
    """What a sweep is to reach at least.

    recall: share of the damaged frames that is rejected. precision: share of damaged frames among all that is rejected,
    in the mix that the sweep is given.
    """

    measure: Measure
    wanted: Fraction


class IntervalMethod(StrEnum):
    """How an interval of the false-reject rate came about."""

    BETA = "Beta of the conformal coverage"
    CLOPPER_PEARSON = "Clopper-Pearson"


@dataclass(frozen=True, slots=True)
class RateInterval:
    """Two-sided interval of the false-reject rate, at the level `CONFIDENCE`."""

    low: float
    high: float
    method: IntervalMethod


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What `s >= tau` does to frames of which it is known whether they are OK."""

    tau: float
    ok_frames: int
    false_rejects: int
    damaged_frames: int
    caught: int

    @property
    def recall(self) -> float | None:
        """Share of the damaged frames that are rejected; None where there are none."""
        return self.caught / self.damaged_frames if self.damaged_frames else None

    @property
    def precision(self) -> float | None:
        """Share of damaged frames among the rejected; None where nothing is rejected."""
        rejected = self.caught + self.false_rejects
        return self.caught / rejected if rejected else None


def operating_point(tau: float, ok: Scores, damaged: Scores) -> OperatingPoint:
    """Count what `tau` does to frames with these scores."""
    return OperatingPoint(tau, len(ok), _at_or_above(tau, ok), len(damaged), _at_or_above(tau, damaged))


def threshold_for(target: Target, ok: Scores, damaged: Scores) -> float | None:
    """Return the threshold that reaches `target` at the least cost; None where there is none.

    The highest one for a recall, so that the fewest OK frames are rejected; the lowest one for a precision, so that the
    most damaged frames are. It lies in the middle of the gap below the score that decides: no frame is nearer than half
    the gap, and a machine that rounds differently decides alike.
    """
    if not len(damaged):
        return None
    ordered = np.sort(np.asarray(damaged, np.float64))
    if target.measure is Measure.RECALL:
        needed = max(1, math.ceil(target.wanted * len(ordered) - 1e-9))
        return _below(float(ordered[-needed]), ok, ordered)
    caught = len(ordered) - np.searchsorted(ordered, ordered, side="left")
    false_rejects = len(ok) - np.searchsorted(np.sort(np.asarray(ok, np.float64)), ordered, side="left")
    reached = np.flatnonzero(caught / (caught + false_rejects) >= target.wanted)
    return _below(float(ordered[reached[0]]), ok, ordered) if len(reached) else None


def conformal_interval(false_rejects: int, frames: int) -> RateInterval:
    """Return the interval of the false-reject rate where tau lies just above one of the frames' own scores.

    With r of n independent frames at or above it, the rate is distributed as Beta(r + 1, n - r) whatever the scores'
    distribution (Vovk, arXiv 1209.2673); with ties it is lower. Raises ValueError for r = n.
    """
    if not 0 <= false_rejects < frames:
        raise ValueError(f"{false_rejects} of {frames} frames at or above a threshold that is one of their scores")
    low, high = (beta_quantile(p, false_rejects + 1, frames - false_rejects) for p in _tails())
    return RateInterval(low, high, IntervalMethod.BETA)


def clopper_pearson(false_rejects: int, frames: int) -> RateInterval:
    """Return the exact interval of the false-reject rate where tau came from elsewhere, (0, 1) without frames.

    Source: Clopper and Pearson, Biometrika 26 (1934), 404-413.
    """
    lower, upper = _tails()
    low = beta_quantile(lower, false_rejects, frames - false_rejects + 1) if false_rejects else 0.0
    high = beta_quantile(upper, false_rejects + 1, frames - false_rejects) if false_rejects < frames else 1.0
    return RateInterval(low, high, IntervalMethod.CLOPPER_PEARSON)


def frames_to_claim(false_reject: float) -> int:
    """Return how many OK frames, none of them rejected, make a rate of at most `false_reject` certain at `CONFIDENCE`.

    It is the upper limit of `clopper_pearson`, so 2.5% are left above it.
    """
    return math.ceil(math.log(_tails()[0]) / math.log1p(-false_reject))


def beta_quantile(probability: float, a: int, b: int) -> float:
    """Return the quantile of Beta(a, b), a and b at least 1, within 1e-15.

    By bisection: for integers, P(Beta(a, b) <= x) = P(Binomial(a + b - 1, x) >= a).
    """
    trials = a + b - 1
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    hits = np.arange(a, trials + 1)
    log_choose = log_factorial[trials] - log_factorial[hits] - log_factorial[trials - hits]
    low, high = 0.0, 1.0
    for _ in range(50):
        x = (low + high) / 2
        below = float(np.exp(log_choose + hits * math.log(x) + (trials - hits) * math.log1p(-x)).sum())
        low, high = (x, high) if below < probability else (low, x)
    return (low + high) / 2


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _at_or_above(tau: float, scores: Scores) -> int:
    return int(np.count_nonzero(np.asarray(scores, np.float64) >= tau))


def _below(score: float, *scores: Scores) -> float:
    """Return the middle between `score` and the next lower of `scores`; `score` where there is none."""
    lower = max((float(s) for group in scores for s in group if s < score), default=score)
    # neighbours among the floats have no middle
    return score if lower == score else max((lower + score) / 2, math.nextafter(lower, math.inf))
