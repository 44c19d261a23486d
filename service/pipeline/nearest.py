"""Exact nearest neighbours without a distance matrix.

|a - b|^2 = |a|^2 - 2 (a.b - |b|^2 / 2): the nearest b has the largest bracket, so one gemm and one maximum a tile find
it. The bracket cancels for near neighbours; the winner's distance is therefore taken from the difference itself.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from service.pipeline import shortlist
from service.pipeline.sketch import sketch_of
from service.pipeline.types import FloatArray

Float = TypeVar("Float", np.float32, np.float64)
Indices = npt.NDArray[np.int64]

CPU_TILE = (1536, 512)
"""Patches x bank vectors of one tile, 3 MiB. Few vectors and many patches: OpenBLAS packs the vectors, so a flat tile
costs up to a tenth more than the whole product in one call, this one a fiftieth."""
GPU_TILE = (2048, 16384)
"""128 MiB: large enough that a launch costs nothing beside its gemm."""
DOUBLE_TILE = (256, 256)

NEAR = 0.02
"""Distance, in units of the longest bank vector, below which float32 may take the second nearest for the nearest.

A bracket is good to about 2e-7 of the squared length, so the winner is at most 4e-7 / distance too far: 2e-5 at this
limit. Rows below it are searched again in double precision.
"""


class NearestNeighbours:
    """Finds the nearest of a fixed set of vectors: vectors (M, D) float32, M > 0, also kept on `device`."""

    def __init__(self, vectors: FloatArray, device: torch.device) -> None:
        self._vectors = vectors
        # rounded to float32 they alone would decide between near vectors
        self._exact_half_norms: npt.NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64) / 2
        self._half_norms = self._exact_half_norms.astype(np.float32)
        self._longest = float(np.sqrt(2 * self._half_norms.max()))
        on_cpu = device.type == "cpu"
        self._on_gpu = None if on_cpu else tuple(torch.from_numpy(a).to(device) for a in (vectors, self._half_norms))
        sketch = sketch_of(vectors, self._half_norms) if on_cpu else None
        self._shortlist = shortlist.Shortlist(vectors, self._half_norms, sketch) if sketch else None

    def distances(self, patches: FloatArray) -> FloatArray:
        """Return the Euclidean distance of each patch to its nearest vector.

        patches: (N, D) float32. Returns (N,) float32, within 1e-4 of the longest vector of the exact distances. Takes
        one tile of extra memory.
        """
        if self._on_gpu is not None:
            vectors, half_norms = self._on_gpu
            return self._settled(
                search_on_gpu(torch.from_numpy(patches).to(vectors.device), vectors, half_norms), patches
            )
        if self._shortlist is None:
            return self._searched(patches)
        distance = np.empty(len(patches), np.float32)
        for row in range(0, len(patches), shortlist.ROWS):
            distance[row : row + shortlist.ROWS] = self._shortlist.distances(patches[row : row + shortlist.ROWS])
        rest = np.flatnonzero(np.isinf(distance))
        if len(rest):
            distance[rest] = self._searched(patches[rest])
        return distance

    def _searched(self, patches: FloatArray) -> FloatArray:
        return self._settled(search(patches, self._vectors, self._half_norms, CPU_TILE), patches)

    def _settled(self, index: Indices, patches: FloatArray) -> FloatArray:
        """Return distances to what a search in float32 took for the nearest, searched again where that is uncertain."""
        distance = self._distance_to(index, patches)
        near = np.flatnonzero(distance < NEAR * self._longest)
        if len(near):
            index = search(patches[near].astype(np.float64), self._vectors, self._exact_half_norms, DOUBLE_TILE)
            distance[near] = self._distance_to(index, patches[near])
        return distance

    def _distance_to(self, index: Indices, patches: FloatArray) -> FloatArray:
        """Return |patches - vectors[index]| (N,) float32, from the differences."""
        distance = np.empty(len(patches), np.float32)
        step = DOUBLE_TILE[0]
        for row in range(0, len(patches), step):
            difference = self._vectors[index[row : row + step]]
            difference -= patches[row : row + step]
            distance[row : row + step] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        return distance


def squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Return |v|^2 of each vector (N,): vectors (N, D), of whose squares only some rows are held at a time."""
    # written into one tensor: between small results that are kept, freed blocks would leave holes in the heap
    squared = vectors.new_empty(len(vectors))
    for first in range(0, len(vectors), 4096):
        rows = vectors[first : first + 4096]
        torch.sum(rows * rows, dim=1, out=squared[first : first + 4096])
    return squared


def search(
    patches: npt.NDArray[Float], vectors: FloatArray, half_norms: npt.NDArray[Float], tile: tuple[int, int]
) -> Indices:
    """Return the row (N,) of `vectors` with the largest a.b - |b|^2 / 2, computed in the type of `patches`.

    numpy's OpenBLAS and its vectorised argmax take 0.8 of the time of torch's CPU kernels (benchmarks/distance.py).
    """
    rows, columns = tile
    index = np.zeros(len(patches), np.int64)
    best = np.full(len(patches), -np.inf, patches.dtype)
    scratch = np.empty(min(rows, len(patches)) * min(columns, len(vectors)), patches.dtype)
    # the vectors are the outer loop: their tile is read, or widened, once
    for first in range(0, len(vectors), columns):
        chunk = vectors[first : first + columns].astype(patches.dtype, copy=False)
        halves = half_norms[first : first + columns]
        for row in range(0, len(patches), rows):
            block = patches[row : row + rows]
            bracket = scratch[: len(block) * len(chunk)].reshape(len(block), len(chunk))
            np.matmul(block, chunk.T, out=bracket)
            bracket -= halves
            column = bracket.argmax(axis=1)
            value = bracket[np.arange(len(block)), column]
            better = value > best[row : row + rows]
            best[row : row + rows][better] = value[better]
            index[row : row + rows][better] = column[better] + first
    return index


def search_on_gpu(
    patches: torch.Tensor, vectors: torch.Tensor, half_norms: torch.Tensor, tile: tuple[int, int] = GPU_TILE
) -> Indices:
    """Return what `search` returns, computed where the tensors are, in float32."""
    rows, columns = tile
    found = []
    for row in range(0, len(patches), rows):
        block = patches[row : row + rows]
        best = torch.full((len(block),), -torch.inf, device=block.device)
        index = torch.zeros(len(block), dtype=torch.int64, device=block.device)
        for first in range(0, len(vectors), columns):
            halves = half_norms[first : first + columns]
            value, column = torch.addmm(halves, block, vectors[first : first + columns].T, beta=-1).max(dim=1)
            index = torch.where(value > best, column + first, index)
            best = torch.maximum(best, value)
        found.append(index)
    indices: Indices = torch.cat(found).cpu().numpy()
    return indices
