"""The memory bank: what OK patches look like, and how far a patch is from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from schemas.recipe import MemoryRecipe
from service.errors import EmptyMemoryBank
from service.pipeline.coreset import farthest_point_coreset
from service.pipeline.density import density_filter
from service.pipeline.nearest import NearestNeighbours
from service.pipeline.types import FloatArray, Progress

__all__ = ["MemoryBank", "build_memory_bank", "density_filter", "farthest_point_coreset"]

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBank:
    """OK patch vectors: vectors (M, D) float32, finite. Distances are computed on `device`."""

    vectors: FloatArray
    device: torch.device = CPU
    _neighbours: NearestNeighbours | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise ValueError(f"a memory bank is (M, D) float32, not {self.vectors.shape} {self.vectors.dtype}")
        if not np.isfinite(self.vectors).all():
            raise ValueError("a memory bank holds finite numbers only")
        neighbours = NearestNeighbours(np.ascontiguousarray(self.vectors), self.device) if len(self.vectors) else None
        object.__setattr__(self, "_neighbours", neighbours)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    def distances(self, patches: FloatArray) -> FloatArray:
        """Return the Euclidean distance of each patch to its nearest bank vector.

        patches: (N, D) float32. Returns (N,) float32, exact to 1e-4 of the longest bank vector. Raises
        EmptyMemoryBank. Source: PatchCore, arXiv 2106.08265, eq. 6, without its re-weighting.
        """
        if self._neighbours is None:
            raise EmptyMemoryBank("the memory bank holds no vectors")
        if patches.ndim != 2 or patches.shape[1] != self.dim:
            raise ValueError(f"patches are (N, {self.dim}), not {patches.shape}")
        return self._neighbours.distances(patches)


def extend_memory_bank(
    bank: MemoryBank,
    patches: FloatArray,
    count: int,
    recipe: MemoryRecipe,
    *,
    progress: Progress | None = None,
) -> MemoryBank:
    """Return a bank that holds `bank` and those `count` of `patches` that lie farthest from it and from each other.

    patches: (N, D) float32. Where that would be more than `coreset_max`, the bank is chosen anew from both.
    """
    if len(bank) + count <= recipe.coreset_max:
        new = farthest_point_coreset(patches, count, recipe.seed, progress, bank.device, bank.vectors)
        return MemoryBank(np.concatenate([bank.vectors, patches[new]]), bank.device)
    both = np.concatenate([bank.vectors, patches])
    return MemoryBank(
        both[farthest_point_coreset(both, recipe.coreset_max, recipe.seed, progress, bank.device)], bank.device
    )


def build_memory_bank(
    patches: FloatArray,
    recipe: MemoryRecipe,
    *,
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> MemoryBank:
    """Reduce OK patches to a memory bank.

    patches: (N, D) float32. progress runs from 0 to its total once, for the coreset. Raises EmptyMemoryBank where there
    are no patches.
    """
    if not len(patches):
        raise EmptyMemoryBank("no patches to build a memory bank from")
    count = min(max(recipe.coreset_min, math.ceil(recipe.coreset_frac * len(patches))), recipe.coreset_max)
    return MemoryBank(patches[farthest_point_coreset(patches, count, recipe.seed, progress, device)], device)
