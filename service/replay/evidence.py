"""One part under two judgements, side by side."""

from __future__ import annotations

import cv2
import numpy as np

from schemas.messages import Verdict
from service.evaluation.pictures import PAPER_BGR, draw_boxes
from service.pipeline.types import BgrImage

LONGEST_PX = 420


def side_by_side(bgr: BgrImage, then: Verdict | None, now: Verdict | None) -> bytes:
    """Return a JPEG file: the frame with its boxes as recorded left, and with those of the replay right."""
    height, width = bgr.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(bgr, size_wh, interpolation=cv2.INTER_AREA).astype(np.uint8)
    gap = np.full((size_wh[1], 6, 3), PAPER_BGR, np.uint8)
    picture = np.hstack([_boxed(small, then, scale), gap, _boxed(small, now, scale)])
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _boxed(small: BgrImage, verdict: Verdict | None, scale: float) -> BgrImage:
    boxes = () if verdict is None else verdict.boxes
    corners = np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], np.float64).reshape(-1, 4) * scale
    return draw_boxes(small, corners.round().astype(np.int32), [box.score for box in boxes])
