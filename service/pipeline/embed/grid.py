"""What every embedder does between image and grid."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from service.pipeline.resize import resized
from service.pipeline.types import BgrImage, FloatArray, Mask, NormalizedRoi, PatchGrid

CELL_PX = 8
"""Side of the square of pixels that one vector of the starter and of the filter bank stands for."""
COARSEST_PX = 16
"""Sides of what they compute on are multiples of this."""
STEP_CELLS = COARSEST_PX // CELL_PX
ROUNDING = 1e-6
"""Of a mean over a cell."""
MARGIN_CELLS = 1
"""Around the part: what lies at its rim, cells that it covers by less than half among it, is seen from there."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The part and a little around it; what is farther away is not computed.

    bgr: (H, W, 3) uint8; covered: (H, W) float32, how much of a pixel lies on the part; H and W are multiples of
    COARSEST_PX. inside: (rows, cols) bool, the cells of the whole ROI on the part. cells: which of them this shows.
    """

    bgr: BgrImage
    covered: FloatArray
    inside: Mask
    cells: tuple[slice, slice]

    def grid(self, vectors: FloatArray) -> PatchGrid:
        """Return the vectors (rows, cols, D) of the cells that this shows, those on the part."""
        return PatchGrid(np.ascontiguousarray(vectors[self.inside[self.cells]]), self.inside)


def cut_out(roi: NormalizedRoi, side: int) -> Cut:
    """Return what is looked at of a ROI that is (side, side) large. Raises ValueError for an empty mask."""
    count = side // CELL_PX
    covered = resized(roi.mask.astype(np.float32), (side, side))
    inside = cells_inside(covered, count, count)
    cells = _bounds(inside, covered)
    pixels = tuple(slice(axis.start * CELL_PX, axis.stop * CELL_PX) for axis in cells)
    bgr = resized(roi.bgr, (side, side))[pixels]
    return Cut(np.ascontiguousarray(bgr), np.ascontiguousarray(covered[pixels]), inside, cells)


def cells_inside(covered: FloatArray, rows: int, cols: int) -> Mask:
    """Return which cells of a (rows, cols) grid lie on the object, which covers at least half of them.

    covered: (H, W) float32, how much of each pixel lies on the object. Where the object is thinner than that
    everywhere, the best covered cell counts: a frame always has a patch. Raises ValueError where nothing is covered.
    """
    if not covered.any():
        raise ValueError("an empty mask has no patches")
    of_cells = cv2.resize(covered, (cols, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(of_cells >= min(0.5, float(of_cells.max())) - ROUNDING, np.bool_)


def _bounds(inside: Mask, covered: FloatArray) -> tuple[slice, slice]:
    """Return rows and columns around the true cells, MARGIN_CELLS wider where the part is, a multiple of STEP_CELLS.

    They begin where the part does, not at a multiple: a part that stands elsewhere is then seen the same way.
    """

    def span(axis: int) -> slice:
        count = inside.shape[1 - axis]
        first, last = np.flatnonzero(inside.any(axis=axis))[[0, -1]].tolist()
        pixels = np.flatnonzero(covered.any(axis=axis))
        start = max(first - MARGIN_CELLS, int(pixels[0]) // CELL_PX)
        stop = min(last + 1 + MARGIN_CELLS, int(pixels[-1]) // CELL_PX + 1)
        lacking = (start - stop) % STEP_CELLS
        before = max(stop + lacking - count, 0)
        return slice(start - before, stop + lacking - before)

    return span(1), span(0)


def patch_grid(features: torch.Tensor, mask: Mask) -> PatchGrid:
    """Return the unit vectors inside the mask: features (D, rows, cols); mask (H, W) bool."""
    _, rows, cols = features.shape
    inside = cells_inside(mask.astype(np.float32), rows, cols)
    vectors = features.permute(1, 2, 0)[torch.as_tensor(inside, device=features.device)]
    return PatchGrid(torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy(), inside)
