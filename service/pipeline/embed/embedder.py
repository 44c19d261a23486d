"""What an embedder is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from service.pipeline.types import NormalizedRoi, PatchGrid


class Embedder(Protocol):
    """Turns normalised ROIs into unit vectors, one for each patch inside the mask."""

    @property
    def name(self) -> str:
        """Name as in the recipe: "starter", "filters" or "timm:BACKBONE"."""

    @property
    def dim(self) -> int:
        """Length of a patch vector."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that shapes a vector apart from the recipe: version of the code, weights."""

    @property
    def input_side(self) -> int:
        """Side of the square that it sees, px."""

    @property
    def weights_bytes(self) -> int:
        """Size of its weights in memory."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return its weights, as `pack_weights` packs them; none where it has none."""

    def embed(self, rois: Sequence[NormalizedRoi]) -> list[PatchGrid]:
        """Return one grid for each ROI, in order. Not thread-safe: one thread computes."""
