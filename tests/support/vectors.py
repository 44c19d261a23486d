"""Random vectors."""

from __future__ import annotations

import numpy as np

from service.pipeline.types import FloatArray


def unit_vectors(rng: np.random.Generator, count: int, dim: int) -> FloatArray:
    """Return unit vectors (count, dim) float32, rounded from double precision."""
    vectors = rng.standard_normal((count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)
