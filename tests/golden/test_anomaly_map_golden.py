"""The drawn anomaly map against its definition, sum by sum in double precision."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from service.pipeline.boxes import smoothed

Map = npt.NDArray[np.float64]


def mirrored(index: int, length: int) -> int:
    """Return the index within the picture that a position beyond its border shows: d c b | a b c d | c b a."""
    period = max(2 * (length - 1), 1)
    index %= period
    return min(index, period - index)


def blurred_rows(picture: Map, sigma: float) -> Map:
    """Return the picture with each row blurred by a Gaussian that ends at four deviations."""
    reach = int(4 * sigma + 0.5)
    weights = [math.exp(-((step / sigma) ** 2) / 2) for step in range(-reach, reach + 1)]
    height, width = picture.shape
    result = np.zeros_like(picture)
    for row in range(height):
        for column in range(width):
            seen = [picture[row, mirrored(column + step, width)] for step in range(-reach, reach + 1)]
            result[row, column] = math.fsum(w * v for w, v in zip(weights, seen, strict=True)) / math.fsum(weights)
    return result


def drawn(grid: Map, cell_px: int, sigma_cells: float) -> Map:
    """Return each value repeated over its cell, then blurred along the rows and along the columns."""
    rows, columns = grid.shape
    enlarged = np.array(
        [
            [grid[row // cell_px, column // cell_px] for column in range(columns * cell_px)]
            for row in range(rows * cell_px)
        ]
    )
    if sigma_cells == 0:
        return enlarged
    return blurred_rows(blurred_rows(enlarged, sigma_cells * cell_px).T, sigma_cells * cell_px).T


@pytest.mark.parametrize(
    ("shape", "cell_px", "sigma_cells"),
    [((9, 12), 4, 0.5), ((5, 7), 8, 0.5), ((10, 6), 3, 1.0), ((4, 4), 4, 0.0), ((8, 9), 1, 2.0)],
)
def test_map_of_a_part_that_fills_the_grid_equals_its_definition(
    shape: tuple[int, int], cell_px: int, sigma_cells: float
) -> None:
    """Everything is inside: nothing but enlarging and blurring."""
    grid = np.random.default_rng(1).gamma(2.0, 0.2, shape).astype(np.float32)

    actual = smoothed(grid, np.ones(shape, bool), cell_px, sigma_cells)

    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, drawn(grid.astype(np.float64), cell_px, sigma_cells), atol=2e-6)


@pytest.mark.parametrize(("cell_px", "sigma_cells"), [(4, 0.5), (3, 1.0), (4, 0.0)])
def test_map_of_a_part_is_the_mean_of_what_lies_inside(cell_px: int, sigma_cells: float) -> None:
    """What lies outside has no weight, whatever is written there; the mean of the others is weighted as before."""
    rng = np.random.default_rng(2)
    grid, inside = rng.gamma(2.0, 0.2, (8, 10)).astype(np.float32), rng.random((8, 10)) < 0.6

    actual = smoothed(grid, inside, cell_px, sigma_cells)

    value = drawn(np.where(inside, grid, 0.0), cell_px, sigma_cells)
    weight = drawn(inside.astype(np.float64), cell_px, sigma_cells)
    within = drawn(inside.astype(np.float64), cell_px, 0) > 0
    np.testing.assert_allclose(actual[within], (value / np.where(weight > 0, weight, 1))[within], atol=5e-6)
    assert not actual[~within].any()


def test_map_of_nothing_inside_is_zero() -> None:
    """No patch, no map."""
    assert not smoothed(np.ones((3, 4), np.float32), np.zeros((3, 4), bool), 4, 0.5).any()
