"""ROI finders that do not look at the frame: a polygon for a part held in a fixture, and the whole frame."""

from __future__ import annotations

import cv2
import numpy as np

from schemas.recipe import RoiRecipe
from service.errors import UsageError
from service.pipeline.roi.finder import roi_of
from service.pipeline.types import BgrImage, Roi


class FixedFinder:
    """The same polygon in every frame.

    Raises:
        UsageError: the polygon has fewer than three corners, or encloses nothing.
    """

    def __init__(self, recipe: RoiRecipe) -> None:
        if len(recipe.polygon) < 3:
            raise UsageError(f"roi method fixed needs a polygon of at least three corners, not {len(recipe.polygon)}")
        self._corners = np.array(recipe.polygon, np.float64)
        if cv2.contourArea(self._corners.astype(np.float32)) <= 0:
            raise UsageError("roi method fixed: the corners of the polygon lie on one line, and enclose nothing")

    def find(self, bgr: BgrImage) -> Roi:
        """See `RoiFinder.find`."""
        height, width = bgr.shape[:2]
        # Corners are fractions of the frame; 1.0 is its far edge, the last pixel's index is one less.
        corners = np.round(self._corners * (width, height)) - 0.5
        mask = np.zeros((height, width), np.uint8)
        shift = 4
        cv2.fillPoly(mask, [np.round(corners * (1 << shift)).astype(np.int32)], 1, shift=shift)
        return roi_of(mask.astype(np.bool_), "fixed")


class WholeFrameFinder:
    """The whole frame is the part, as for textures and tiles."""

    def find(self, bgr: BgrImage) -> Roi:
        """See `RoiFinder.find`."""
        return roi_of(np.ones(bgr.shape[:2], np.bool_), "none")
