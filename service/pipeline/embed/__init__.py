"""Patch embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from schemas.recipe import EmbedRecipe
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


def build_embedder(recipe: EmbedRecipe, device: torch.device, packed: Path | None = None) -> Embedder:
    """Return the embedder that `recipe` names, ready on `device`.

    packed: a safetensors file with the `state` of that embedder, which then comes before `recipe.weights` and the hub.
    Raises UsageError where the backbone or its weights cannot be had.
    """
    embedder = _backbone(recipe, device, packed)
    if not recipe.position_weight:
        return embedder
    from service.pipeline.embed.position import PositionAware  # noqa: PLC0415 - it wraps what this module defines

    return PositionAware(embedder, recipe.position_weight)


def _backbone(recipe: EmbedRecipe, device: torch.device, packed: Path | None) -> Embedder:
    # no other pipeline waits for timm and torchvision to be imported
    if recipe.embedder == "starter":
        from service.pipeline.embed.starter import StarterEmbedder  # noqa: PLC0415

        return StarterEmbedder(recipe, device, packed)
    if recipe.embedder == "filters":
        from service.pipeline.embed.filters import FilterEmbedder  # noqa: PLC0415

        return FilterEmbedder(recipe)
    from service.pipeline.embed.timm_backbone import TimmEmbedder  # noqa: PLC0415

    return TimmEmbedder.from_recipe(recipe, device, packed)
