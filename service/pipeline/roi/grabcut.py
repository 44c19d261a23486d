"""GrabCut on a reduced crop around the prompt box, its edge refined at twice that size.

Source: Rother, Kolmogorov, Blake, "GrabCut", SIGGRAPH 2004; cv2.grabCut.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from schemas.recipe import RoiRecipe
from service.errors import RoiNotFound
from service.pipeline.roi.candidates import row_spans
from service.pipeline.roi.coarse_box import Box, CoarseBox, pad_box
from service.pipeline.roi.edges import ByteMask
from service.pipeline.roi.finder import Prompt, Proposals
from service.pipeline.roi.mask_rules import IntBox, Scene, fill_holes, frame_box, largest_piece, within_box
from service.pipeline.types import BgrImage, Mask

CONTEXT_X, CONTEXT_Y = 0.25, 0.10
"""Surroundings shown to the background model, of the box's width and height."""

BAND = 2
"""Half width of the band that is decided again at twice the size, px of the first size."""


NO_RECT = (0, 0, 0, 0)
"""The trimap says where to look."""

ColourModel = npt.NDArray[np.float64]
"""(1, 65): five Gaussians, as cv2.grabCut lays them out."""


class GrabCut:
    """The segmenter that needs no weights."""

    name = "grabcut"

    def __init__(self, recipe: RoiRecipe) -> None:
        self._recipe = recipe

    def look(self, bgr: BgrImage) -> Prompt:
        """See `Segmenter.look`."""
        return lambda coarse, box: _propose(bgr, coarse, box, self._recipe)


class _Crop:
    """A reduced crop of a frame and the way between the two."""

    def __init__(self, bgr: BgrImage, box: Box, work_side: int) -> None:
        self.frame_wh = bgr.shape[1], bgr.shape[0]
        self.x1, self.y1, self.x2, self.y2 = frame_box(pad_box(box, CONTEXT_X, CONTEXT_Y, self.frame_wh))
        self.full = bgr[self.y1 : self.y2, self.x1 : self.x2]
        self.factor = min(1.0, work_side / max(self.full.shape[:2]))
        self.bgr = self.at(self.factor)
        height, width = self.bgr.shape[:2]
        self.scale_xy = width / self.full.shape[1], height / self.full.shape[0]

    def at(self, factor: float) -> BgrImage:
        """Return the crop at `factor`, at most 1, times its size in the frame."""
        height, width = self.full.shape[:2]
        size = max(1, round(width * min(factor, 1.0))), max(1, round(height * min(factor, 1.0)))
        return np.asarray(cv2.resize(self.full, size, interpolation=cv2.INTER_AREA), np.uint8)

    def box(self, box: Box) -> tuple[int, int, int, int]:
        """Return a box of the frame in pixels of the reduced crop."""
        (scale_x, scale_y), (x1, y1, x2, y2) = self.scale_xy, box
        return (
            round((x1 - self.x1) * scale_x),
            round((y1 - self.y1) * scale_y),
            round((x2 - self.x1) * scale_x),
            round((y2 - self.y1) * scale_y),
        )

    def silhouette(self, coarse: CoarseBox) -> Mask:
        """Return the coarse silhouette in pixels of the reduced crop."""
        (scale_x, scale_y), scale = self.scale_xy, coarse.scale
        to_crop = np.array([[scale_x / scale, 0, -self.x1 * scale_x], [0, scale_y / scale, -self.y1 * scale_y]])
        size = self.bgr.shape[1], self.bgr.shape[0]
        warped = cv2.warpAffine(coarse.silhouette.view(np.uint8), to_crop, size, flags=cv2.INTER_NEAREST)
        return warped.astype(np.bool_)

    def to_frame(self, mask: ByteMask) -> Mask:
        """Return a 0/1 mask of the crop, at any size, over the full frame."""
        size = self.full.shape[1], self.full.shape[0]
        frame = np.zeros((self.frame_wh[1], self.frame_wh[0]), np.bool_)
        # Blurred, or the steps of the smaller mask would show in the larger one.
        soft = cv2.GaussianBlur(mask * np.uint8(255), (0, 0), 1.2)
        smooth = cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)
        np.greater(smooth, 127, out=frame[self.y1 : self.y2, self.x1 : self.x2])
        return frame


def _propose(bgr: BgrImage, coarse: CoarseBox, box: Box, recipe: RoiRecipe) -> Proposals:
    crop = _Crop(bgr, box, recipe.work_side)
    scale_x, scale_y = crop.scale_xy
    width, height = crop.frame_wh
    scene = Scene(
        box=crop.box(box),
        core=crop.box(coarse.xyxy),
        frame=crop.box((0, 0, width, height)),
        frame_area=width * height * scale_x * scale_y,
    )
    seeds = seed(crop.silhouette(coarse), scene.box, scene.core, recipe.fg_inset)
    seen = np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if seen.all() or not seen.any():  # on a frame of a few pixels: no model of a class that has none
        raise RoiNotFound("the part or its surroundings have no pixel to begin with")
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    # The k-means behind GrabCut draws from OpenCV's generator, which each thread has of its own: same frame, same mask.
    cv2.setRNGSeed(0)
    cv2.grabCut(crop.bgr, seeds, NO_RECT, background, foreground, recipe.iterations, cv2.GC_INIT_WITH_MASK)
    mask = (seeds & 1).astype(np.bool_)
    return Proposals([(mask, 1.0)], scene, lambda ruled: crop.to_frame(_refine(crop, ruled, background, foreground)))


def seed(silhouette: Mask, box: IntBox, core: IntBox, inset: float) -> npt.NDArray[np.uint8]:
    """Return the trimap that GrabCut starts from.

    Surely foreground in the centre of the unpadded box, probably foreground in the silhouette of the coarse box,
    probably background as far around it as the box is padded, and surely background beyond.

    Args:
        silhouette: (h, w) bool.
        box: the prompt, in pixels of the silhouette.
        core: the coarse box before padding.
        inset: how far the sure centre stays away from the sides of `core`, of its width and height.

    Returns:
        (h, w) uint8 of cv2.GC_* values.
    """
    margin_x = max(core[0] - box[0], box[2] - core[2], 1)
    margin_y = max(core[1] - box[1], box[3] - core[3], 1)
    kernel = np.ones((2 * margin_y + 1, 2 * margin_x + 1), np.uint8)
    reach = within_box(cv2.dilate(row_spans(silhouette.view(np.uint8)), kernel).astype(np.bool_), box)
    trimap = np.where(reach, np.uint8(cv2.GC_PR_BGD), np.uint8(cv2.GC_BGD))
    trimap[silhouette & reach] = cv2.GC_PR_FGD
    x1, y1, x2, y2 = core
    dx, dy = round(inset * (x2 - x1)), round(inset * (y2 - y1))
    trimap[max(y1 + dy, 0) : y2 - dy, max(x1 + dx, 0) : x2 - dx] = cv2.GC_FGD
    return trimap


def _refine(crop: _Crop, mask: Mask, background: ColourModel, foreground: ColourModel) -> ByteMask:
    """Return the mask at twice the size of the crop, a narrow band along its edge decided again."""
    finer = crop.at(2 * crop.factor)
    coarse = cv2.resize(mask.view(np.uint8), (finer.shape[1], finer.shape[0]), interpolation=cv2.INTER_NEAREST)
    kernel = np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8)
    inner, outer = cv2.erode(coarse, kernel), cv2.dilate(coarse, kernel)
    trimap = np.where(coarse, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_PR_BGD))
    trimap[inner > 0] = cv2.GC_FGD
    trimap[outer == 0] = cv2.GC_BGD
    if inner.any() and not outer.all():
        cv2.grabCut(finer, trimap, NO_RECT, background, foreground, 1, cv2.GC_EVAL_FREEZE_MODEL)
    return fill_holes(largest_piece((trimap & 1).astype(np.bool_))).view(np.uint8)
