"""Edge energy of a frame, and the solid regions that its outlines enclose, at reduced size."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.types import BgrImage, FloatArray

ByteMask = npt.NDArray[np.uint8]

WORK_SIDE = 240
"""Longer side of the reduced frame, px: a canister of a tenth of the frame's width still has 24 columns."""

MAX_HOLE_FRAC = 0.4
"""A larger enclosed area, of the frame, is the table top or a tray inside its own outline, not a part."""


def reduction(frame_wh: tuple[int, int]) -> float:
    """Return the factor, at most 1, that brings the longer side of a frame to `WORK_SIDE`."""
    return min(1.0, WORK_SIDE / max(frame_wh))


def edge_energy(bgr: BgrImage) -> FloatArray:
    """Return the gradient magnitude of the reduced frame, the strongest of L, a and b.

    Args:
        bgr: (H, W, 3) uint8.

    Returns:
        (h, w) float32 with max(h, w) <= WORK_SIDE, in grey levels a pixel.
    """
    height, width = bgr.shape[:2]
    factor = reduction((width, height))
    reduced_wh = max(1, round(width * factor)), max(1, round(height * factor))
    reduced = cv2.resize(bgr, reduced_wh, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(cv2.GaussianBlur(reduced, (0, 0), 1.0), cv2.COLOR_BGR2LAB)
    # A Sobel kernel sums 4 differences over 2 pixels; a quarter keeps a step of n levels near n.
    along_x = cv2.Sobel(lab, cv2.CV_32F, 1, 0, scale=0.25)
    along_y = cv2.Sobel(lab, cv2.CV_32F, 0, 1, scale=0.25)
    lightness, green_red, blue_yellow = cv2.split(cv2.magnitude(along_x, along_y))
    return np.asarray(cv2.max(cv2.max(lightness, green_red), blue_yellow), np.float32)


def noise_floor(energy: FloatArray) -> float:
    """Return the edge energy that noise hardly reaches.

    The gradient magnitude of noise is Rayleigh distributed: 0.2% of its pixels exceed three medians.
    """
    return max(3.0 * float(np.median(energy)), 2.0)


def edge_levels(energy: FloatArray, floor: float, count: int) -> FloatArray:
    """Return up to `count` rising thresholds between the noise of the frame and its strongest edges.

    Args:
        energy: (h, w) float32, from `edge_energy`.
        floor: from `noise_floor`.
        count: how many thresholds.

    Returns:
        (count,) float32, or (0,) where nothing stands out from the noise: a blank frame.
    """
    ceiling = 0.6 * float(np.percentile(energy, 99.5))
    if ceiling <= floor:
        return np.empty(0, np.float32)
    return np.geomspace(floor, ceiling, count, dtype=np.float32)


def solid_regions(edges: npt.NDArray[np.bool_]) -> ByteMask:
    """Return the edges with the areas they enclose.

    Args:
        edges: (h, w) bool.

    Returns:
        (h, w) uint8 0/1; lines thinner than 3 px that enclose nothing are gone.
    """
    kernel = np.ones((5, 5), np.uint8)
    solid = np.asarray(cv2.morphologyEx(edges.astype(np.uint8), cv2.MORPH_CLOSE, kernel), np.uint8)
    contours, hierarchy = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return solid
    largest_hole = MAX_HOLE_FRAC * solid.size
    holes = [
        contour
        for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True)
        if parent >= 0 and cv2.contourArea(contour) < largest_hole
    ]
    for index in range(len(holes)):
        # One call for all of them would leave nested holes open (even-odd rule).
        cv2.drawContours(solid, holes, index, 1, cv2.FILLED)
    return np.asarray(cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
