"""Exact nearest neighbours without a distance matrix.

|a - b|^2 = |a|^2 - 2 (a.b - |b|^2 / 2): the nearest b has the largest bracket, so one gemm and one maximum a tile find
it. The bracket cancels for near neighbours; the winner's distance is therefore taken from the difference itself.
"""

from __future__ import annotations

import torch

CPU_TILE = (512, 1024)
"""Patches x bank vectors of one tile: 2 MiB, which stays in the second-level cache."""
GPU_TILE = (2048, 16384)
"""128 MiB: large enough that a launch costs nothing beside its gemm."""
DOUBLE_TILE = (256, 256)

NEAR = 0.02
"""Distance, in units of the longest bank vector, below which float32 may take the second nearest for the nearest.

A bracket is good to about 2e-7 of the squared length, so the winner is at most 4e-7 / distance too far: 2e-5 at this
limit. Rows below it are searched again in double precision.
"""


def half_squared_norms(vectors: torch.Tensor) -> torch.Tensor:
    """Return |b|^2 / 2 for each row: vectors (M, D), result (M,)."""
    return vectors.square().sum(dim=1).mul_(0.5)


def nearest(
    patches: torch.Tensor, bank: torch.Tensor, half_norms: torch.Tensor, longest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest bank vector of each patch.

    patches: (N, D) float32; bank: (M, D) float32, M > 0; half_norms: (M,) from `half_squared_norms`; longest: length of
    the longest bank vector. Returns the Euclidean distances (N,), within 1e-4 of `longest` of the exact ones, and the
    rows of the bank (N,) int64. Takes one tile of extra memory.
    """
    tile = CPU_TILE if patches.device.type == "cpu" else GPU_TILE
    index = _search(patches, bank, half_norms, tile)
    distance = _distance_to(patches, bank, index)
    near = torch.nonzero(distance < NEAR * longest)[:, 0]
    if len(near):
        again = patches[near].double()
        index[near] = _search(again, bank, half_norms.double(), DOUBLE_TILE)
        distance[near] = _distance_to(patches[near], bank, index[near])
    return distance, index


def _search(patches: torch.Tensor, bank: torch.Tensor, half_norms: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Return the bank row (N,) int64 with the largest a.b - |b|^2 / 2, computed in the dtype of `patches`."""
    rows, columns = tile
    index = torch.zeros(len(patches), dtype=torch.int64, device=patches.device)
    best = torch.full((len(patches),), -torch.inf, dtype=patches.dtype, device=patches.device)
    scratch = torch.empty(min(rows, len(patches)) * min(columns, len(bank)), dtype=patches.dtype, device=patches.device)
    # the bank is the outer loop: its tile is read, or widened, once
    for first in range(0, len(bank), columns):
        chunk = bank[first : first + columns].to(patches.dtype)
        halves = half_norms[first : first + columns]
        for row in range(0, len(patches), rows):
            block = patches[row : row + rows]
            bracket = scratch[: len(block) * len(chunk)].view(len(block), len(chunk))
            torch.addmm(halves, block, chunk.T, beta=-1, out=bracket)
            value, column = bracket.max(dim=1)
            better = value > best[row : row + rows]
            best[row : row + rows][better] = value[better]
            index[row : row + rows][better] = column[better] + first
    return index


def _distance_to(patches: torch.Tensor, bank: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return |patches - bank[index]| (N,) float32, from the differences."""
    distance = torch.empty(len(patches), dtype=patches.dtype, device=patches.device)
    for row in range(0, len(patches), DOUBLE_TILE[0]):
        part = slice(row, row + DOUBLE_TILE[0])
        difference = bank[index[part]].sub_(patches[part])
        torch.linalg.vector_norm(difference, dim=1, out=distance[part])
    return distance
