"""Pictures at another size: what each pixel is the mean of, and where things lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.resize import resized


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_whole_factors_take_means_of_blocks(factor: int, channels: tuple[int, ...]) -> None:
    """Each pixel is the mean of the block under it; bytes are rounded."""
    image = np.random.default_rng(factor).integers(0, 256, (30 * factor, 40 * factor, *channels), np.uint8)
    blocks = image.reshape(30, factor, 40, factor, *channels).mean(axis=(1, 3))

    assert np.abs(resized(image, (40, 30)) - blocks).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(resized(image.astype(np.float32), (40, 30)), blocks, rtol=1e-5)


@given(st.integers(1, 700), st.integers(1, 300), st.integers(8, 200))
def test_nothing_moves(source: int, target: int, other: int) -> None:
    """A slope stays where it is, whatever the factor: half a pixel beside would move boxes and masks."""
    slope = np.tile(np.arange(source, dtype=np.float32) + 0.5, (other, 1))
    small = resized(slope, (target, max(1, round(other * target / source))))[0]

    expected = (np.arange(target) + 0.5) * source / target
    reach = max(1.0, source / target)  # at its ends a slope has nothing to be interpolated with
    inner = (expected > reach) & (expected < source - reach)
    # means over areas are of stairs, which lie within an eighth of a step of their slope
    np.testing.assert_allclose(small[inner], expected[inner], atol=0.126)


def test_a_wider_picture_is_not_smoother_for_it() -> None:
    """Noise is averaged alike on both sides of a whole factor: a part that is a pixel wider looks the same."""
    noise = np.random.default_rng(2).normal(128, 20, (960, 960, 3)).astype(np.float32)
    for factor in (2, 3, 4, 5, 8):
        below, above = (resized(noise, (960 // factor + more,) * 2).std() for more in (-1, 1))
        assert above == pytest.approx(below, rel=0.05)
