"""Draws what the pipeline found onto a frame, for people."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.types import BgrImage, FloatArray

_BOX_BGR = (64, 64, 255)
_OUTLINE_BGR = (0, 0, 0)
_HEAT_OPACITY = 0.7


def draw_boxes(bgr: BgrImage, boxes: npt.NDArray[np.int32]) -> BgrImage:
    """Return `bgr` with `boxes` (K, 4), xyxy in its pixels, x2 and y2 exclusive; each stands out on any background."""
    drawn = bgr.copy()
    thickness = max(2, round(max(bgr.shape[:2]) / 450))
    for x1, y1, x2, y2 in boxes.tolist():
        # a black line on both sides of the red one: aluminium is bright, its shadows are dark
        for colour, width in ((_OUTLINE_BGR, thickness + 2), (_BOX_BGR, thickness)):
            cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), colour, width)
    return drawn


def draw_heatmap(
    bgr: BgrImage, anomaly_map: FloatArray, xyxy: tuple[float, float, float, float], *, tau: float
) -> BgrImage:
    """Return `bgr` with the anomaly map laid over it.

    Args:
        bgr: (H, W, 3) uint8.
        anomaly_map: (rows, cols) float32, distances; 0 where nothing counts.
        xyxy: where the map lies, in pixels of `bgr`; it may reach beyond the frame.
        tau: distance at which a patch is half way to full colour; below half of it nothing is drawn.
    """
    height, width = bgr.shape[:2]
    rows, cols = anomaly_map.shape
    if not rows or not cols:
        return bgr.copy()
    x1, y1, x2, y2 = xyxy
    step_x, step_y = (x2 - x1) / cols, (y2 - y1) / rows
    # a cell's value belongs to its centre, and so does OpenCV's pixel (0, 0)
    to_frame = np.array([[step_x, 0, x1 + (step_x - 1) / 2], [0, step_y, y1 + (step_y - 1) / 2]], dtype=np.float64)
    distances = cv2.warpAffine(anomaly_map, to_frame, (width, height), flags=cv2.INTER_LINEAR)
    heat = np.clip(distances / max(tau, 1e-6) - 0.5, 0.0, 1.0)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (np.sqrt(heat) * _HEAT_OPACITY)[..., None]
    blended: BgrImage = (bgr * (1 - opacity) + colours * opacity).astype(np.uint8)
    return blended
