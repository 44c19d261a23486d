"""One frame as evidence: what was seen beside why."""

from __future__ import annotations

import cv2
import numpy as np

from service.evaluation.pictures import PAPER_BGR, draw_boxes, draw_heatmap
from service.evaluation.pixels import square_in_frame
from service.pipeline.types import BgrImage, Inspection, Mask

LONGEST_PX = 420
_TRUTH_BGR = (90, 220, 60)


def evidence_picture(inspection: Inspection, truth: Mask | None, *, patch_tau: float) -> BgrImage:
    """Return the frame with its boxes left and the anomaly map over it right, neither longer than 420 px.

    truth: (H, W) bool in the size of the frame; outlined where it is known. patch_tau: distance at which the map is
    half way to full colour.
    """
    prepared = inspection.prepared
    scale = LONGEST_PX / max(prepared.frame.width, prepared.frame.height)
    size_wh = (max(1, round(prepared.frame.width * scale)), max(1, round(prepared.frame.height * scale)))
    small = cv2.resize(
        prepared.frame.bgr, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    ).astype(np.uint8)
    corners = np.array([box.xyxy for box in inspection.boxes], np.float64).reshape(-1, 4) * scale
    boxed = draw_boxes(small, corners.round().astype(np.int32), [box.score for box in inspection.boxes])
    if truth is not None:
        outlines, _ = cv2.findContours(
            cv2.resize(truth.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST),
            cv2.RETR_EXTERNAL,
            cv2.CHAIN_APPROX_NONE,
        )
        cv2.drawContours(boxed, outlines, -1, _TRUTH_BGR, 1, cv2.LINE_AA)
    x1, y1, x2, y2 = (edge * scale for edge in square_in_frame(prepared.normalized))
    heat = draw_heatmap(small, inspection.anomaly_map, (x1, y1, x2, y2), tau=patch_tau)
    gap = np.full((size_wh[1], 6, 3), PAPER_BGR, np.uint8)
    return np.hstack([boxed, gap, heat])
