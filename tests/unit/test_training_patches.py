"""The patch store."""

from __future__ import annotations

import numpy as np
import pytest

from service.model.patches import PatchStore


def filled(*counts: int, dim: int = 3) -> tuple[PatchStore, np.ndarray]:
    """Return a store with so many patches in each frame, and all of them."""
    vectors = np.random.default_rng(0).normal(size=(sum(counts), dim)).astype(np.float32)
    store = PatchStore(dim)
    for part in np.split(vectors, np.cumsum(counts)[:-1]):
        store.append(part)
    return store, vectors


def test_store_returns_the_patches_of_each_frame() -> None:
    """Frames of any number of patches, none included, come back as they were."""
    store, vectors = filled(4, 0, 2)
    with store:
        assert (len(store), store.frames) == (6, 3)
        np.testing.assert_array_equal(store.of_frame(0), vectors[:4])
        assert store.of_frame(1).shape == (0, 3)
        np.testing.assert_array_equal(store.of_frame(2), vectors[4:])


def test_sample_within_the_limit_is_everything() -> None:
    """A set that fits into memory is used whole, in order."""
    store, vectors = filled(4, 0, 2)
    with store:
        sample, frames = store.sample(6, seed=0)
    np.testing.assert_array_equal(sample, vectors)
    assert frames.tolist() == [0, 0, 0, 0, 2, 2]


def test_sample_is_bounded_uniform_and_repeatable() -> None:
    """Above the limit each patch is as likely as any other, and the same seed draws the same patches."""
    counts = np.zeros(60)
    store, vectors = filled(10, 20, 30)
    with store:
        np.testing.assert_array_equal(store.sample(15, seed=7)[0], store.sample(15, seed=7)[0])
        for seed in range(300):
            sample, frames = store.sample(15, seed)
            assert len(sample) == 15
            rows = np.flatnonzero((vectors[:, None] == sample[None]).all(2).any(1))
            np.testing.assert_array_equal(np.repeat([0, 1, 2], [10, 20, 30])[rows], frames)
            counts[rows] += 1
    assert counts.min() > 45
    assert counts.max() < 105  # 75 expected; four standard deviations are 30


def test_store_refuses_vectors_of_another_length() -> None:
    """Vectors of another embedder are a mistake, not data."""
    with PatchStore(3) as store, pytest.raises(ValueError, match=r"\(N, 3\)"):
        store.append(np.zeros((2, 4), np.float32))
