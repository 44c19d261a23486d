"""k-NN density against plain numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipeline.density import density_filter, mean_neighbour_distance
from service.pipeline.types import FloatArray


def reference(patches: FloatArray, k: int) -> np.ndarray:
    """Return the mean distance to the k nearest others, from the full matrix in double precision."""
    points = patches.astype(np.float64)
    matrix = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(matrix, np.inf)
    matrix.sort(axis=1)
    nearest: np.ndarray = matrix[:, :k].mean(axis=1)
    return nearest


@pytest.mark.parametrize(("count", "dim", "k"), [(2, 3, 1), (9, 4, 8), (600, 16, 8), (1100, 5, 3)])
def test_mean_neighbour_distance_equals_double_precision(count: int, dim: int, k: int) -> None:
    """Several row blocks, remainders and as many neighbours as there are agree with the full matrix."""
    patches = np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)

    np.testing.assert_allclose(mean_neighbour_distance(patches, k), reference(patches, k), rtol=1e-4)


def test_mean_neighbour_distance_merges_column_tiles() -> None:
    """Neighbours that lie in different column tiles are merged: the sample is larger than one tile."""
    patches = np.random.default_rng(1).standard_normal((4500, 3)).astype(np.float32)
    points = patches[::300].astype(np.float64)
    matrix = np.linalg.norm(points[:, None] - patches.astype(np.float64)[None], axis=2)

    expected = np.sort(matrix, axis=1)[:, 1:9].mean(axis=1)

    np.testing.assert_allclose(mean_neighbour_distance(patches, 8)[::300], expected, rtol=1e-3)


def test_density_filter_keeps_the_densest_share() -> None:
    """The same patches as by the full matrix stay."""
    patches = np.random.default_rng(2).standard_normal((400, 6)).astype(np.float32)

    kept = density_filter(patches, 8, 0.85)

    assert np.flatnonzero(kept).tolist() == sorted(np.argsort(reference(patches, 8))[:340])
