"""ROI finders that do not look for the part: a polygon for one held in a fixture, and the whole frame."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import RoiRecipe
from service.errors import RoiNotFound, UsageError
from service.pipeline.resize import resized
from service.pipeline.roi.finder import roi_of
from service.pipeline.types import BgrImage, Mask, Roi

SPREAD = 5.0
"""Standard deviation of a colour within the ROI, of 255: whatever varies by more is more than a sensor's noise."""
RANGE = 24
"""Levels between the darkest and the lightest point of a colour, noise averaged out; a speck or an edge has more."""
SAMPLED, LOOKED_AT = 128, 256
"""Longer side, px, of what is looked at for either."""


_Weights = npt.NDArray[np.uint8]


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
        self._last: Roi | None = None

    def find(self, bgr: BgrImage) -> Roi:
        """See `RoiFinder.find`."""
        height, width = bgr.shape[:2]
        found = self._last
        if found is None or found.mask.shape != (height, width):  # the frames of a camera have one size
            # corners are fractions of the frame: 1.0 is its far edge
            mask = inside_polygon(np.round(self._corners * (width, height)), (width, height))
            self._last = found = roi_of(mask, "fixed")
        refuse_blank(bgr, found)
        return found


def inside_polygon(corners: npt.NDArray[np.float64], size_wh: tuple[int, int]) -> Mask:
    """Return which pixels have their centre in a polygon, (H, W) bool: corners (N, 2) xy, the first pixel is 0 to 1.

    By the even-odd rule: a pixel is inside where an odd number of edges lie to the right of it. cv2.fillPoly counts
    what the border touches as inside, and so makes a rectangle a pixel wider and higher than it is.
    """
    width, height = size_wh
    mask, columns = np.zeros((height, width), np.bool_), np.arange(width) + 0.5
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = (min(max(int(edge), 0), height) for edge in sorted((y1, y2)))
        if top < bottom:
            crossing = x1 + (np.arange(top, bottom) + 0.5 - y1) * ((x2 - x1) / (y2 - y1))
            mask[top:bottom] ^= columns < crossing[:, None]
    return mask


class WholeFrameFinder:
    """The whole frame is the part, as for textures and tiles."""

    def find(self, bgr: BgrImage) -> Roi:
        """See `RoiFinder.find`."""
        found = roi_of(np.ones(bgr.shape[:2], np.bool_), "none")
        refuse_blank(bgr, found)
        return found


def refuse_blank(bgr: BgrImage, roi: Roi) -> None:
    """Raise RoiNotFound where the frame, (H, W, 3), shows nothing but noise in the ROI, which has a pixel at least.

    A texture varies from pixel to pixel, a hole in an even sheet from place to place: a blank frame does neither.
    """
    x1, y1, x2, y2 = roi.xyxy
    longest = max(x2 - x1, y2 - y1)
    inside = roi.mask[y1:y2, x1:x2]

    def every(step: int) -> tuple[BgrImage, _Weights]:
        return np.ascontiguousarray(bgr[y1:y2:step, x1:x2:step]), inside[::step, ::step].astype(np.uint8)

    pixels, weight = every(max(1, longest // SAMPLED))
    if not weight.any():
        pixels, weight = every(1)
    _, spread = cv2.meanStdDev(pixels, mask=weight)
    if spread.max() >= SPREAD:
        return
    pixels, weight = every(max(1, longest // (3 * LOOKED_AT)))
    factor = max(1.0, max(weight.shape) / LOOKED_AT)
    size = max(1, round(weight.shape[1] / factor)), max(1, round(weight.shape[0] / factor))
    looked_at = resized(pixels, size)[resized(weight, size) > 0]
    if np.ptp(looked_at, axis=0).max() < RANGE:
        raise RoiNotFound("the frame is blank")
