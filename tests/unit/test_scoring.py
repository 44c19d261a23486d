"""Image scores and decisions at their edges; the values themselves are in tests/golden."""

from __future__ import annotations

import math

import numpy as np
import pytest

from schemas.recipe import ScoreStatistic
from service.pipeline.scoring import anomaly_map, image_score, judge


@pytest.mark.parametrize("statistic", ScoreStatistic)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_score_refuses_what_is_not_finite(statistic: ScoreStatistic, poison: float) -> None:
    """One bad distance among good ones never becomes a score, whatever the statistic would make of it."""
    distances = np.array([0.1] * 200 + [poison], np.float32)

    with pytest.raises(ValueError, match="finite"):
        image_score(distances, statistic)


def test_score_of_no_patches_is_refused() -> None:
    """An image without patches is not OK."""
    with pytest.raises(ValueError, match="no score"):
        image_score(np.zeros(0, np.float32), ScoreStatistic.P95)


@pytest.mark.parametrize(
    ("score", "damaged", "uncertain"),
    [
        (0.94, False, False),
        (0.95, False, True),
        (0.999, False, True),
        (1.0, True, True),
        (1.05, True, True),
        (1.06, True, False),
    ],
)
def test_judge_counts_the_threshold_itself_as_damaged(score: float, damaged: bool, uncertain: bool) -> None:
    """`s >= tau` is damaged; the band of 5% lies on both sides."""
    assert judge(score, tau=1.0, band=0.05 + 1e-12) == (damaged, uncertain)


@pytest.mark.parametrize(("score", "tau"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf)])
def test_judge_refuses_what_is_not_finite(score: float, tau: float) -> None:
    """NaN compares as false, which would be OK: it is refused instead."""
    with pytest.raises(ValueError, match="finite"):
        judge(score, tau, 0.05)


def test_anomaly_map_puts_distances_where_the_cells_are() -> None:
    """Row-major inside the mask, zero outside."""
    inside = np.array([[False, True], [True, True]])

    assert anomaly_map(np.array([1, 2, 3], np.float32), inside).tolist() == [[0, 1], [2, 3]]
