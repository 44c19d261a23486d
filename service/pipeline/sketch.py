"""Sketches of vectors: what is quicker to multiply than the vectors themselves, and never far too small.

For patches a and bank vectors b, the nearest b has the largest bracket a.b - |b|^2 / 2. A sketch gives brackets that
are too small by at most a known error, so whatever lies well below the best true bracket needs no second look.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import torch

from service.pipeline.types import FloatArray

ROUNDING: Final = 10 / 1024
"""Bound on the error of a product in bfloat16, of |a||b|: 2^-9 from rounding each factor, 2^-9 from rounding the
product, and two more for CPUs that round on the way."""
FLOAT32_ERROR: Final = 4e-5
"""The same for a product in float32, of up to some thousand numbers."""

COMPONENTS: Final = (16, 32, 64, 128, 256)
SAMPLE, TRIED = 4096, 64
"""Most vectors that components are taken of, and of these those whose neighbours are counted."""
NEIGHBOURS: Final = 4
"""Most vectors that may look nearer to another one than its nearest is, on average, for so few components to do."""
CHUNK = 16_384
"""Vectors that are looked at together."""


Brackets = Callable[[int, FloatArray], None]
"""Writes the brackets of some patches with the vectors from the given one on to an array (N, count)."""


class Sketch(Protocol):
    """Sketched bank vectors. error: how much too small a bracket may be, of |a||b|."""

    error: float

    def brackets(self, patches: FloatArray) -> Brackets:
        """Return what gives the brackets of patches (N, D)."""
        ...


class Principal:
    """The leading principal components of each vector, and the length of what is left of it.

    a.b is at most the product of the components plus that of the lengths (Cauchy and Schwarz): one product of vectors
    with a number more. Patches of one station say much the same, so a few components tell them apart.
    """

    error = FLOAT32_ERROR

    def __init__(self, vectors: FloatArray, half_norms: FloatArray, components: FloatArray) -> None:
        self._components = components
        self._sketched = torch.from_numpy(_sketched(vectors, components, -half_norms))

    @classmethod
    def that_tells_apart(cls, vectors: FloatArray, half_norms: FloatArray) -> Principal | None:
        """Return the sketch of as few of COMPONENTS as tell the vectors apart; None where none up to D / 2 does."""
        sample = vectors[:: -(-len(vectors) // SAMPLE)]
        _, ascending = np.linalg.eigh(sample.T @ sample)
        components = np.ascontiguousarray(ascending[:, ::-1])
        tried = sample[np.linspace(0, len(sample) - 1, min(TRIED, len(sample)), dtype=np.int64)]
        next_best = _next_best(tried, vectors)
        for kept in (components[:, :kept] for kept in COMPONENTS if kept <= vectors.shape[1] // 2):
            if _rivals(tried, vectors, kept, next_best) <= NEIGHBOURS:
                return cls(vectors, half_norms, np.ascontiguousarray(kept))
        return None

    def brackets(self, patches: FloatArray) -> Brackets:
        """See `Sketch.brackets`."""
        sketched = torch.from_numpy(_sketched(patches, self._components, np.ones(len(patches), np.float32)))

        def write(first: int, out: FloatArray) -> None:
            # of so few numbers a vector, torch's product takes half the time of numpy's
            torch.mm(sketched, self._sketched[first : first + out.shape[1]].T, out=torch.from_numpy(out))

        return write


def _next_best(tried: FloatArray, vectors: FloatArray) -> FloatArray:
    """Return the bracket (T, 1) of each of `tried` (T, D) with the nearest other one: vectors (M, D) hold them, too."""
    two = np.full((len(tried), 2), -np.inf, np.float32)
    for first in range(0, len(vectors), CHUNK):
        chunk = vectors[first : first + CHUNK]
        brackets = tried @ chunk.T - np.einsum("ij,ij->i", chunk, chunk) / 2
        two = np.partition(np.concatenate([two, brackets], axis=1), -2, axis=1)[:, -2:]
    return np.asarray(two.min(axis=1, keepdims=True), np.float32)


def _rivals(tried: FloatArray, vectors: FloatArray, components: FloatArray, next_best: FloatArray) -> float:
    """Return how many vectors, on average, look nearer to one of `tried` than the nearest other one truly is."""
    of_tried = _sketched(tried, components, np.ones(len(tried), np.float32))
    count = 0
    for first in range(0, len(vectors), CHUNK):
        chunk = vectors[first : first + CHUNK]
        looks = of_tried @ _sketched(chunk, components, -np.einsum("ij,ij->i", chunk, chunk) / 2).T
        count += int(np.count_nonzero(looks > next_best))
    return count / len(tried) - 1  # not counting itself


def _sketched(vectors: FloatArray, components: FloatArray, last: FloatArray) -> FloatArray:
    """Return (N, K + 2): the components (D, K) of vectors (N, D), at least the length of what is left, and `last`."""
    kept = components.shape[1]
    sketched = np.empty((len(vectors), kept + 2), np.float32)
    for first in range(0, len(vectors), CHUNK):
        part = slice(first, first + CHUNK)
        chunk, out = vectors[part], sketched[part]
        out[:, :kept] = chunk @ components
        squared = np.einsum("ij,ij->i", chunk, chunk)
        left = squared - np.einsum("ij,ij->i", out[:, :kept], out[:, :kept])
        out[:, kept] = np.sqrt(np.maximum(left, 0) + FLOAT32_ERROR * squared)
    sketched[:, -1] = last
    return sketched


class Rounded:
    """The vectors in bfloat16, which recent CPUs multiply at twice the rate of float32: half the memory on top."""

    error = ROUNDING

    def __init__(self, vectors: FloatArray, half_norms: FloatArray) -> None:
        self._rounded = torch.from_numpy(vectors).bfloat16()
        self._half_norms = half_norms

    def brackets(self, patches: FloatArray) -> Brackets:
        """See `Sketch.brackets`."""
        rounded = torch.from_numpy(patches).bfloat16()
        # written again for each tile: between what is kept, freed tiles would leave holes in the heap
        scratch = torch.empty(0, dtype=torch.bfloat16)

        def write(first: int, out: FloatArray) -> None:
            part = slice(first, first + out.shape[1])
            product = scratch.resize_(out.shape)
            torch.mm(rounded, self._rounded[part].T, out=product)
            torch.from_numpy(out).copy_(product)
            out -= self._half_norms[part]

        return write


def sketch_of(vectors: FloatArray, half_norms: FloatArray) -> Sketch | None:
    """Return what sketches vectors (M, D) best on this CPU; None where nothing is quicker than float32."""
    principal = Principal.that_tells_apart(vectors, half_norms)
    if principal or not bfloat16_pays():
        return principal
    return Rounded(vectors, half_norms)


@functools.cache
def bfloat16_pays() -> bool:
    """Tell whether this CPU multiplies bfloat16 faster than float32 by a margin that pays for the comparison."""
    factor = torch.ones((512, 512))
    seconds = {dtype: _best_seconds(factor.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < 0.75 * seconds[torch.float32]


def _best_seconds(factor: torch.Tensor) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        factor @ factor.T
        best = min(best, time.perf_counter() - start)
    return best
