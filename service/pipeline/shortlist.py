"""A short list of candidates for the nearest vector, from sketches of the vectors.

A sketch's brackets are too small by at most a known error, and the true bracket of the vector that looks best is taken:
the nearest vector is among the few that may come up to it. Their distances are taken from the differences in float32,
where nothing cancels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.pipeline.sketch import Sketch
from service.pipeline.types import FloatArray

Indices = npt.NDArray[np.int64]

ROWS, COLUMNS = 256, 2048
"""Patches x bank vectors of one tile: 2 MiB, less than 4 with its copies."""

BLOCK = 256
"""Vectors of a tile of which only the best is looked at, and the others where that comes near."""

COMPARED = 256
"""Pairs compared at a time."""

CANDIDATES = 16
"""Most candidates of a patch in a tile; one that has more is searched in plain float32, which is then faster."""

HALF_NORM_ERROR = 1e-6
"""Of what a bracket takes off, of the longest vector's squared length: it counts where a patch has hardly a length."""


class Shortlist:
    """Bank vectors (M, D) and their sketch."""

    def __init__(self, vectors: FloatArray, half_norms: FloatArray, sketch: Sketch) -> None:
        self._vectors, self._half_norms, self._sketch = vectors, half_norms, sketch
        self._longest = float(np.sqrt(2 * half_norms.max()))

    def distances(self, patches: FloatArray) -> FloatArray:
        """Return the distance (N,) of each patch (N, D) to its nearest vector, N <= ROWS.

        Infinite where the list says nothing: too many vectors come near, as many copies of one would, or the patch is
        no number.
        """
        row, column = self._candidates(patches)
        squared = np.full(len(patches), np.inf, np.float32)
        for first in range(0, len(row), COMPARED):
            part = slice(first, first + COMPARED)
            difference = patches[row[part]] - self._vectors[column[part]]
            np.minimum.at(squared, row[part], np.einsum("ij,ij->i", difference, difference))
        return np.sqrt(squared)

    def _candidates(self, patches: FloatArray) -> tuple[Indices, Indices]:
        """Return pairs (patch, vector) among which each patch's nearest is; none of a patch that has many."""
        brackets_with = self._sketch.brackets(patches)
        slack = (
            self._sketch.error * self._longest * np.linalg.norm(patches, axis=1) + HALF_NORM_ERROR * self._longest**2
        )
        least = np.full(len(patches), -np.inf, np.float32)  # the best true bracket seen, less the slack
        found: list[tuple[Indices, Indices, FloatArray]] = []
        every, scratch = np.arange(len(patches)), np.empty(len(patches) * COLUMNS, np.float32)
        for first in range(0, len(self._vectors), COLUMNS):
            width = len(self._half_norms[first : first + COLUMNS])
            padded = -(-width // BLOCK) * BLOCK
            bracket = scratch[: len(patches) * padded].reshape(len(patches), padded)
            brackets_with(first, bracket[:, :width])
            bracket[:, width:] = -np.inf
            blocks, top, best = _blocks(bracket)
            leading = best.argmax(axis=1)
            better = np.flatnonzero(best[every, leading] >= least)
            column = top[better, leading[better]] + first
            least[better] = np.maximum(least[better], self._brackets(patches, better, column) - slack[better])
            row, column = _near(blocks, best, least)
            found.append((row, column + first, bracket[row, column]))
        row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
        still_near = value >= least[row]
        return row[still_near], column[still_near]

    def _brackets(self, patches: FloatArray, row: Indices, column: Indices) -> FloatArray:
        """Return a.b - |b|^2 / 2 of each pair, in float32."""
        bracket = np.empty(len(row), np.float32)
        for first in range(0, len(row), COMPARED):
            part = slice(first, first + COMPARED)
            bracket[part] = np.einsum("ij,ij->i", patches[row[part]], self._vectors[column[part]])
        bracket -= self._half_norms[column]
        return bracket


def _blocks(bracket: FloatArray) -> tuple[FloatArray, Indices, FloatArray]:
    """Cut brackets (N, width) into blocks of BLOCK vectors.

    Returns the blocks (N * blocks, BLOCK), a view; the column of each one's best, (N, blocks); and that bracket.
    """
    rows, width = bracket.shape
    blocks = bracket.reshape(-1, BLOCK)
    top = blocks.argmax(axis=1)
    best = blocks[np.arange(len(blocks)), top].reshape(rows, -1)
    return blocks, top.reshape(best.shape) + np.arange(0, width, BLOCK), best


def _near(blocks: FloatArray, best: FloatArray, least: FloatArray) -> tuple[Indices, Indices]:
    """Return pairs (patch, column) of the brackets that come up to `least` (N,).

    A patch that has more than CANDIDATES is left out, and its `least` becomes infinite.
    """
    looked_at = np.flatnonzero(best >= least[:, None])
    patch, block = np.divmod(looked_at, best.shape[1])
    near = blocks[looked_at] >= least[patch, None]
    if np.count_nonzero(near) > CANDIDATES * len(least):
        crowded = np.bincount(patch, np.count_nonzero(near, axis=1), len(least)) > CANDIDATES
        near[crowded[patch]], least[crowded] = False, np.inf
    # in two dimensions it takes ten times as long
    at, column = np.divmod(np.flatnonzero(near), blocks.shape[1])
    return patch[at], block[at] * blocks.shape[1] + column
