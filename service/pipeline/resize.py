"""Pictures and maps at another size."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", np.uint8, np.float32)


def resized(image: npt.NDArray[Number], size_wh: tuple[int, int]) -> npt.NDArray[Number]:
    """Return `image` (H, W[, C]) at another size of the same shape: averaged where it shrinks, else interpolated."""
    height, width = image.shape[:2]
    if size_wh[0] >= width:
        return _as(image, cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR))
    factor = width // size_wh[0]
    if factor % 2 and (width, height) == (factor * size_wh[0], factor * size_wh[1]):
        # the very means of INTER_AREA, whose own way at odd factors is not vectorised, in two thirds of the time
        means = cv2.blur(image, (factor, factor))
        return _as(image, cv2.resize(means, size_wh, interpolation=cv2.INTER_NEAREST_EXACT))
    return _as(image, cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA))


def laid_over(
    cells: npt.NDArray[np.float32], xyxy: tuple[float, float, float, float], size_wh: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return a map of cells (rows, cols), not empty, over a picture: (H, W) float32, interpolated, 0 beside the map.

    xyxy: where the map lies, in pixels of the picture; it may reach beyond it.
    """
    x1, y1, x2, y2 = xyxy
    step_x, step_y = (x2 - x1) / cells.shape[1], (y2 - y1) / cells.shape[0]
    # a cell's value belongs to its centre, and so does OpenCV's pixel (0, 0)
    placed = np.array([[step_x, 0, x1 + (step_x - 1) / 2], [0, step_y, y1 + (step_y - 1) / 2]], dtype=np.float64)
    return _as(cells, cv2.warpAffine(cells, placed, size_wh, flags=cv2.INTER_LINEAR))


def _as(image: npt.NDArray[Number], made: object) -> npt.NDArray[Number]:
    """Return what OpenCV made of `image`, whose type its stubs leave open."""
    return np.asarray(made, image.dtype)
