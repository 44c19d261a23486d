"""How far an AUROC may be off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from service.evaluation.uncertainty import auroc_difference, auroc_interval

SETS = 200


def auroc(ok: list[float], damaged: list[float]) -> float:
    return float(roc_auc_score([0] * len(ok) + [1] * len(damaged), [*ok, *damaged]))


@given(st.floats(0, 1), st.integers(1, 500), st.integers(1, 500))
def test_interval_holds_the_auroc(value: float, ok: int, damaged: int) -> None:
    """It lies within 0 and 1, around the AUROC, and is a point never."""
    low, high = auroc_interval(value, ok, damaged)
    assert 0 <= low <= value + 1e-8
    assert value - 1e-8 <= high <= 1
    assert low < high


def test_interval_shrinks_with_the_frames_and_mirrors() -> None:
    """More frames say more; to swap the labels is to count from the other end."""
    widths = [high - low for low, high in (auroc_interval(0.9, count, count) for count in (5, 50, 500))]
    assert widths == sorted(widths, reverse=True)
    low, high = auroc_interval(0.9, 20, 30)
    assert auroc_interval(0.1, 30, 20) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("shift", "ok", "damaged"), [(0.2, 40, 20), (1.8, 30, 30), (3.0, 15, 15)])
def test_interval_covers_the_truth_as_often_as_it_says(shift: float, ok: int, damaged: int) -> None:
    """Of many sets of frames about 95% have the true AUROC in their interval, also where most of them reach 1."""
    rng = np.random.default_rng(7)
    truth = norm.cdf(shift / np.sqrt(2))
    covered = 0
    for _ in range(SETS):
        value = auroc(rng.normal(0, 1, ok).tolist(), rng.normal(shift, 1, damaged).tolist())
        low, high = auroc_interval(value, ok, damaged)
        covered += low <= truth <= high
    assert covered / SETS == pytest.approx(0.95, abs=0.035)


def test_difference_is_that_of_the_aurocs_and_covers_the_truth() -> None:
    """Two models that find the same frames hard: their difference is known better than either AUROC."""
    rng = np.random.default_rng(3)
    truth = norm.cdf(1.5 / np.sqrt(2.5)) - norm.cdf(1.0 / np.sqrt(2.5))
    covered, widths, own = 0, [], []
    for _ in range(SETS):
        ok, damaged = rng.normal(0, 1, 40), rng.normal(0, 1, 30)
        first, second = (
            ((ok + rng.normal(0, 0.5, 40)).tolist(), (damaged + shift + rng.normal(0, 0.5, 30)).tolist())
            for shift in (1.5, 1.0)
        )
        difference, (low, high) = auroc_difference(first, second)
        assert difference == pytest.approx(auroc(*first) - auroc(*second))
        covered += low <= truth <= high
        widths.append(high - low)
        own.append(np.diff(auroc_interval(auroc(*first), 40, 30))[0])
    assert covered / SETS == pytest.approx(0.95, abs=0.035)
    assert np.mean(widths) < np.mean(own)


def test_difference_of_a_model_with_itself_is_none() -> None:
    """Ties count half, on both sides."""
    scores = ([0.1, 0.5, 0.5], [0.5, 0.7])
    assert auroc_difference(scores, scores) == (0.0, (0.0, 0.0))
