"""Pictures at another size: where things lie, how bright they are, and how fine noise is taken out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.resize import resized


@pytest.mark.parametrize("times", [2, 4, 8])
def test_whole_halvings_are_means_of_blocks(times: int) -> None:
    """Without rounding in between, these are the means of what lies under each pixel."""
    image = np.random.default_rng(1).random((16 * times, 24 * times, 3), np.float32)
    blocks = image.reshape(16, times, 24, times, 3).mean(axis=(1, 3))

    np.testing.assert_allclose(resized(image, (24, 16)), blocks, atol=1e-6)


@given(st.integers(1, 700), st.integers(1, 300), st.integers(8, 200))
def test_nothing_moves(source: int, target: int, other: int) -> None:
    """A slope stays where it is, whatever the factor: half a pixel beside would move boxes and masks."""
    slope = np.tile(np.arange(source, dtype=np.float32) + 0.5, (other, 1))
    small = resized(slope, (target, max(1, round(other * target / source))))[0]

    expected = np.clip((np.arange(target) + 0.5) * source / target, 0.5, source - 0.5)
    reach = max(1.0, source / target)  # at its ends a slope has nothing to be interpolated with
    inner = (expected > reach) & (expected < source - reach)
    np.testing.assert_allclose(small[inner], expected[inner], atol=1e-3 * source)


@pytest.mark.parametrize("size_wh", [(640, 480), (600, 450), (240, 180), (111, 83), (37, 28)])
def test_noise_is_averaged_as_far_as_there_is_much_of_it(size_wh: tuple[int, int]) -> None:
    """What is smaller than a pixel must not come through as a pattern of its own."""
    noise = np.random.default_rng(2).normal(128, 20, (1440, 1920, 3)).astype(np.float32)
    factor = 1920 / size_wh[0]
    # a mean over an area has 20 / factor left; twice that is what interpolating the last step may leave
    assert resized(noise, size_wh).std() < 2 * 20 / factor


def test_grey_levels_and_types_stay() -> None:
    """A plain picture stays plain, in its own type, with and without colours."""
    for image in (np.full((61, 47), 200, np.uint8), np.full((61, 47, 3), 0.25, np.float32)):
        for size_wh in ((47, 61), (20, 26), (23, 30), (90, 117)):
            small = resized(image, size_wh)
            assert small.shape == (size_wh[1], size_wh[0], *image.shape[2:])
            assert small.dtype == image.dtype
            assert (small == image.flat[0]).all()
