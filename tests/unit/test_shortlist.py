"""The short list of candidates for the nearest vector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline import shortlist
from service.pipeline.memory_bank import MemoryBank
from tests.support.vectors import unit_vectors


def test_copies_of_one_vector_need_no_long_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hundreds of vectors come near, plain float32 answers: memory stays that of a tile."""
    rng = np.random.default_rng(6)
    bank = unit_vectors(rng, 1, 64) + np.float32(1e-3) * unit_vectors(rng, 1000, 64)
    points = bank[:100] + np.float32(0.1) * unit_vectors(rng, 100, 64)
    half_norms = ((bank**2).sum(axis=1) / 2).astype(np.float32)

    assert shortlist.Shortlist(bank, half_norms).search(points) is None

    monkeypatch.setattr(shortlist, "pays", lambda: True)
    exact = np.linalg.norm(points.astype(np.float64)[:, None] - bank, axis=2).min(axis=1)
    np.testing.assert_allclose(MemoryBank(bank).distances(points), exact, atol=2e-5, rtol=0)


@given(
    dim=st.integers(1, 40),
    counts=st.tuples(st.integers(1, 60), st.integers(1, 900)),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    spread=st.sampled_from([1e-4, 1e-2, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_short_list_holds_the_nearest_vector(
    dim: int, counts: tuple[int, int], scale: float, spread: float, seed: int
) -> None:
    """However vectors crowd and whatever their length, no nearer one than the one found exists."""
    rng = np.random.default_rng(seed)
    bank = scale * (unit_vectors(rng, 1, dim) + np.float32(spread) * unit_vectors(rng, counts[1], dim)).astype(
        np.float32
    )
    points = scale * (
        unit_vectors(rng, counts[0], dim) + np.float32(spread) * unit_vectors(rng, counts[0], dim)
    ).astype(np.float32)
    half_norms = ((bank**2).sum(axis=1, dtype=np.float64) / 2).astype(np.float32)
    found = shortlist.Shortlist(bank, half_norms).search(points)
    if found is not None:
        distance = np.linalg.norm(points.astype(np.float64) - bank[found], axis=1)
        nearest = np.linalg.norm(points.astype(np.float64)[:, None] - bank, axis=2).min(axis=1)
        longest = max(float(np.linalg.norm(vectors, axis=1).max()) for vectors in (points, bank))
        # what float32 cannot tell apart
        assert (distance**2 <= nearest**2 + 2e-6 * longest**2).all()
