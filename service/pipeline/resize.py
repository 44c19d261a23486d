"""Pictures at another size, without the slow way between whole factors."""

from __future__ import annotations

from typing import Any

import cv2
import numpy.typing as npt

Image = npt.NDArray[Any]


def resized(image: Image, size_wh: tuple[int, int]) -> Image:
    """Return `image` (H, W[, C]) at another size: interpolated where it grows, averaged where it shrinks.

    What shrinks is halved, by means of 2 x 2 pixels, as often as it can be; what is left of the factor, less than two,
    is interpolated. Means over areas of no whole number of pixels (cv2.INTER_AREA) take up to ten times as long.
    """
    width, height = size_wh
    halvings = max(min(image.shape[1] // width, image.shape[0] // height).bit_length() - 1, 0)
    while halvings and image.shape[0] % 2 == image.shape[1] % 2 == 0:
        image, halvings = _halved(image), halvings - 1
    between = width << halvings, height << halvings
    if between != image.shape[1::-1]:
        image = cv2.resize(image, between, interpolation=cv2.INTER_LINEAR)
    for _ in range(halvings):
        image = _halved(image)
    return image


def _halved(image: Image) -> Image:
    rows, cols = image.shape[:2]
    return cv2.resize(image, (cols // 2, rows // 2), interpolation=cv2.INTER_AREA)
