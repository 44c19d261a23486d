"""What a threshold does, how sure that is, and which one does what is wanted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.model.sweep import (
    IntervalMethod,
    Measure,
    Target,
    beta_quantile,
    clopper_pearson,
    conformal_interval,
    frames_to_claim,
    operating_point,
    threshold_for,
)

scores = st.lists(st.floats(0.001, 2), max_size=60)
some_scores = st.lists(st.floats(0.001, 2), min_size=1, max_size=60)
shares = st.floats(0, 1)


def test_point_of_no_frames_has_no_rates() -> None:
    """Nothing was seen, so nothing is claimed."""
    point = operating_point(0.5, [], [])
    assert (point.ok_frames, point.false_rejects, point.recall, point.precision) == (0, 0, None, None)


def test_point_counts_a_score_at_the_threshold_as_rejected() -> None:
    """`s >= tau` is damaged."""
    point = operating_point(0.5, [0.4, 0.5], [0.5, 0.6, 0.1])
    assert (point.false_rejects, point.caught) == (1, 2)
    assert (point.recall, point.precision) == (2 / 3, 2 / 3)


@given(scores, some_scores, shares)
def test_threshold_for_recall_is_the_highest_that_reaches_it(ok: list[float], bad: list[float], wanted: float) -> None:
    """It catches the wanted share; the next higher score as threshold would miss one frame too many, or all."""
    tau = threshold_for(Target(measure=Measure.RECALL, wanted=wanted), ok, bad)
    assert tau is not None
    point = operating_point(tau, ok, bad)
    assert point.recall is not None
    assert point.recall >= wanted - 1e-9
    higher = operating_point(math.nextafter(min(s for s in bad if s >= tau), math.inf), ok, bad)
    assert higher.recall is not None
    assert higher.recall < max(wanted, 1e-9)


@given(scores, some_scores, shares)
def test_threshold_for_precision_is_the_lowest_that_reaches_it(
    ok: list[float], bad: list[float], wanted: float
) -> None:
    """No threshold at a damaged frame's score has the precision and a higher recall; None means that none has it."""
    tau = threshold_for(Target(measure=Measure.PRECISION, wanted=wanted), ok, bad)
    reached = [
        point.caught
        for point in (operating_point(score, ok, bad) for score in bad)
        if point.precision is not None and point.precision >= wanted
    ]
    assert (tau is None) == (not reached)
    if tau is not None:
        assert operating_point(tau, ok, bad).caught == max(reached)


@pytest.mark.parametrize("measure", Measure)
def test_threshold_without_damaged_frames_does_not_exist(measure: Measure) -> None:
    """There is nothing to catch."""
    assert threshold_for(Target(measure=measure, wanted=0.5), [0.1], []) is None


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    """A machine that rounds differently decides alike on every frame."""
    assert threshold_for(Target(measure=Measure.RECALL, wanted=1), [0.1, 0.2], [0.6, 0.9]) == pytest.approx(0.4)


@pytest.mark.parametrize("probability", [0.025, 0.5, 0.975])
@pytest.mark.parametrize("size", [1, 7, 400])
def test_beta_quantile_agrees_with_closed_forms(probability: float, size: int) -> None:
    """Beta(1, n) and Beta(n, 1) have simple quantiles."""
    assert beta_quantile(probability, 1, size) == pytest.approx(1 - (1 - probability) ** (1 / size), abs=1e-12)
    assert beta_quantile(probability, size, 1) == pytest.approx(probability ** (1 / size), abs=1e-12)


@given(st.integers(1, 300), st.integers(1, 300))
def test_beta_quantile_is_symmetric(a: int, b: int) -> None:
    """Beta(a, b) mirrored is Beta(b, a)."""
    assert beta_quantile(0.1, a, b) == pytest.approx(1 - beta_quantile(0.9, b, a), abs=1e-9)


@pytest.mark.parametrize(
    ("rejected", "frames", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 100, 0.0, 0.036217), (5, 100, 0.016432, 0.112835), (10, 10, 0.691503, 1.0)],
)
def test_clopper_pearson_agrees_with_published_values(rejected: int, frames: int, low: float, high: float) -> None:
    """Also with none and with all rejected, and without frames, where nothing is known."""
    interval = clopper_pearson(rejected, frames)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-5)
    assert interval.method is IntervalMethod.CLOPPER_PEARSON


def test_conformal_interval_is_that_of_the_order_statistic() -> None:
    """The largest of n scores is exceeded at a rate of Beta(1, n), and one score more narrows it."""
    interval = conformal_interval(0, 99)
    assert interval.low == pytest.approx(1 - 0.975 ** (1 / 99), abs=1e-9)
    assert interval.high == pytest.approx(clopper_pearson(0, 99).high, abs=1e-12)
    assert conformal_interval(0, 100).high < interval.high


@pytest.mark.parametrize(("rejected", "frames"), [(0, 0), (5, 5), (-1, 5)])
def test_conformal_interval_needs_a_frame_below(rejected: int, frames: int) -> None:
    """A threshold just above one of the scores has that score below it."""
    with pytest.raises(ValueError, match="at or above"):
        conformal_interval(rejected, frames)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 0.001])
def test_frames_to_claim_is_the_smallest_number_that_proves_the_rate(rate: float) -> None:
    """One frame fewer leaves the wanted rate inside the interval."""
    frames = frames_to_claim(rate)
    assert clopper_pearson(0, frames).high <= rate < clopper_pearson(0, frames - 1).high
