"""Patch embeddings."""

from __future__ import annotations

from pathlib import Path

import torch

from schemas.recipe import EmbedRecipe
from service.pipeline.embed.embedder import Embedder
from service.pipeline.embed.position import PositionAware

__all__ = ["Embedder", "build_embedder"]


def build_embedder(recipe: EmbedRecipe, device: torch.device, packed: Path | None = None) -> Embedder:
    """Return the embedder that `recipe` names, ready on `device`.

    packed: a safetensors file with the `state` of that embedder, which then comes before `recipe.weights` and the hub.
    Raises UsageError where the backbone or its weights cannot be had.
    """
    embedder = _backbone(recipe, device, packed)
    return PositionAware(embedder, recipe.position_weight) if recipe.position_weight else embedder


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
