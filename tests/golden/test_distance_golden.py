"""Distances to the memory bank against plain numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.pipeline import nearest
from service.pipeline.memory_bank import MemoryBank
from service.pipeline.nearest import search, search_on_gpu
from service.pipeline.sketch import Principal, Rounded
from service.pipeline.types import FloatArray
from tests.support.vectors import unit_vectors


def nothing(_vectors: FloatArray, _half_norms: FloatArray) -> None:
    """Leave the search to float32."""


def some_components(vectors: FloatArray, half_norms: FloatArray) -> Principal:
    """Sketch with a quarter of the axes, which is as good a choice as any where vectors lie in all directions."""
    return Principal(vectors, half_norms, np.eye(vectors.shape[1], -(-vectors.shape[1] // 4), dtype=np.float32))


@pytest.fixture(params=[nothing, Rounded, some_components], ids=["float32", "bfloat16", "principal"], autouse=True)
def shortlisted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the short list, whatever this CPU does best."""
    monkeypatch.setattr(nearest, "sketch_of", request.param)


def reference(patches: FloatArray, bank: FloatArray) -> np.ndarray:
    """Return (N,) distances by the definition: subtract, square, add, root, smallest; in double precision."""
    wide = bank.astype(np.float64)
    return np.array([np.sqrt(((wide - patch) ** 2).sum(axis=1)).min() for patch in patches.astype(np.float64)])


@pytest.mark.parametrize(("patches", "vectors", "dim"), [(1, 1, 1), (37, 5, 3), (700, 2500, 64), (1369, 1000, 768)])
def test_distances_equal_double_precision(patches: int, vectors: int, dim: int) -> None:
    """Every tile shape, with and without remainders, agrees to 1e-4 with the definition."""
    rng = np.random.default_rng(patches)
    points, bank = unit_vectors(rng, patches, dim), unit_vectors(rng, vectors, dim)

    distances = MemoryBank(bank).distances(points)

    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, reference(points, bank), atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05])
def test_distances_survive_cancellation(offset: float) -> None:
    """A patch almost on a bank vector gets its small distance, not the rounding noise of a large one."""
    rng = np.random.default_rng(3)
    bank = unit_vectors(rng, 1500, 384)
    crowd = bank[:300] + np.float32(2e-3) * unit_vectors(
        rng, 300, 384
    )  # decoys that float32 products cannot tell apart
    bank = np.concatenate([crowd, bank])
    points = bank[300:600] + np.float32(offset) * unit_vectors(rng, 300, 384)

    distances = MemoryBank(bank).distances(points)

    np.testing.assert_allclose(distances, reference(points, bank), atol=2e-5, rtol=0)


def test_distances_scale_with_the_vectors() -> None:
    """Vectors that are not of unit length keep the same relative accuracy."""
    rng = np.random.default_rng(4)
    points, bank = 100 * unit_vectors(rng, 50, 32), 100 * unit_vectors(rng, 80, 32)

    np.testing.assert_allclose(MemoryBank(bank).distances(points), reference(points, bank), rtol=1e-5)


def test_patch_that_is_no_number_stays_none() -> None:
    """It must not come out as a distance that somebody could take for near."""
    rng = np.random.default_rng(7)
    points = unit_vectors(rng, 5, 8)
    points[3, 2] = np.nan

    assert np.isnan(MemoryBank(unit_vectors(rng, 700, 8)).distances(points)).tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("tile", [(1, 1), (16, 32), (64, 100), (2048, 16384)])
def test_gpu_search_finds_the_same_vectors(tile: tuple[int, int]) -> None:
    """The search for a GPU, run here on the CPU, finds the nearest vector of each patch for any tile."""
    rng = np.random.default_rng(5)
    points, bank = unit_vectors(rng, 50, 16), unit_vectors(rng, 130, 16)
    half_norms = ((bank**2).sum(axis=1) / 2).astype(np.float32)
    nearest = [int(np.linalg.norm(bank - point, axis=1).argmin()) for point in points.astype(np.float64)]
    found = search_on_gpu(torch.from_numpy(points), torch.from_numpy(bank), torch.from_numpy(half_norms), tile)

    assert found.tolist() == nearest
    assert search(points, bank, half_norms, tile).tolist() == nearest


@pytest.mark.parametrize("dim", [29, 384])
def test_distance_of_a_bank_vector_to_its_bank_is_zero(dim: int) -> None:
    """However near the others are: 2e-4 apart, brackets and half norms alike are told apart in double precision."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(1, dim))
    centre /= np.linalg.norm(centre)
    bank = (centre + 2e-4 / np.sqrt(dim) * rng.normal(size=(3000, dim))).astype(np.float32)
    assert MemoryBank(bank).distances(bank[::10]).max() == 0
