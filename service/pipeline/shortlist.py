"""A short list of candidates for the nearest vector, from products in bfloat16.

Recent CPUs multiply bfloat16 at twice the rate of float32, older ones many times slower: whether it pays is measured
once. The rounding of a product is bounded, so the nearest vector is among the few whose rounded product comes near the
best one; these are compared in float32. The answer is that of a search in float32.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import numpy.typing as npt
import torch

from service.pipeline.types import FloatArray

Indices = npt.NDArray[np.int64]

ROWS, COLUMNS = 512, 512
"""Patches x bank vectors of one tile: less than 2 MiB with its copies."""

COMPARED = 128
"""Pairs compared at a time."""

ROUNDING = 7 / 1024
"""Bound on the error of a product a.b, of |a||b|: 2^-9 from rounding each factor, 2^-9 from rounding the product, and a
sixth for what float32 adds."""

CANDIDATES = 16
"""Most candidates a patch, on average over a tile; beyond that, plain float32 is faster."""


class Shortlist:
    """Bank vectors, (M, D), in bfloat16: half the memory of the bank on top."""

    def __init__(self, vectors: FloatArray, half_norms: FloatArray) -> None:
        self._vectors = vectors
        self._half_norms = half_norms
        self._rounded = torch.from_numpy(vectors).bfloat16()
        self._longest = np.sqrt(2 * half_norms.max())

    def search(self, patches: FloatArray) -> Indices | None:
        """Return the row (N,) of the vector nearest to each patch (N, D), N <= ROWS.

        None where too many vectors come near, as many copies of one would.
        """
        candidates = self._candidates(patches)
        if candidates is None:
            return None
        row, column = candidates
        bracket = np.empty(len(row), np.float32)
        for first in range(0, len(row), COMPARED):
            part = slice(first, first + COMPARED)
            bracket[part] = np.einsum("ij,ij->i", patches[row[part]], self._vectors[column[part]])
        bracket -= self._half_norms[column]
        index = np.zeros(len(patches), np.int64)
        rising = np.lexsort((-column, bracket))  # the last one written stays: the largest bracket, the lower row of two
        index[row[rising]] = column[rising]
        return index

    def _candidates(self, patches: FloatArray) -> tuple[Indices, Indices] | None:
        """Return pairs (patch, vector) among which each patch's nearest is, or None where there are many."""
        rounded = torch.from_numpy(patches).bfloat16()
        # both the best bracket and the nearest vector's may be off
        slack = 2 * np.float32(ROUNDING * self._longest) * np.linalg.norm(patches, axis=1)
        least = np.full(len(patches), -np.inf, np.float32)
        found: list[tuple[Indices, Indices, FloatArray]] = []
        # written again for each tile: between what is kept, freed tiles would leave holes in the heap
        product = torch.empty(len(patches), COLUMNS, dtype=torch.bfloat16)
        brackets = np.empty((len(patches), COLUMNS), np.float32)
        for first in range(0, len(self._vectors), COLUMNS):
            part = slice(first, first + COLUMNS)
            width = len(self._half_norms[part])
            bracket = brackets[:, :width]
            torch.mm(rounded, self._rounded[part].T, out=product[:, :width])
            torch.from_numpy(bracket).copy_(product[:, :width])
            bracket -= self._half_norms[part]
            np.maximum(least, bracket.max(axis=1) - slack, out=least)
            # in two dimensions it takes ten times as long
            row, column = np.divmod(np.flatnonzero(bracket >= least[:, None]), width)
            if len(row) > CANDIDATES * len(patches):
                return None
            found.append((row, column + first, bracket[row, column]))
        row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
        near = value >= least[row]
        return row[near], column[near]


@functools.cache
def pays() -> bool:
    """Tell whether this CPU multiplies bfloat16 faster than float32 by a margin that pays for the comparison."""
    factor = torch.ones((ROWS, 512))
    seconds = {dtype: _best_seconds(factor.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < 0.75 * seconds[torch.float32]


def _best_seconds(factor: torch.Tensor) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        factor @ factor.T
        best = min(best, time.perf_counter() - start)
    return best
