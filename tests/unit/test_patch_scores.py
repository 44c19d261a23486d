"""Patch scores: what is evened out, what is averaged, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.patch_scores import RINGS, patch_scores, rim_of
from service.pipeline.types import FloatArray


def frames_with_a_loud_rim(count: int) -> list[FloatArray]:
    """Return distances of whole grids of 16 x 16 whose outermost ring is twice as far."""
    rng = np.random.default_rng(0)
    grids = rng.uniform(0.1, 0.2, (count, 16, 16)).astype(np.float32)
    grids[:, 1:-1, 1:-1] /= 2
    return [grid.ravel() for grid in grids]


def test_nothing_is_changed_where_nothing_is_wanted() -> None:
    """No rim and a neighbourhood of one patch: the distances as they are."""
    inside = np.ones((4, 5), bool)
    distances = np.arange(20, dtype=np.float32)

    np.testing.assert_array_equal(patch_scores(distances, inside, (), 1), distances)
    assert rim_of([distances], [inside], 0.0) == ()


def test_loud_rim_of_sound_parts_is_evened_out() -> None:
    """Fully evened out, rim and middle are alike; half way, the rim is still the louder one."""
    frames = frames_with_a_loud_rim(4)
    insides = [np.ones((16, 16), bool)] * 4

    def rim_over_middle(strength: float) -> float:
        scores = patch_scores(frames[0], insides[0], rim_of(frames, insides, strength), 1).reshape(16, 16)
        return float(np.median(scores[0]) / np.median(scores[3:13, 3:13]))

    assert rim_over_middle(1.0) == pytest.approx(1, abs=0.1)
    assert rim_over_middle(0.5) == pytest.approx(2**0.5, abs=0.15)
    assert rim_over_middle(0.0) == pytest.approx(2, abs=0.2)


def test_too_few_patches_even_nothing_out() -> None:
    """A handful of patches says nothing about a rim, and neither does a station where all are at the bank."""
    small = np.ones((5, 5), bool)

    assert rim_of([np.ones(25, np.float32)], [small], 0.5) == ()
    assert rim_of([np.zeros(256, np.float32)], [np.ones((16, 16), bool)], 0.5) == ()


def test_ring_that_is_always_at_the_bank_divides_by_no_zero() -> None:
    """Its level is small, not nothing."""
    inside = np.ones((16, 16), bool)
    distances = np.full((16, 16), 0.5, np.float32)
    distances[1:-1, 1:-1] = 0

    rim = rim_of([distances.ravel()] * 2, [inside] * 2, 1.0)

    assert min(rim) > 0
    assert np.isfinite(patch_scores(distances.ravel(), inside, rim, 3)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_none(bad: float) -> None:
    """It must not vanish in a mean: a frame with it may never pass."""
    inside = np.ones((6, 6), bool)
    distances = np.full(36, 0.1, np.float32)
    distances[20] = bad

    assert not np.isfinite(patch_scores(distances, inside, (1.0,) * RINGS, 3)).all()


@given(st.data())
def test_scores_lie_between_the_smallest_and_the_largest_distance(data: st.DataObject) -> None:
    """A mean invents nothing, whatever the silhouette."""
    rows, cols = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    cells = data.draw(st.lists(st.booleans(), min_size=rows * cols, max_size=rows * cols).filter(any))
    inside = np.array(cells).reshape(rows, cols)
    count = int(inside.sum())
    distances = np.array(data.draw(st.lists(st.floats(0, 2, width=32), min_size=count, max_size=count)), np.float32)
    side = data.draw(st.sampled_from([1, 3, 5]))

    scores = patch_scores(distances, inside, (), side)

    assert scores.shape == distances.shape
    assert distances.min() - 1e-5 <= scores.min()
    assert scores.max() <= distances.max() + 1e-5
