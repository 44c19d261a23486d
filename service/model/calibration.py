"""Where the threshold lies: a limit that new OK frames pass with a wanted rate, from scores of held-back OK frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from schemas.base import Value
from schemas.messages import Sha256
from schemas.recipe import ScoreStatistic
from service.errors import TrainingError
from service.model.sweep import Target

FOLDS = 20
"""A bank without one of twenty folds is nearly the one that ships. The median held-back score of rendered parts lay 4%
above that of new ones with five folds (P95 and maximum), 2% with ten, and agreed with twenty."""
SMALLEST_SPREAD = 0.02
"""Share of the largest score taken as spread of the tail at least: a handful of scores may agree by chance."""

FalseReject = Annotated[float, Field(gt=0, lt=1)]


class LimitMethod(StrEnum):
    """How a limit was taken from held-back scores.

    censored: some of the frames may be damaged, so the highest scores are not believed. given: it came with an imported
    bank, from no scores at all.
    """

    CONFORMAL = "conformal"
    EXTRAPOLATED = "extrapolated"
    CENSORED = "censored"
    GIVEN = "given"


class HeldBackFrame(Value):
    """Scores of one OK frame, known by its file, against a bank made without its fold, or without it (fold 0)."""

    name: str
    sha256: Sha256
    fold: int
    scores: dict[ScoreStatistic, float]


class Sweep(Value):
    """A threshold that was set for a recall or precision on OK and damaged frames, and what it reached on them."""

    target: Target
    damaged_frames: int
    recall: float
    precision: float


class Calibration(Value):
    """How the thresholds came about; the limits of all statistics lie side by side.

    false_reject: wanted rate of the limits; None where they were given. folds: 0 where the frames were none of the
    training's, and were scored against the bank that ships. frames_needed: how many held-back frames the wanted rate
    takes without extrapolation. sweep: tau is not the limit of its statistic, but was set this way.
    """

    false_reject: FalseReject | None
    method: LimitMethod
    folds: int
    frames_needed: int
    limits: dict[ScoreStatistic, float]
    held_back: tuple[HeldBackFrame, ...]
    sweep: Sweep | None = None

    def scores(self, statistic: ScoreStatistic) -> list[float]:
        """Return the score of each held-back frame, in their order."""
        return [frame.scores[statistic] for frame in self.held_back]

    @property
    def patch_tau(self) -> float:
        """Score that the most unusual patch of an OK frame stays below, with the wanted rate."""
        return self.limits[ScoreStatistic.MAX]


def fold_of_frames(count: int, folds: int = FOLDS) -> npt.NDArray[np.int64]:
    """Return the fold of each of `count` frames: (count,) int64, contiguous blocks of nearly equal size.

    Blocks, not every twentieth frame: neighbours in a recording often show the same part, and a frame whose twin is in
    the bank is not held back.
    """
    return np.arange(count) * min(folds, count) // max(count, 1)


def frames_needed(false_reject: float) -> int:
    """Return how many held-back frames a split-conformal limit of this rate takes."""
    return math.ceil(round(1 / false_reject, 9)) - 1


def limit_of(scores: Sequence[float], false_reject: float) -> float:
    """Return the limit that a new OK frame's score reaches with a probability of at most `false_reject`.

    With enough frames the split-conformal limit: the k-th smallest of n scores, k = ceil((n + 1)(1 - rate)), and a hair
    more, since a score at the limit is damaged; valid for any distribution, as long as new frames are like these
    (Vovk et al. 2005; Lei et al., arXiv 1604.04173). With fewer, the largest score stands for the rate 1 / (n + 1) and
    the rest of the way is extrapolated along an exponential tail: max + b * ln(1 / ((n + 1) rate)), where b is the mean
    excess of the upper half over the median. Both agree where they meet.

    Raises:
        TrainingError: fewer than two scores, or one that is not finite.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    count = len(ordered)
    if count < 2 or not np.isfinite(ordered).all():
        raise TrainingError(f"a threshold needs two finite held-back scores at least, not {count}")
    spare = math.floor((count + 1) * false_reject + 1e-9)  # scores that may lie above the limit, and one
    if spare >= 1:
        limit = float(ordered[count - spare])
    else:
        median = float(np.median(ordered))
        excess = ordered[ordered > median] - median
        spread = max(float(excess.mean()) if len(excess) else 0.0, SMALLEST_SPREAD * float(ordered[-1]))
        limit = float(ordered[-1]) + spread * math.log(1 / ((count + 1) * false_reject))
    return math.nextafter(limit, math.inf)


def censored_limit_of(scores: Sequence[float], false_reject: float, doubtful: float) -> float:
    """Return the limit of `limit_of` where the highest scores, a share `doubtful` of them, may be of damaged parts.

    Of these only that they are high is believed: above the median the tail is taken for exponential and its mean excess
    is the maximum-likelihood estimate from the other scores, type II censored (Epstein and Sobel 1953). Scores fall off
    faster than that as a rule, so good parts reach the limit less often than wanted.

    Raises:
        TrainingError: fewer than two scores, or one that is not finite.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    if len(ordered) < 2 or not np.isfinite(ordered).all():
        raise TrainingError(f"a threshold needs two finite held-back scores at least, not {len(ordered)}")
    median = float(np.median(ordered))
    upper = ordered[len(ordered) // 2 :]
    believed = upper[: max(1, len(upper) - math.ceil(doubtful * len(ordered)))]
    excess = np.maximum(believed - median, 0)
    unseen = len(upper) - len(believed)
    spread = max(float(excess.sum() + unseen * excess[-1]) / len(believed), SMALLEST_SPREAD * float(believed[-1]))
    return math.nextafter(median + spread * math.log(0.5 / false_reject), math.inf)


def calibrate(
    held_back: Sequence[HeldBackFrame], false_reject: float, *, folds: int | None = None, doubtful: float = 0.0
) -> Calibration:
    """Take the limit of every statistic from the same held-back frames. Raises TrainingError as `limit_of`.

    folds: what to record; as many as the frames name where it is not given. doubtful: share of the frames that may be
    damaged.
    """
    needed = frames_needed(false_reject)
    method = LimitMethod.CONFORMAL if len(held_back) >= needed else LimitMethod.EXTRAPOLATED

    def limit(scores: Sequence[float]) -> float:
        return censored_limit_of(scores, false_reject, doubtful) if doubtful else limit_of(scores, false_reject)

    return Calibration(
        false_reject=false_reject,
        method=LimitMethod.CENSORED if doubtful else method,
        folds=len({frame.fold for frame in held_back}) if folds is None else folds,
        frames_needed=needed,
        limits={statistic: limit([frame.scores[statistic] for frame in held_back]) for statistic in ScoreStatistic},
        held_back=tuple(held_back),
    )
