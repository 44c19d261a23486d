"""Patch scores against their formula, written out cell by cell in double precision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from service.pipeline.patch_scores import FEWEST, QUANTILE, RINGS, patch_scores, rim_of, rings

Grid = npt.NDArray[np.float64]


def plain_ring(inside: npt.NDArray[np.bool_], row: int, col: int) -> int:
    """Return how many steps of a king lead from a cell to the nearest one off the part or off the grid, less one."""
    rows, cols = inside.shape
    steps = [
        max(abs(row - other_row), abs(col - other_col))
        for other_row in range(-1, rows + 1)
        for other_col in range(-1, cols + 1)
        if not (0 <= other_row < rows and 0 <= other_col < cols and inside[other_row, other_col])
    ]
    return min(min(steps) - 1, RINGS - 1)


def plain_scores(grid: Grid, inside: npt.NDArray[np.bool_], rim: list[float], side: int) -> list[float]:
    """Return the mean of distance over level in each cell's neighbourhood on the part, row by row."""
    scores = []
    for row, col in np.argwhere(inside).tolist():
        total, count = 0.0, 0
        for other_row in range(max(0, row - side // 2), min(inside.shape[0], row + side // 2 + 1)):
            for other_col in range(max(0, col - side // 2), min(inside.shape[1], col + side // 2 + 1)):
                if inside[other_row, other_col]:
                    total += grid[other_row, other_col] / rim[plain_ring(inside, other_row, other_col)]
                    count += 1
        scores.append(total / count)
    return scores


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_patch_scores_equal_their_definition(seed: int, side: int) -> None:
    """Any silhouette, holes and islands included."""
    rng = np.random.default_rng([seed, side])
    inside = rng.random((14, 17)) < (1.0, 0.95, 0.8, 0.3)[seed]
    grid = rng.gamma(2.0, 0.2, inside.shape)
    rim = rng.uniform(0.7, 1.4, RINGS).tolist()
    distances = grid[inside].astype(np.float32)
    expected_rings = [plain_ring(inside, row, col) for row, col in np.argwhere(inside).tolist()]

    assert rings(inside).tolist() == expected_rings
    assert patch_scores(distances, inside, tuple(rim), side) == pytest.approx(
        plain_scores(grid, inside, rim, side), rel=1e-5
    )


def test_rim_equals_its_definition() -> None:
    """The level of a ring is its quantile over everybody's; one with few patches lies between its neighbours."""
    rng = np.random.default_rng(0)
    insides = [np.ones((12, 12), bool), np.ones((9, 20), bool), np.ones((12, 30), bool)]
    distances = [rng.gamma(2.0, 0.2, inside.size).astype(np.float32) for inside in insides]
    ring = [plain_ring(inside, row, col) for inside in insides for row, col in np.argwhere(inside).tolist()]
    values = [float(value) for each in distances for value in each]

    def quantile(some: list[float]) -> float:
        ordered = sorted(some)
        position = (len(ordered) - 1) * QUANTILE
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (position - below)

    members = [[value for value, each in zip(values, ring, strict=True) if each == depth] for depth in range(RINGS)]
    known = [depth for depth in range(RINGS) if len(members[depth]) >= FEWEST]
    assert known == [0, 1, 2, 3], "the test needs a ring with few patches"
    levels = [quantile(members[depth]) / quantile(values) for depth in known]
    levels += levels[-1:] * (RINGS - len(known))

    assert rim_of(distances, insides, 0.5) == pytest.approx([level**0.5 for level in levels], rel=1e-6)
