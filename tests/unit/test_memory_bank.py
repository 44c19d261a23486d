"""The memory bank: what it refuses, how it is built, and that building can be watched and cancelled."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.recipe import MemoryRecipe
from service.errors import EmptyMemoryBank
from service.pipeline.density import density_filter, mean_neighbour_distance
from service.pipeline.memory_bank import MemoryBank, build_memory_bank, farthest_point_coreset
from service.pipeline.types import FloatArray


def patches_of(count: int, dim: int = 4, seed: int = 0) -> FloatArray:
    """Return patch vectors (count, dim)."""
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


class Cancelled(Exception):
    """Raised by a progress callback."""


def test_distances_of_no_patches_is_empty() -> None:
    """No patches, no distances."""
    assert MemoryBank(patches_of(3)).distances(np.zeros((0, 4), np.float32)).shape == (0,)


def test_distances_of_an_empty_bank_are_refused() -> None:
    """An empty bank knows nothing, and says so instead of returning infinity."""
    with pytest.raises(EmptyMemoryBank):
        MemoryBank(np.zeros((0, 4), np.float32)).distances(patches_of(1))


def test_distance_of_a_member_is_zero() -> None:
    """Every vector of the bank is at no distance from it."""
    bank = MemoryBank(patches_of(50))

    assert bank.distances(bank.vectors).tolist() == [0.0] * 50


@pytest.mark.parametrize(
    "vectors",
    [np.zeros(4, np.float32), np.zeros((2, 4)), np.array([[np.nan]], np.float32), np.array([[np.inf]], np.float32)],
)
def test_bank_refuses_what_is_no_table_of_finite_float32(vectors: FloatArray) -> None:
    """A wrong shape, a wrong type, NaN and infinity never become a bank."""
    with pytest.raises(ValueError, match="memory bank"):
        MemoryBank(vectors)


def test_bank_refuses_patches_of_another_length() -> None:
    """Patches of another embedder are refused with both lengths."""
    with pytest.raises(ValueError, match=r"\(N, 4\), not \(2, 5\)"):
        MemoryBank(patches_of(3)).distances(patches_of(2, dim=5))


def test_density_filter_drops_a_lonely_patch() -> None:
    """One patch far from a crowd is the first to go."""
    patches = np.concatenate([patches_of(40), np.full((1, 4), 50, np.float32)])

    assert np.flatnonzero(~density_filter(patches, 8, 0.97)).tolist() == [40]


@pytest.mark.parametrize("count", [0, 1])
def test_density_of_hardly_any_patches(count: int) -> None:
    """Nothing, and a patch without others, are dense enough."""
    assert mean_neighbour_distance(patches_of(count), 8).tolist() == [0.0] * count
    assert density_filter(patches_of(count), 8, 0.85).tolist() == [True] * count


def test_coreset_is_the_same_under_one_seed() -> None:
    """A seed fixes the selection; another seed starts elsewhere."""
    patches = patches_of(500)

    first, again, other = (farthest_point_coreset(patches, 50, seed).tolist() for seed in (7, 7, 8))

    assert first == again
    assert first[0] != other[0]


@pytest.mark.parametrize(("available", "wanted", "expected"), [(0, 5, 0), (3, 0, 0), (3, 5, 3), (1, 1, 1)])
def test_coreset_never_picks_more_than_there_is(available: int, wanted: int, expected: int) -> None:
    """Each patch is picked at most once, and no patch is picked from none."""
    picks = farthest_point_coreset(patches_of(available), wanted, 0).tolist()

    assert len(picks) == len(set(picks)) == expected


def test_bank_is_the_coreset_of_all_patches() -> None:
    """Rare patches come first of all."""
    patches = np.concatenate([patches_of(200), np.full((1, 4), 50, np.float32)])
    recipe = MemoryRecipe(coreset_frac=0.05, coreset_min=1)

    bank = build_memory_bank(patches, recipe)

    assert bank.vectors.tolist() == patches[farthest_point_coreset(patches, 11, recipe.seed)].tolist()
    assert float(bank.vectors.max()) == 50


@pytest.mark.parametrize(
    ("frac", "smallest", "largest", "expected"),
    [(0.0, 1, 10, 1), (0.2, 1, 10, 8), (0.5, 1, 10, 10), (1.0, 1, 1000, 40), (0.1, 7, 10, 7), (0.1, 99, 1000, 40)],
)
def test_bank_size_follows_the_recipe(frac: float, smallest: int, largest: int, expected: int) -> None:
    """The share of the patches, between the two limits, and never more than there are."""
    recipe = MemoryRecipe(coreset_frac=frac, coreset_min=smallest, coreset_max=largest)

    assert len(build_memory_bank(patches_of(40), recipe)) == expected


def test_bank_of_no_patches_is_refused() -> None:
    """There is no bank without patches."""
    with pytest.raises(EmptyMemoryBank):
        build_memory_bank(patches_of(0), MemoryRecipe())


def test_building_reports_progress_to_its_end() -> None:
    """Density and coreset rise to their total."""
    density: list[tuple[int, int]] = []
    coreset: list[tuple[int, int]] = []

    density_filter(patches_of(1500), 8, 0.85, lambda *step: density.append(step))
    build_memory_bank(
        patches_of(1500), MemoryRecipe(coreset_frac=0.1, coreset_min=1), progress=lambda *step: coreset.append(step)
    )

    assert density == [(512, 1500), (1024, 1500), (1500, 1500)]
    assert coreset == sorted(coreset)
    assert coreset[-1] == (150, 150)


def test_building_is_cancelled_from_the_callback() -> None:
    """What the callback raises comes out unchanged."""

    def cancel(done: int, total: int) -> None:
        raise Cancelled(f"{done} of {total}")

    with pytest.raises(Cancelled):
        build_memory_bank(patches_of(300), MemoryRecipe(coreset_frac=0.5), progress=cancel)
    with pytest.raises(Cancelled):
        density_filter(patches_of(300), 8, 0.85, cancel)
