"""Where the canister is in the frame."""

from __future__ import annotations

import torch

from schemas.recipe import RoiMethod, RoiRecipe
from service.pipeline.roi.finder import PromptedFinder, RoiFinder
from service.pipeline.roi.fixed import FixedFinder, WholeFrameFinder
from service.pipeline.roi.grabcut import GrabCut

__all__ = ["RoiFinder", "build_roi_finder"]


def build_roi_finder(recipe: RoiRecipe, device: torch.device | None = None) -> RoiFinder:
    """Return the finder that a recipe asks for.

    Args:
        recipe: what to build.
        device: where SAM runs; the other methods run on the CPU.

    Raises:
        UsageError: a polygon or a checkpoint is missing.
        PackageRefused: the SAM checkpoint is not the one named.
    """
    match recipe.method:
        case RoiMethod.GRABCUT:
            return PromptedFinder(recipe, GrabCut(recipe))
        case RoiMethod.SAM:
            # segment_anything brings torchvision along, which takes longer to import than all the rest
            from service.pipeline.roi.sam import SamSegmenter, load_sam  # noqa: PLC0415

            return PromptedFinder(recipe, SamSegmenter(load_sam(recipe, device or torch.device("cpu"))))
        case RoiMethod.FIXED:
            return FixedFinder(recipe)
        case RoiMethod.NONE:
            return WholeFrameFinder()
