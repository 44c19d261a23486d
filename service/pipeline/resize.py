"""Pictures at another size."""

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


def _as(image: npt.NDArray[Number], made: object) -> npt.NDArray[Number]:
    """Return what OpenCV made of `image`, whose type its stubs leave open."""
    return np.asarray(made, image.dtype)
