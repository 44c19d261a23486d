"""The lazy farthest-point coreset against the plain greedy, in numpy and double precision."""

from __future__ import annotations

import numpy as np
import pytest

from service.pipeline.coreset import farthest_point_coreset
from service.pipeline.types import FloatArray


def plain_greedy(patches: FloatArray, count: int, seed: int, centres: FloatArray | None = None) -> list[int]:
    """Return the picks of the textbook loop: every distance is updated after every pick."""
    points = patches.astype(np.float64)
    if centres is None:
        picks = [int(np.random.default_rng(seed).integers(len(points)))]
        distance = np.linalg.norm(points - points[picks[0]], axis=1)
    else:
        picks = []
        distance = np.linalg.norm(points[:, None] - centres[None], axis=2).min(axis=1)
    while len(picks) < count:
        picks.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[picks[-1]], axis=1))
    return picks


def clustered(rng: np.random.Generator, count: int, dim: int, clusters: int) -> FloatArray:
    """Return unit vectors in clusters of very different size, as patches of one kind of part are."""
    centres = rng.standard_normal((clusters, dim))
    spread = rng.uniform(0.02, 0.6, clusters)
    which = (clusters * rng.random(count) ** 2).astype(int)
    vectors = centres[which] + spread[which, None] * rng.standard_normal((count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)  # type: ignore[no-any-return]  # numpy types `**` as Any


@pytest.mark.parametrize(
    ("count", "dim", "clusters", "wanted"),
    [(50, 2, 1, 50), (400, 3, 5, 200), (3000, 64, 30, 300), (20_000, 16, 8, 400)],
)
def test_coreset_equals_plain_greedy(count: int, dim: int, clusters: int, wanted: int) -> None:
    """The same patches in the same order, on every seed tried."""
    for seed in range(3):
        patches = clustered(np.random.default_rng(seed), count, dim, clusters)

        picks = farthest_point_coreset(patches, wanted, seed)

        assert picks.dtype == np.int64
        assert picks.tolist() == plain_greedy(patches, wanted, seed)


@pytest.mark.parametrize(("count", "dim", "old", "wanted"), [(30, 2, 1, 30), (900, 3, 40, 90), (3000, 32, 500, 120)])
def test_coreset_goes_on_from_centres(count: int, dim: int, old: int, wanted: int) -> None:
    """What lies farthest from the vectors of an earlier coreset comes first, as if they had been picked before."""
    rng = np.random.default_rng(old)
    patches, centres = clustered(rng, count, dim, 6), clustered(rng, old, dim, 3)
    told: list[tuple[int, int]] = []

    picks = farthest_point_coreset(patches, wanted, 0, lambda done, total: told.append((done, total)), centres=centres)

    assert picks.tolist() == plain_greedy(patches, wanted, 0, centres)
    assert told[-1] == (wanted, wanted)


def test_coreset_of_uniform_noise_equals_plain_greedy() -> None:
    """Noise in many dimensions, where nearly all patches are equally far, is the worst case for bounds."""
    vectors = np.random.default_rng(5).standard_normal((4000, 128))
    patches = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    assert farthest_point_coreset(patches, 250, 1).tolist() == plain_greedy(patches, 250, 1)


def test_coreset_of_duplicates_covers_every_distinct_patch_first() -> None:
    """With each patch thrice, the first third of the picks holds every distinct patch and the rest repeats."""
    distinct = clustered(np.random.default_rng(6), 40, 8, 4)

    picks = farthest_point_coreset(np.tile(distinct, (3, 1)), 120, 0)

    assert sorted(picks[:40] % 40) == list(range(40))
    assert sorted(picks) == list(range(120))
