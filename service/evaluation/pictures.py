"""Draws what the pipeline found, for people. Pictures are (H, W, 3) uint8 BGR."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from service.pipeline.resize import laid_over, resized
from service.pipeline.types import BgrImage, FloatArray, Inspection, Roi

Colour = tuple[int, int, int]

OK_BGR: Colour = (70, 140, 30)
DAMAGED_BGR: Colour = (40, 40, 200)
PAPER_BGR: Colour = (250, 250, 250)
INK_BGR: Colour = (70, 70, 70)
_BOX_BGR: Colour = (64, 64, 255)
_EDGE_BGR: Colour = (0, 0, 0)
_ROI_BGR: Colour = (230, 190, 60)
_HEAT_OPACITY = 0.7

_FONT = cv2.FontFace("sans")
_BOLD, _REGULAR = 700, 400

COMPARISON_HEIGHT = 720
HEADLINE_HEIGHT = 64


def mask_picture(roi: Roi) -> npt.NDArray[np.uint8]:
    """Return the mask over the full frame: (H, W) uint8, 255 on the canister, 0 elsewhere."""
    return roi.mask.astype(np.uint8) * np.uint8(255)


def draw_boxes(bgr: BgrImage, boxes: npt.NDArray[np.int32], scores: Sequence[float] = ()) -> BgrImage:
    """Return `bgr` with `boxes` (K, 4), xyxy in its pixels, x2 and y2 exclusive; each stands out on any background.

    scores: written on a tag at each box; empty for no tags.
    """
    drawn = bgr.copy()
    thickness = max(2, round(max(bgr.shape[:2]) / 320))
    for x1, y1, x2, y2 in boxes.tolist():
        # a black line on both sides of the red one: aluminium is bright, its shadows are dark
        for colour, width in ((_EDGE_BGR, thickness + 2), (_BOX_BGR, thickness)):
            cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), colour, width)
    for (x1, y1, _, _), score in zip(boxes.tolist(), scores, strict=bool(scores)):
        _draw_tag(drawn, f"{score:.2f}", (x1, y1), 8 * thickness)
    return drawn


def draw_roi(bgr: BgrImage, roi: Roi) -> BgrImage:
    """Return `bgr`, the full frame, with the outline of the canister."""
    outlines, _ = cv2.findContours(roi.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(bgr.shape[:2]) / 800))
    return np.asarray(cv2.drawContours(bgr.copy(), outlines, -1, _ROI_BGR, thickness, cv2.LINE_AA), np.uint8)


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
    if not anomaly_map.size:
        return bgr.copy()
    distances = laid_over(anomaly_map, xyxy, (width, height))
    heat = np.clip(distances / max(tau, 1e-6) - 0.5, 0.0, 1.0)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (np.sqrt(heat) * _HEAT_OPACITY)[..., None]
    blended: BgrImage = (bgr * (1 - opacity) + colours * opacity).astype(np.uint8)
    return blended


def comparison_picture(inspection: Inspection, title: str = "") -> BgrImage:
    """Return the normalised ROI left and the frame with its boxes right, under the decision, s and tau.

    Words and line are green for OK and red for DAMAGED; `title` stands at the right end where there is room.
    """
    prepared = inspection.prepared
    boxes = np.array([box.xyxy for box in inspection.boxes], np.int32).reshape(-1, 4)
    boxed = draw_boxes(draw_roi(prepared.frame.bgr, prepared.roi), boxes, [box.score for box in inspection.boxes])
    gap = np.full((COMPARISON_HEIGHT, 12, 3), PAPER_BGR, np.uint8)
    body = np.hstack([_at_height(prepared.normalized.bgr), gap, _at_height(boxed)])
    return np.vstack([_headline(inspection, title, body.shape[1]), body])


def _headline(inspection: Inspection, title: str, width: int) -> BgrImage:
    decision, relation, colour = ("DAMAGED", "≥", DAMAGED_BGR) if inspection.damaged else ("OK", "<", OK_BGR)
    words = f"{decision}   s {inspection.score:.4f} {relation} tau {inspection.threshold:.4f}"
    bar = np.full((HEADLINE_HEIGHT, width, 3), PAPER_BGR, np.uint8)
    end, _ = cv2.putText(bar, words + "   uncertain" * inspection.uncertain, (14, 39), colour, _FONT, 28, _BOLD)
    title_width = _text_width(title, 18, _REGULAR)
    if end[0] + title_width + 28 < width:
        cv2.putText(bar, title, (width - title_width - 14, 38), INK_BGR, _FONT, 18, _REGULAR)
    bar[-8:-2] = colour
    return bar


def _draw_tag(picture: BgrImage, text: str, corner_xy: tuple[int, int], size: int) -> None:
    """Write `text` on a tag that stands on the corner, or hangs from it where there is no room above."""
    width, height = _text_width(text, size, _BOLD) + size // 2, round(1.3 * size)
    x = max(0, min(corner_xy[0], picture.shape[1] - width))
    y = corner_xy[1] if corner_xy[1] >= height else corner_xy[1] + height
    cv2.rectangle(picture, (x, y - height), (x + width, y), _BOX_BGR, cv2.FILLED)
    cv2.putText(picture, text, (x + size // 4, y - round(0.3 * size)), PAPER_BGR, _FONT, size, _BOLD)


def _text_width(text: str, size: int, weight: int) -> int:
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _FONT, size, weight)
    return width


def _at_height(bgr: BgrImage) -> BgrImage:
    """Return the picture scaled to the height of a comparison."""
    size_wh = (max(1, round(bgr.shape[1] * COMPARISON_HEIGHT / bgr.shape[0])), COMPARISON_HEIGHT)
    return resized(bgr, size_wh)
