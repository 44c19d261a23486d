"""Thresholds from held-back scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.recipe import ScoreStatistic
from service.errors import TrainingError
from service.model.calibration import (
    HeldBackFrame,
    LimitMethod,
    calibrate,
    censored_limit_of,
    fold_of_frames,
    frames_needed,
    limit_of,
)

scores = st.lists(st.floats(0, 2), min_size=2, max_size=300)
rates = st.floats(0.001, 0.5)


@given(scores, rates)
def test_limit_lets_every_frame_pass_that_may_pass(values: list[float], rate: float) -> None:
    """At most the wanted share of n + 1 held-back frames reaches the limit, whatever their distribution."""
    limit = limit_of(values, rate)
    assert sum(value >= limit for value in values) <= (len(values) + 1) * rate + 1e-9


@given(st.lists(st.floats(0.1, 2), min_size=20, max_size=300), rates, st.floats(1.01, 1000))
def test_censored_limit_does_not_hear_how_high_the_doubtful_are(
    values: list[float], rate: float, factor: float
) -> None:
    """Damaged frames among the OK ones, up to the share that is doubted, move nothing by being more damaged."""
    ordered = sorted(values)
    doubtful = math.ceil(0.15 * len(ordered))
    worse = [*ordered[:-doubtful], *(factor * value for value in ordered[-doubtful:])]
    assert censored_limit_of(worse, rate, 0.15) == censored_limit_of(ordered, rate, 0.15)


def test_censored_limit_of_an_exponential_tail_is_its_quantile() -> None:
    """Where the tail is what it is taken for, the limit is right, with a seventh of it out of sight."""
    values = np.random.default_rng(1).exponential(0.1, 20_000) + 0.3
    wanted = 0.3 + 0.1 * math.log(1 / 0.01)
    assert censored_limit_of(values.tolist(), 0.01, 0.15) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("values", [[], [0.5], [0.1, math.nan], [0.1, math.inf, 0.2]])
def test_censored_limit_refuses_what_is_no_sample(values: list[float]) -> None:
    """Two finite scores at least."""
    with pytest.raises(TrainingError, match="two finite held-back scores"):
        censored_limit_of(values, 0.01, 0.15)


@given(scores, rates)
def test_limit_is_no_lower_for_a_smaller_rate(values: list[float], rate: float) -> None:
    """Who wants fewer false rejects gets a threshold that is at least as high."""
    assert limit_of(values, rate / 2) >= limit_of(values, rate)


def test_limit_of_enough_scores_is_the_conformal_order_statistic() -> None:
    """With 199 scores and a rate of 1% the second largest score still passes, the largest does not."""
    values = [float(value) for value in np.random.default_rng(0).permutation(199)]
    assert limit_of(values, 0.01) == math.nextafter(197.0, math.inf)


def test_limit_is_continuous_where_extrapolation_ends() -> None:
    """98 scores, one too few for 1%, give nearly the limit that 99 give."""
    values = np.sort(np.random.default_rng(0).exponential(0.1, 99))
    assert limit_of(values[1:].tolist(), 0.01) == pytest.approx(limit_of(values.tolist(), 0.01), rel=0.01)


def test_limit_of_few_scores_reaches_the_wanted_rate() -> None:
    """Twenty scores, a rate of 1%: over many draws the false rejects of new parts come out near or below it."""
    rng = np.random.default_rng(1)
    draws: tuple[Callable[[int], np.ndarray], ...] = (
        lambda size: rng.exponential(0.1, size),
        lambda size: rng.normal(0.5, 0.05, size),
    )
    for draw in draws:
        rejected = np.mean([np.mean(draw(500) >= limit_of(draw(20).tolist(), 0.01)) for _ in range(400)])
        assert rejected < 0.02


def test_limit_of_equal_scores_leaves_a_margin() -> None:
    """Two scores that agree by chance do not make a threshold on their very value."""
    assert limit_of([0.5, 0.5], 0.01) > 0.52


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan], [0.5, math.inf]])
def test_limit_needs_two_finite_scores(values: list[float]) -> None:
    """No score, one score, or one that is no number, makes no threshold."""
    with pytest.raises(TrainingError):
        limit_of(values, 0.01)


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.1, 9), (1 / 49, 48), (0.01, 99), (0.001, 999)])
def test_frames_needed_is_the_smallest_conformal_sample(rate: float, needed: int) -> None:
    """As many frames as make 1 / (n + 1) the wanted rate."""
    assert frames_needed(rate) == needed
    if needed > 1:
        scores = [float(score) for score in range(needed)]
        # the largest of them, and no extrapolation, however a float rounds (49 * (1 / 49) < 1)
        assert limit_of(scores, rate) == math.nextafter(scores[-1], math.inf)


def test_folds_are_contiguous_and_nearly_equal() -> None:
    """Neighbours in a recording stay together, and no fold is more than one frame larger than another."""
    folds = fold_of_frames(12, 5)
    assert np.all(np.diff(folds) >= 0)
    assert sorted(np.bincount(folds).tolist()) == [2, 2, 2, 3, 3]


@pytest.mark.parametrize(("count", "folds"), [(0, 0), (1, 1), (2, 2), (19, 19), (20, 20), (21, 20)])
def test_folds_never_outnumber_the_frames(count: int, folds: int) -> None:
    """Few frames are held back one by one, no frames in no fold."""
    assert len(set(fold_of_frames(count).tolist())) == folds


def test_calibration_keeps_every_statistic_side_by_side() -> None:
    """Each statistic has its own limit, from its own scores; patch_tau is that of the largest distance."""
    held_back = [
        HeldBackFrame(
            name=f"{index}.png",
            sha256=f"{index:064x}",
            fold=index,
            scores={s: 0.1 * rank + 0.01 * index for rank, s in enumerate(ScoreStatistic, 1)},
        )
        for index in range(5)
    ]
    assert calibrate(held_back[:3], 0.25).method is LimitMethod.CONFORMAL  # as many as it takes
    calibration = calibrate(held_back, 0.25)
    assert calibration.method is LimitMethod.CONFORMAL
    assert calibration.folds == 5
    for rank, statistic in enumerate(ScoreStatistic, 1):
        assert calibration.limits[statistic] == pytest.approx(0.1 * rank + 0.04)
    assert calibration.patch_tau == calibration.limits[ScoreStatistic.MAX]


def test_calibration_says_where_it_extrapolated() -> None:
    """Two frames are too few for one percent, and the record says how many it takes."""
    scores = dict.fromkeys(ScoreStatistic, 0.5)
    held_back = [HeldBackFrame(name=name, sha256=name * 64, fold=0, scores=scores) for name in ("a", "b")]
    calibration = calibrate(held_back, 0.01)
    assert (calibration.method, calibration.frames_needed) == (LimitMethod.EXTRAPOLATED, 99)
