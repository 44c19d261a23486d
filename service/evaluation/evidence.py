"""One frame as evidence: what was seen beside why."""

from __future__ import annotations

import cv2
import numpy as np

from service.evaluation.pictures import PAPER_BGR, draw_boxes, draw_heatmap
from service.pipeline.resize import resized
from service.pipeline.types import BgrImage, Inspection, Mask

LONGEST_PX = 420
JPEG_QUALITY = 85
_MARGIN = 0.08
_TRUTH_BGR = (90, 220, 60)


def evidence_picture(inspection: Inspection, truth: Mask | None, *, patch_tau: float) -> BgrImage:
    """Return the part with its boxes left and the anomaly map over it right, the longer side of each 420 px.

    truth: (H, W) bool in the size of the frame, inside the picture and outlined where it is known. patch_tau: distance
    at which the map is half way to full colour.
    """
    prepared = inspection.prepared
    left, top, right, bottom = _view(inspection, truth)
    scale = LONGEST_PX / max(right - left, bottom - top)
    size_wh = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    small = resized(prepared.frame.bgr[top:bottom, left:right], size_wh)
    origin = np.array([left, top, left, top])
    corners = (np.array([box.xyxy for box in inspection.boxes], np.float64).reshape(-1, 4) - origin) * scale
    boxed = draw_boxes(small, corners.round().astype(np.int32), [box.score for box in inspection.boxes])
    if truth is not None:
        seen = cv2.resize(truth[top:bottom, left:right].astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(seen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(boxed, outlines, -1, _TRUTH_BGR, 1, cv2.LINE_AA)
    x1, y1, x2, y2 = ((np.array(prepared.normalized.square_xyxy) - origin) * scale).tolist()
    heat = draw_heatmap(small, inspection.anomaly_map, (x1, y1, x2, y2), tau=patch_tau)
    gap = np.full((size_wh[1], 6, 3), PAPER_BGR, np.uint8)
    return np.hstack([boxed, gap, heat])


def evidence_jpeg(inspection: Inspection, truth: Mask | None, *, patch_tau: float) -> bytes:
    """Return `evidence_picture` as a JPEG file: thirty times smaller to keep and to send."""
    picture = evidence_picture(inspection, truth, patch_tau=patch_tau)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _view(inspection: Inspection, truth: Mask | None) -> tuple[int, int, int, int]:
    """Return the part of the frame worth showing, xyxy: the ROI, every box and the true damage, and some margin."""
    prepared = inspection.prepared
    shown = [prepared.roi.xyxy, *(box.xyxy for box in inspection.boxes)]
    if truth is not None:
        x, y, width, height = cv2.boundingRect(truth.astype(np.uint8))
        shown.append((x, y, x + width, y + height))
    corners = np.array(shown)
    left, top = corners[:, :2].min(axis=0).tolist()
    right, bottom = corners[:, 2:].max(axis=0).tolist()
    margin = round(_MARGIN * max(right - left, bottom - top))
    frame = prepared.frame
    return (
        max(0, left - margin),
        max(0, top - margin),
        min(frame.width, right + margin),
        min(frame.height, bottom + margin),
    )
