"""Where a patch lies, as part of its vector: for parts that always stand the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from service.pipeline.embed.embedder import Embedder
from service.pipeline.types import FloatArray, Mask, NormalizedRoi, PatchGrid

VERSION = "position-1"


class PositionAware:
    """An embedder whose vectors end with the patch's place on the part, times a weight.

    A patch that looks like sound ones from elsewhere only is then away from the bank: from one end of the part to the
    other by `weight`. Places are fractions of the part's bounds, so neither size nor place in the frame counts.
    """

    def __init__(self, embedder: Embedder, weight: float) -> None:
        self._embedder, self._weight = embedder, weight
        self.name, self.dim = embedder.name, embedder.dim + 2
        self.input_side, self.weights_bytes = embedder.input_side, embedder.weights_bytes
        self.digest = hashlib.sha256(f"{VERSION} {weight!r} {embedder.digest}".encode()).hexdigest()

    def state(self) -> dict[str, torch.Tensor]:
        """See `Embedder.state`."""
        return self._embedder.state()

    def embed(self, rois: Sequence[NormalizedRoi]) -> list[PatchGrid]:
        """Return one grid for each ROI, vectors (N, D + 2)."""
        return [
            PatchGrid(np.hstack([grid.vectors, self._weight * places(grid.inside)]), grid.inside)
            for grid in self._embedder.embed(rois)
        ]


def places(inside: Mask) -> FloatArray:
    """Return the place of each true cell within the bounds of all, (N, 2) float32: down and across, 0..1."""
    cells = np.argwhere(inside).astype(np.float32)
    first = cells.min(axis=0)
    return np.asarray((cells - first) / np.maximum(cells.max(axis=0) - first, 1), np.float32)
