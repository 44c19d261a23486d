"""From patch distances to patch scores: what sound parts have at their rim is evened out, and neighbours are averaged.

Sound parts differ most at their rim, where background, edge and light meet, so the largest distance of a sound frame
lies there far more often than its share of the area; and a single patch is noisier than damage is small. Both are taken
out before anything is decided: score, boxes and picture are of the same patch scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.types import FloatArray, Mask

RINGS = 6
"""Depths from the rim that are told apart, in patches; the last one is everything deeper."""
QUANTILE = 0.9
FEWEST = 100
"""Patches that a ring needs to have a level of its own."""
LOWEST_LEVEL = 1e-3

Rim = tuple[float, ...]
"""What distances are divided by in each ring, the outermost first; empty: by nothing."""


def rings(inside: Mask) -> npt.NDArray[np.int64]:
    """Return the ring of each patch of the part, 0 for the outermost: inside (rows, cols) bool, N true; (N,).

    Depth is the chessboard distance to what is not part; the border of the grid is a rim, too.
    """
    padded = np.pad(inside.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1]
    return np.minimum(np.rint(depth[inside]).astype(np.int64) - 1, RINGS - 1)


def rim_of(distances: Sequence[FloatArray], insides: Sequence[Mask], strength: float) -> Rim:
    """Return what evens out the rim, from held-back sound frames.

    A ring's level is its 0.9 quantile over that of all patches, to the power `strength`: 0 evens nothing out, 1 all. A
    ring with few patches has the level of its neighbours.

    distances: (N,) of each frame. insides: its grid.
    """
    if strength == 0:
        return ()
    values, ring = np.concatenate(distances), np.concatenate([rings(inside) for inside in insides])
    everywhere = float(np.quantile(values, QUANTILE))
    known = [each for each in range(RINGS) if np.count_nonzero(ring == each) >= FEWEST]
    if not known or everywhere <= 0:
        return ()
    levels = [float(np.quantile(values[ring == each], QUANTILE)) / everywhere for each in known]
    spread = np.interp(np.arange(RINGS), known, levels)
    return tuple(float(level) for level in np.maximum(spread, LOWEST_LEVEL) ** strength)


def patch_scores(distances: FloatArray, inside: Mask, rim: Rim, neighbourhood: int) -> FloatArray:
    """Return the score of each patch: its distance over its ring's level, then the mean of its neighbourhood.

    distances: (N,). inside: (rows, cols) bool, N true. rim: of `rim_of`. neighbourhood: side of the square of patches
    that are averaged, odd; those off the part do not count. Returns (N,) float32.
    """
    evened = distances / np.asarray(rim, np.float32)[rings(inside)] if rim else distances
    if neighbourhood == 1:
        return np.asarray(evened, np.float32)
    grid = np.zeros(inside.shape, np.float32)
    grid[inside] = evened
    total, count = (
        cv2.boxFilter(
            image, cv2.CV_32F, (neighbourhood, neighbourhood), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        for image in (grid, inside.astype(np.float32))
    )
    return np.asarray(total[inside] / count[inside], np.float32)
