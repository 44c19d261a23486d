"""Image statistics against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from schemas.recipe import ScoreStatistic
from service.pipeline.scoring import all_statistics


def percentile(values: list[float], q: float) -> float:
    """Return the linearly interpolated percentile by its definition."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@pytest.mark.parametrize("count", [1, 2, 19, 100, 101, 1369])
def test_statistics_equal_their_definitions(count: int) -> None:
    """Every statistic, from one patch to a whole grid."""
    distances = np.random.default_rng(count).gamma(2.0, 0.2, count).astype(np.float32)
    values = [float(value) for value in distances]
    top = sorted(values)[-math.ceil(count / 100) :]

    assert all_statistics(distances) == pytest.approx(
        {
            ScoreStatistic.P95: percentile(values, 95),
            ScoreStatistic.P98: percentile(values, 98),
            ScoreStatistic.P99: percentile(values, 99),
            ScoreStatistic.MAX: max(values),
            ScoreStatistic.TOP1_MEAN: math.fsum(top) / len(top),
        },
        rel=1e-12,
    )
