"""From patch scores to one image score and a decision."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from schemas.recipe import ScoreStatistic
from service.pipeline.types import FloatArray, Mask

_STATISTICS: dict[ScoreStatistic, Callable[[npt.NDArray[np.float64]], np.floating]] = {
    ScoreStatistic.P95: lambda scores: np.percentile(scores, 95),
    ScoreStatistic.P98: lambda scores: np.percentile(scores, 98),
    ScoreStatistic.P99: lambda scores: np.percentile(scores, 99),
    ScoreStatistic.MAX: np.max,
    ScoreStatistic.TOP1_MEAN: lambda scores: np.mean(np.sort(scores)[-math.ceil(scores.size / 100) :]),
}


def image_score(scores: FloatArray, statistic: ScoreStatistic) -> float:
    """Return the image anomaly score `s`.

    scores: (N,) of the patches (`patch_scores`), N > 0. Percentiles interpolate linearly. Raises
    ValueError for no scores and for a NaN or infinite one: neither may ever pass as OK.
    """
    if not scores.size:
        raise ValueError("an image without patches has no score")
    if not np.isfinite(scores).all():
        raise ValueError("patch scores must be finite")
    return float(_STATISTICS[statistic](scores.astype(np.float64)))


def all_statistics(scores: FloatArray) -> dict[ScoreStatistic, float]:
    """Return every image statistic side by side; see `image_score`."""
    return {statistic: image_score(scores, statistic) for statistic in ScoreStatistic}


def judge(score: float, tau: float, band: float) -> tuple[bool, bool]:
    """Return (damaged, uncertain): `s >= tau` is damaged; uncertain within the share `band` of tau around it.

    Raises ValueError for a NaN or infinite score or threshold.
    """
    if not (math.isfinite(score) and math.isfinite(tau)):
        raise ValueError(f"score {score} and threshold {tau} must be finite")
    return score >= tau, abs(score - tau) <= band * tau


def anomaly_map(scores: FloatArray, inside: Mask) -> FloatArray:
    """Lay the patch scores (N,) out on the grid: inside (rows, cols) bool, N true. Returns (rows, cols), 0 outside."""
    grid = np.zeros(inside.shape, np.float32)
    grid[inside] = scores
    return grid
